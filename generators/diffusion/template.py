"""A space group with its occupied Wyckoff orbits, without chemistry: what `symmetry` finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .wyckoff import GRID, digest

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Template:
    """A space group with its occupied orbits, n atoms in m orbits.

    Args:
        spacegroup: number, 1 to 230.
        orbit: (n,) orbit of each atom, 0 to m - 1, numbered by first atom. The first atom of an orbit is
            its representative.
        rotation: (n, 3, 3) R_i in fractional coordinates, takes the representative to atom i; the
            identity for the representative.
        free: (n, 3, 3) Q, the orthogonal (in fractional space) projection on the directions in which
            the representative may move; the same for all atoms of an orbit.
        offset: (n, 3) c_i, in [0, 1).
        metric: (6, 6) projection A of metric 6-vectors (`lattice.metric_of`) on those the group allows.
        key: equal keys mean the same crystals up to the origin and the order of the atoms.
    """

    spacegroup: int
    orbit: NDArray[np.int64]
    rotation: NDArray[np.int8]
    free: Float
    offset: Float
    metric: Float
    key: str

    def __len__(self) -> int:
        return len(self.orbit)

    @property
    def n_orbits(self) -> int:
        """Number of orbits m."""
        return int(self.orbit.max()) + 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(m,) atoms of each orbit."""
        return np.bincount(self.orbit).astype(np.int64)

    @cached_property
    def representatives(self) -> NDArray[np.int64]:
        """(m,) index of the first atom of each orbit."""
        return np.asarray(np.unique(self.orbit, return_index=True)[1])

    @property
    def freedom(self) -> NDArray[np.int64]:
        """(m,) free coordinates of each orbit, 0 to 3."""
        traces = np.trace(self.free[self.representatives], axis1=1, axis2=2)
        return np.asarray(np.rint(traces), dtype=np.int64)

    @property
    def lattice_freedom(self) -> int:
        """Free lattice parameters, 1 (cubic) to 6 (triclinic)."""
        return round(float(np.trace(self.metric)))

    def coordinates(self, shifts: Float) -> Float:
        """(n, 3) fractional coordinates in [0, 1) of the template's crystal with (m, 3) parameters u."""
        moved = (self.rotation @ self.free) @ shifts[self.orbit][..., None]
        return wrapped(self.offset + moved[..., 0])


def p1(n: int) -> Template:
    """The template of any crystal of n atoms: each is its own orbit, nothing is held."""
    eye = np.eye(3)
    return Template(
        spacegroup=1,
        orbit=np.arange(n),
        rotation=np.tile(eye.astype(np.int8), (n, 1, 1)),
        free=np.tile(eye, (n, 1, 1)),
        offset=np.zeros((n, 3)),
        metric=np.eye(6),
        key=digest("1", str(n)),
    )


def wrapped(frac: Float) -> Float:
    """Fractional coordinates in [0, 1); values within 1e-9 of 1 become 0."""
    inside = frac - np.floor(frac)
    inside[inside > 1 - 1e-9] = 0.0
    return inside


def rational(values: Float) -> Float:
    """Values rounded to float32 put back on the fraction within 1e-6, where there is one.

    Offsets and projections of templates are fractions; the directions (1 2 0), (1 2 3), (1 1 3) ...
    bring 5, 7, 11 ... into the denominators.
    """
    exact = values.copy()
    for prime in (13, 11, 7, 5, 1):  # the smallest last: it wins
        near = np.rint(values * prime * GRID) / (prime * GRID)
        exact = np.where(np.abs(near - values) < 1e-6, near, exact)
    return exact
