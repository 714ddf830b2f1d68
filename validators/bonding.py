"""How far the bonds of a crystal reach: 0 molecules, 1 chains, 2 layers, 3 frameworks.

Larsen, Pandey, Strange and Jacobsen, Phys. Rev. Materials 3, 034003 (2019),
doi:10.1103/PhysRevMaterials.3.034003: bonds are added from the shortest on, by k = distance over the sum
of covalent radii; a dimensionality scores by how wide an interval of k it survives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from .geometry import periodic_images, reduced_cell, require_computable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.crystal import Crystal

SEARCH = (1.3, 2.0)
"""Largest k looked at: first, and if need be. All beyond scores 0.02 and decides nothing."""

_WIDTH = 0.15  # of the paper's scoring function, equation 4

Shift = tuple[int, int, int]


@dataclass(frozen=True)
class Dimensionality:
    """The dimensionality of the bonded components that reach farthest.

    Args:
        value: 0 to 3. score: of the interval of k in which it holds, 0 to 1; the four sum to 1.
    """

    value: int
    score: float


def dimensionality(crystal: Crystal) -> Dimensionality:
    """Of a crystal, by the scoring parameter of Larsen et al. with the radii of Cordero et al. (2008).

    Unlike the paper, components of lower dimensionality beside the farthest reaching are not told apart
    ("0D+2D" is 2D).

    Raises:
        ValueError: the cell is not finite, has no volume, or is too thin.
    """
    reached = thresholds(crystal)
    marks = [0.0, *(_mark(k) for k in reached), 1.0]
    scores = [after - before for before, after in pairwise(marks)]
    value = int(np.argmax(scores))
    return Dimensionality(value, scores[value])


def thresholds(crystal: Crystal) -> tuple[float, float, float]:
    """Smallest k at which some component is periodic in 1, 2 and 3 directions; infinity beyond 2.

    Raises:
        ValueError: as `dimensionality`.
    """
    for search in SEARCH:
        reached = [np.inf] * 3
        components = _Components(len(crystal))
        for k, i, j, shift in _bonds(crystal, search):
            rank = components.join(i, j, shift)
            for d in range(rank):
                reached[d] = min(reached[d], k)
            if rank == 3:
                return reached[0], reached[1], reached[2]
    return reached[0], reached[1], reached[2]


def _bonds(crystal: Crystal, search: float) -> list[tuple[float, int, int, Shift]]:
    """All bonds with a k of at most `search`: k, the two atoms, the cell of the second, by rising k."""
    require_computable(crystal)
    basis, frac = reduced_cell(crystal)
    radii = _radii()[crystal.atomic_numbers]
    reach = search * 2 * float(radii.max())
    images, owner = periodic_images(basis, frac, frac, reach)
    near = cKDTree(frac @ basis).sparse_distance_matrix(cKDTree(images), reach, output_type="ndarray")
    i, image = near["i"], near["j"]
    j = owner[image]
    k = near["v"] / (radii[i] + radii[j])
    kept = (k <= search) & (i <= j) & (near["v"] > 1e-6)
    order = np.flatnonzero(kept)[np.argsort(k[kept], kind="stable")]
    i, j, k = i[order], j[order], k[order]
    cells = np.rint(images[image[order]] @ np.linalg.inv(basis) - frac[j]).astype(int)
    shifts = ((a, b, c) for a, b, c in cells.tolist())
    return list(zip(k.tolist(), i.tolist(), j.tolist(), shifts, strict=True))


class _Components:
    """Connected atoms, the cell each lies in, and the lattice vectors that map them onto themselves.

    A disjoint set whose links carry lattice vectors.
    """

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))
        self._shift: list[Shift] = [(0, 0, 0)] * n  # of an atom against its parent
        self._periods: list[list[Shift]] = [[] for _ in range(n)]  # independent; at the root

    def join(self, i: int, j: int, shift: Shift) -> int:
        """Bond atom i to atom j of the cell `shift`; the number of independent periods they have now."""
        (a, to_i), (b, to_j) = self._root(i), self._root(j)
        # Root b's cell against root a's; where they are one, a lattice vector that maps it onto itself.
        period = (
            shift[0] + to_i[0] - to_j[0],
            shift[1] + to_i[1] - to_j[1],
            shift[2] + to_i[2] - to_j[2],
        )
        if a == b:
            self._add(a, period)
            return len(self._periods[a])
        self._parent[b], self._shift[b] = a, period
        for old in self._periods[b]:
            self._add(a, old)
        return len(self._periods[a])

    def _add(self, root: int, period: Shift) -> None:
        periods = self._periods[root]
        if len(periods) < 3 and _independent(periods, period):
            periods.append(period)

    def _root(self, i: int) -> tuple[int, Shift]:
        """The root of an atom's component, and the atom's cell against it; shortens the way."""
        x = y = z = 0
        at = i
        while self._parent[at] != at:
            dx, dy, dz = self._shift[at]
            x, y, z = x + dx, y + dy, z + dz
            at = self._parent[at]
        if at != i:
            self._parent[i], self._shift[i] = at, (x, y, z)
        return at, (x, y, z)


def _independent(periods: list[Shift], new: Shift) -> bool:
    if not periods:
        return any(new)
    a, c = periods[0], new
    if len(periods) == 1:
        return any(_cross(a, c))
    return sum(x * y for x, y in zip(_cross(a, periods[1]), c, strict=True)) != 0


def _cross(a: Shift, b: Shift) -> Shift:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _mark(k: float) -> float:
    """The paper's scoring function of k."""
    if not np.isfinite(k):
        return 1.0
    x = (max(0.0, k - 1) / _WIDTH) ** 2
    return x / (1 + x)


@lru_cache(maxsize=1)
def _radii() -> NDArray[np.float64]:
    """Covalent radii in angstrom by atomic number (Cordero et al.); 0.2 where none is known."""
    from ase.data import covalent_radii

    return np.asarray(covalent_radii, dtype=np.float64)
