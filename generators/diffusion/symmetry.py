"""What a space group lets a crystal do: which atoms move together, in which directions, in which cells.

A template is a space group with its occupied Wyckoff orbits in one primitive cell, without chemistry
and without the values of the free parameters. Every crystal of a template is

    x_i = c_i + R_i Q u_o (mod 1),   G = A G0

with one u in R^3 for each orbit o and any metric tensor G0; R_i, Q, c_i and A are the template's. So
noise that is projected the same way stays in the space group.

The operations come from spglib (A. Togo et al., Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024)).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.crystal import Crystal
from ...core.errors import InputError
from .arrays import load_arrays, save_arrays
from .lattice import metric_rotation
from .template import Float, Template, p1, wrapped
from .wyckoff import GRID, key_of

__all__ = ["SYMPREC", "Template", "TemplateLibrary", "find_template", "p1", "right_handed"]

SYMPREC = 0.1  # angstrom; the tolerance of the space groups of the Materials Project
_TIGHTER = (0.03, 0.01)  # tried where the group found is none of this cell's or too far off


def lower_cell(metric: Float) -> Float:
    """(3, 3) lower-triangular cell of a (3, 3) metric tensor: right-handed.

    Raises:
        ValueError: the metric is not positive definite.
    """
    try:
        return np.asarray(np.linalg.cholesky(metric), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError("the cell is flat or not finite") from error


def right_handed(crystal: Crystal) -> Crystal:
    """The same crystal with the cell vectors reversed where they are left-handed."""
    if np.linalg.det(crystal.lattice) > 0:
        return crystal
    return Crystal(-crystal.lattice, -crystal.frac_coords, crystal.atomic_numbers)


def find_template(crystal: Crystal, symprec: float = SYMPREC) -> tuple[Template, Crystal]:
    """The template of a crystal, and the crystal made exactly symmetric.

    The cell is used as it is and should be primitive: tolerances at which it is not are passed over. The
    symmetric crystal keeps the setting of the cell and the order of the atoms; its cell is lower
    triangular, its origin the standard one of its space group, and apart from that shift no atom and
    no cell vector is further than 2 `symprec` from where it was. Where no tolerance gives such a group,
    the answer is P1 and the crystal as it was.

    Raises:
        ValueError: a flat or non-finite cell, or non-finite coordinates.
    """
    crystal = right_handed(crystal)
    cell = lower_cell(crystal.lattice @ crystal.lattice.T)
    if not (np.isfinite(cell).all() and np.isfinite(crystal.frac_coords).all()):
        raise ValueError("the cell or the coordinates are not finite")
    for tolerance in (symprec, *(t for t in _TIGHTER if t < symprec)):
        group = _group_of(cell, crystal, tolerance)
        if group and group.number == 1:
            break
        found = group and _symmetrised(cell, crystal, group, tolerance)
        if group and found:
            return _template_of(found[0], group, found[1]), found[0]
    return p1(len(crystal)), Crystal(cell, crystal.frac_coords, crystal.atomic_numbers)


class _Group(NamedTuple):
    """Operations x -> W x + w of a primitive cell, about the standard origin, which lies at -`shift`."""

    number: int
    rotations: Float  # (g, 3, 3); the identity is the first
    translations: Float  # (g, 3), multiples of 1 / GRID in [0, 1)
    shift: Float  # (3,) to be added to the coordinates of the crystal


def _group_of(cell: Float, crystal: Crystal, symprec: float) -> _Group | None:
    """The group spglib finds; None where it finds none, or one with translations inside the cell."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its change of error handling
        try:
            spglib_cell: Any = (cell, crystal.frac_coords, crystal.atomic_numbers)
            found = spglib.get_symmetry_dataset(spglib_cell, symprec=symprec)
        except spglib.error.SpglibError:  # its new error handling; the old one returns None
            return None
    if found is None:
        return None
    rotations = np.asarray(found.rotations, dtype=np.float64)
    if len(np.unique(rotations, axis=0)) != len(rotations) or (rotations[0] != np.eye(3)).any():
        return None
    # spglib: x_standard = P x + p, so about x = -P^-1 p the operations have their tabulated form.
    shift = np.asarray(np.linalg.solve(found.transformation_matrix, found.origin_shift), np.float64)
    exact = GRID * (found.translations + shift - rotations @ shift)
    if np.abs(exact - np.rint(exact)).max() > 1e-3:
        return None
    return _Group(int(found.number), rotations, np.rint(exact) % GRID / GRID, shift)


def _symmetrised(
    cell: Float, crystal: Crystal, group: _Group, symprec: float
) -> tuple[Crystal, NDArray[np.int64]] | None:
    """The symmetric crystal and (g, n) where each operation takes each atom; None where it is too far.

    An atom's place is the mean over all operations of the images that fall on it.
    """
    metric_vector = _averaged_metric(group.rotations.tobytes()) @ _vector(cell @ cell.T)
    symmetric_cell = lower_cell(_matrix(metric_vector))
    here = crystal.frac_coords + group.shift
    images = np.einsum("gij,nj->gni", group.rotations, here) + group.translations[:, None]
    gaps = images[:, :, None] - here  # (g, n from, n to, 3)
    gaps -= np.rint(gaps)
    far = np.linalg.norm(gaps @ cell, axis=-1)
    far[:, crystal.atomic_numbers[:, None] != crystal.atomic_numbers] = np.inf
    target = far.argmin(axis=-1)
    n = len(crystal)
    if (np.sort(target, axis=1) != np.arange(n)).any():
        return None
    gap = np.take_along_axis(gaps, target[:, :, None, None], axis=2)[:, :, 0]
    step = np.zeros((n, 3))
    np.add.at(step, target, gap)
    step /= len(group.rotations)
    limit = 2 * symprec
    if (
        np.linalg.norm(step @ cell, axis=1).max() > limit
        or np.linalg.norm(symmetric_cell - cell, axis=1).max() > limit
    ):
        return None
    return Crystal(symmetric_cell, wrapped(here + step), crystal.atomic_numbers), target


def _template_of(crystal: Crystal, group: _Group, target: NDArray[np.int64]) -> Template:
    """The template of a symmetric crystal whose atoms the operations permute as `target` says."""
    n = len(crystal)
    representative = target.min(axis=0)  # of the atoms an atom goes to, the first
    first, orbit = np.unique(representative, return_inverse=True)
    rotation = np.empty((n, 3, 3))
    free = np.empty((n, 3, 3))
    for o, atom in enumerate(first):
        stays = group.rotations[target[:, atom] == atom].mean(axis=0)
        free[orbit == o] = stays @ np.linalg.pinv(
            stays
        )  # on the image of the mean: what all leave fixed
        for i in np.flatnonzero(orbit == o):
            rotation[i] = group.rotations[int((target[:, atom] == i).argmax())]
    free = np.round(free, 12)
    at_home = (rotation @ free) @ crystal.frac_coords[representative][..., None]
    return Template(
        spacegroup=group.number,
        orbit=orbit.astype(np.int64),
        rotation=rotation.astype(np.int8),
        free=free,
        offset=wrapped(crystal.frac_coords - at_home[..., 0]),
        metric=_averaged_metric(group.rotations.tobytes()),
        key=key_of(
            group.number,
            group.rotations,
            group.translations,
            crystal.frac_coords,
            orbit,
            rotation @ free @ np.linalg.inv(rotation),
        ),
    )


@lru_cache(maxsize=1024)
def _averaged_metric(rotations: bytes) -> Float:
    """(6, 6) mean over the group of G -> W^T G W."""
    group = np.frombuffer(rotations, np.float64).reshape(-1, 3, 3)
    return np.asarray(np.mean([metric_rotation(w) for w in group], axis=0))


def _vector(metric: Float) -> Float:
    """Metric tensor to its 6-vector."""
    return metric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _matrix(vector: Float) -> Float:
    """6-vector to metric tensor."""
    a, b, c, bc, ac, ab = vector
    return np.array([[a, ab, ac], [ab, b, bc], [ac, bc, c]])


class TemplateLibrary:
    """Distinct templates with how often each was seen.

    Attributes:
        spacegroup, n_atoms, counts, n_orbits: (m,) int64 arrays.
        sizes: m sorted tuples of the atoms of each orbit.
    """

    def __init__(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """From the arrays that `save` writes; `from_templates` and `load` are the ways in."""
        self._arrays = arrays
        self.spacegroup: NDArray[np.int64] = arrays["spacegroup"].astype(np.int64)
        self.n_atoms: NDArray[np.int64] = arrays["n_atoms"].astype(np.int64)
        self.counts: NDArray[np.int64] = arrays["counts"].astype(np.int64)
        self._ends = np.cumsum(self.n_atoms)
        orbits = np.split(arrays["orbit"], self._ends[:-1])
        self.sizes = [tuple(sorted(np.bincount(orbit).tolist())) for orbit in orbits]
        self.n_orbits = np.array([len(sizes) for sizes in self.sizes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __getitem__(self, i: int) -> Template:
        if not -len(self) <= i < len(self):
            raise IndexError(f"template {i} of {len(self)}")
        a = self._arrays
        atoms = slice(self._ends[i] - self.n_atoms[i], self._ends[i])
        return Template(
            spacegroup=int(self.spacegroup[i]),
            orbit=a["orbit"][atoms].astype(np.int64),
            rotation=a["rotations"][a["rotation"][atoms]].reshape(-1, 3, 3).astype(np.int8),
            free=a["frees"][a["free"][atoms]].reshape(-1, 3, 3).astype(np.float64),
            offset=a["offsets"][a["offset"][atoms]].reshape(-1, 3).astype(np.float64),
            metric=a["metrics"][a["metric"][i]].reshape(6, 6).astype(np.float64),
            key=str(a["key"][i]),
        )

    @classmethod
    def from_templates(cls, templates: Iterable[Template]) -> TemplateLibrary:
        """Distinct templates by key, the first seen of each, in the order in which they came.

        Raises:
            ValueError: no templates.
        """
        kept: dict[str, Template] = {}
        counts: dict[str, int] = {}
        for template in templates:
            kept.setdefault(template.key, template)
            counts[template.key] = counts.get(template.key, 0) + 1
        if not kept:
            raise ValueError("no templates")
        every = list(kept.values())
        arrays: dict[str, NDArray[np.generic]] = {
            "key": np.array(list(kept)),
            "counts": np.array(list(counts.values()), dtype=np.uint32),
            "spacegroup": np.array([t.spacegroup for t in every], dtype=np.uint8),
            "n_atoms": np.array([len(t) for t in every], dtype=np.uint16),
            "orbit": np.concatenate([t.orbit for t in every]).astype(np.uint8),
        }
        for name, rows in (
            ("rotation", np.concatenate([t.rotation.reshape(-1, 9) for t in every])),
            ("free", np.concatenate([t.free.reshape(-1, 9) for t in every])),
            ("offset", np.concatenate([t.offset for t in every])),
            ("metric", np.stack([t.metric.ravel() for t in every])),
        ):
            values, index = np.unique(np.round(rows, 12) + 0.0, axis=0, return_inverse=True)
            arrays[f"{name}s"] = values.astype(np.int8) if name == "rotation" else values
            arrays[name] = index.ravel().astype(np.uint16 if len(values) < 2**16 else np.uint32)
        return cls(arrays)

    def save(self, path: Path) -> None:
        """Write an npz file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        save_arrays(path, self._arrays, "the templates")

    @classmethod
    def load(cls, path: Path) -> TemplateLibrary:
        """Inverse of `save`.

        Raises:
            InputError: no such file, damaged, or not of this kind.
        """
        arrays = load_arrays(path, _STORED, "templates")
        total = int(arrays["n_atoms"].astype(np.int64).sum())
        fits = (
            all(len(arrays[name]) == total for name in ("orbit", "rotation", "free", "offset"))
            and all(len(arrays[name]) == len(arrays["n_atoms"]) for name in _STORED[:4])
            and all(arrays[name].max() < len(arrays[f"{name}s"]) for name in _STORED[-4:])
        )
        if not (total and fits):
            raise InputError(f"{path}: the arrays do not belong together")
        return cls(arrays)


_STORED = (
    *("key", "counts", "spacegroup", "metric", "n_atoms", "orbit"),
    *("rotations", "frees", "offsets", "metrics", "rotation", "free", "offset", "metric"),
)
