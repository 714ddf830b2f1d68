"""Compact cells and periodic neighbours, bounded in time and memory for absurd cells too."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.crystal import Crystal
    from ..core.packed import Packed

_MIN_VOLUME = 1e-3  # cubic angstrom
_MAX_CLOUD = 3_000_000  # atoms in a neighbour cloud; only absurd cells ask for more
_SHIFTS = list(product((-1, 0, 1), repeat=2))


def require_computable(crystal: Crystal) -> None:
    """Refuse what no geometry can be computed for.

    Raises:
        ValueError: a number is not finite, or the volume is below 1e-3 cubic angstrom.
    """
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        raise ValueError("a coordinate or cell vector is not finite")
    if not _MIN_VOLUME <= crystal.volume < np.inf:
        raise ValueError(f"the cell has a volume of {crystal.volume:.3g} cubic angstrom")


def refusal(crystal: Crystal) -> ValueError:
    """Why no geometry can be computed for a crystal that is not `computable`."""
    try:
        require_computable(crystal)
    except ValueError as error:
        return error
    return ValueError("the volume of the cell is at the limit of what can be computed")


def computable(packed: Packed) -> list[bool]:
    """For which crystals a geometry can be computed: as `require_computable`, for many at once."""
    with np.errstate(all="ignore"):
        volumes = np.abs(np.linalg.det(packed.lattices))
        good: list[bool] = (packed.finite() & (volumes >= _MIN_VOLUME) & (volumes < np.inf)).tolist()
    return good


def reduced_basis(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minkowski-reduced basis (3, 3) of a lattice, rows rising in length (Semaev's greedy algorithm).

    Its angles lie between 60 and 120 degrees, and its volume is at least |a||b||c|/sqrt(2).
    """
    basis: list[list[float]] = lattice.tolist()
    for _ in range(100):  # a few steps do; the bound is for cells at the limits of floating point
        a, b, c = basis = sorted(basis, key=lambda v: dot(v, v))
        n = round(dot(a, b) / dot(a, a))
        b = minus(b, n, a)
        near = _nearest_in_plane(a, b, c)
        if dot(near, near) >= dot(c, c) * (1 - 1e-12):
            near = c
        reduced = [a, b, near]
        if reduced == basis:
            break
        basis = reduced
    return np.array(basis)


def _nearest_in_plane(a: list[float], b: list[float], c: list[float]) -> list[float]:
    """The shortest of c less whole multiples of a and b, which are reduced."""
    aa, bb, ab, ac, bc = dot(a, a), dot(b, b), dot(a, b), dot(a, c), dot(b, c)
    det = aa * bb - ab * ab
    p, q = round((ac * bb - bc * ab) / det), round((bc * aa - ac * ab) / det)
    trials = (minus(minus(c, p + i, a), q + j, b) for i, j in _SHIFTS)
    return min(trials, key=lambda v: dot(v, v))


def dot(u: list[float], v: list[float]) -> float:
    """Scalar product of two vectors: on three numbers, ten times as fast as an array's."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def minus(u: list[float], share: float, v: list[float]) -> list[float]:
    """The vector u - share v."""
    return [u[0] - share * v[0], u[1] - share * v[1], u[2] - share * v[2]]


def reduced_cell(crystal: Crystal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reduced basis (3, 3) in angstrom and fractional coordinates in it (n, 3), in [0, 1]."""
    basis = reduced_basis(crystal.lattice)
    frac = crystal.frac_coords @ (crystal.lattice @ np.linalg.inv(basis))
    return basis, frac - np.floor(frac)


def length_unit(crystal: Crystal) -> float:
    """(volume per atom)^(1/3) in angstrom: crystals are compared at equal density."""
    return float((crystal.volume / len(crystal)) ** (1 / 3))


def neighbour_distances(
    basis: NDArray[np.float64],
    centres: NDArray[np.float64],
    targets: NDArray[np.float64],
    k: int,
) -> NDArray[np.float64]:
    """Distances (n_centres, k) in angstrom from each centre to its k nearest targets, rising.

    `centres` and `targets` are fractional, (n, 3); all lattice translations of the targets count. Where
    both are the same array, an atom is not its own neighbour (its images are).

    Raises:
        ValueError: the cell is too thin to gather k neighbours.
    """
    from .kernels.distances import neighbours

    own = centres is targets
    out = np.empty((len(centres), k))
    cell, first, second = (np.ascontiguousarray(x) for x in (basis, centres, targets))
    if neighbours(cell, first, second, k, own, out) < 0:
        raise ValueError(f"the cell is too thin to gather {k} neighbours")
    return out


def periodic_images(
    basis: NDArray[np.float64],
    centres: NDArray[np.float64],
    targets: NDArray[np.float64],
    radius: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All images of the targets within `radius` of a centre, and some more.

    Returns:
        Cartesian positions (m, 3) in angstrom and the index of each one's target (m,).

    Raises:
        ValueError: more than three million of them.
    """
    margin = radius * np.linalg.norm(np.linalg.inv(basis), axis=0)  # radius over the cell's heights
    low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    counts = np.floor(high) - np.floor(low) + 1
    if not float(np.prod(counts)) * len(targets) <= _MAX_CLOUD:
        raise ValueError(f"the cell is too thin: {counts} cells are needed to find the neighbours")
    cells = cell_grid(*counts.astype(int).tolist()) + np.floor(low)
    points = (cells[:, None] + targets).reshape(-1, 3)
    inside = ((points >= low) & (points <= high)).all(axis=1)
    return points[inside] @ basis, np.flatnonzero(inside) % len(targets)


def cell_grid(a: int, b: int, c: int) -> NDArray[np.float64]:
    """Numbers (0, 0, 0) to (a - 1, b - 1, c - 1) of cells, (a b c, 3)."""
    return np.ascontiguousarray(np.indices((a, b, c), dtype=np.float64).reshape(3, -1).T)
