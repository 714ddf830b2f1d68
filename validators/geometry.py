"""Compact cells and periodic neighbours, bounded in time and memory for absurd cells too."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.crystal import Crystal

_MAX_CLOUD = 3_000_000  # atoms in a neighbour cloud; only absurd cells ask for more
_SHIFTS = np.array(list(product((-1, 0, 1), repeat=2)))


def require_computable(crystal: Crystal) -> None:
    """Refuse what no geometry can be computed for.

    Raises:
        ValueError: a number is not finite, or the volume is below 1e-3 cubic angstrom.
    """
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        raise ValueError("a coordinate or cell vector is not finite")
    if not 1e-3 <= crystal.volume < np.inf:
        raise ValueError(f"the cell has a volume of {crystal.volume:.3g} cubic angstrom")


def reduced_basis(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minkowski-reduced basis (3, 3) of a lattice, rows rising in length (Semaev's greedy algorithm).

    Its angles lie between 60 and 120 degrees, and its volume is at least |a||b||c|/sqrt(2).
    """
    basis = lattice
    for _ in range(100):  # a few steps do; the bound is for cells at the limits of floating point
        basis = basis[np.argsort(np.einsum("ij,ij->i", basis, basis), kind="stable")]
        a, b, c = basis
        b = b - np.round(a @ b / (a @ a)) * a
        plane = np.stack([a, b])
        nearest = np.round(np.linalg.lstsq(plane.T, c, rcond=None)[0]) + _SHIFTS
        trials = c - nearest @ plane
        lengths = np.einsum("ij,ij->i", trials, trials)
        shortest = trials[lengths.argmin()]
        if lengths.min() >= (c @ c) * (1 - 1e-12):
            shortest = c
        reduced = np.stack([a, b, shortest])
        if np.array_equal(reduced, basis):
            break
        basis = reduced
    return basis


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
    volume = abs(float(np.linalg.det(basis)))
    # The sphere that holds k targets on average, with a margin for uneven surroundings.
    radius = 1.15 * (3 * (k + 1) * volume / (4 * np.pi * len(targets))) ** (1 / 3)
    while True:
        cloud = periodic_images(basis, centres, targets, radius)[0]
        if len(cloud) > k:
            nearest = np.asarray(cKDTree(cloud).query(centres @ basis, k=k + 1)[0])
            if nearest[:, -1].max() <= radius:
                return nearest[:, 1:] if centres is targets else nearest[:, :-1]
            radius = min(1.001 * float(nearest[:, -1].max()), 2 * radius)
        else:
            radius *= 1.5


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
    axes = (np.arange(a, a + n) for a, n in zip(np.floor(low), counts, strict=True))
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    points = (cells + targets).reshape(-1, 3)
    inside = ((points >= low) & (points <= high)).all(axis=1)
    return points[inside] @ basis, np.flatnonzero(inside) % len(targets)
