"""Flat layers of atoms in a crystal: the lattice planes that could hold a planar net."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST_BOND, LONGEST_BOND = 1.0, 8.0  # angstrom; what is called a bond of a net
# All in bond lengths of the net.
_BUCKLING = 0.25  # thickest layer
# From the layer to the nearest other atom: the height, and the distance. A close-packed plane has 0.82
# and 1, a (100) plane of a body-centred metal 0.5 and 0.87; one half of a buckled honeycomb has at most
# 0.2 and 0.61, and a plane that cuts through a stack of kagome or Lieb nets a distance near 0.5.
_CLEAR_HEIGHT, _CLEAR_DISTANCE = 1 / 3, 2 / 3


@dataclass(frozen=True)
class Layer:
    """The atoms of one layer, per cell of its periods, turned to lie in the plane z = 0.

    Args:
        miller: indices of the plane in the crystal's own cell.
        periods: (2, 2) rows in angstrom, the shortest ones, the first along x.
        xy: (n, 2) angstrom.
        height: (n,) angstrom, from any origin.
    """

    miller: tuple[int, ...]
    periods: NDArray[np.float64]
    xy: NDArray[np.float64]
    height: NDArray[np.float64]


def flat_layers(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], sites: int, area_per_site: float
) -> Iterator[Layer]:
    """Layers that are flat, lie apart from the other atoms, and may hold a net.

    Args:
        lattice: (3, 3) rows in angstrom, finite and not flat.
        positions: (n, 3) angstrom, of the atoms that count; others are not seen.
        sites: points in a cell of the net; a layer's atoms are a multiple of it.
        area_per_site: of the net, in squared bond lengths; with the layer's density it gives the bond
            length, which lies between `SHORTEST_BOND` and `LONGEST_BOND`.
    """
    from pymatgen.core import Lattice

    cell = np.array(Lattice(lattice).get_lll_reduced_lattice().matrix)
    nearest = _nearest(cell, positions)
    longest = min(LONGEST_BOND, float(nearest.max()) / _CLEAR_DISTANCE)
    volume = abs(float(np.linalg.det(cell)))
    for indices in _lattice_planes(cell, len(positions) * area_per_site):
        normal = np.linalg.solve(cell, indices)  # reciprocal vector: height over spacing is x . normal
        spacing = 1 / float(np.linalg.norm(normal))
        level = positions @ normal
        order = np.argsort(level - np.floor(level), kind="stable")
        heights = (level - np.floor(level))[order] * spacing
        heights = np.concatenate([heights, heights + spacing])
        for size in range(sites, len(positions) + 1, sites):
            bond = math.sqrt(volume / spacing / (size * area_per_site))
            if not SHORTEST_BOND <= bond <= min(longest, spacing / _CLEAR_HEIGHT):
                continue
            for start in _runs(heights, size, bond):
                members = np.arange(start, start + size) % len(order)
                if nearest[order[members]].min() < _CLEAR_DISTANCE * bond:
                    continue
                basis = _basis_with_plane(cell, indices) @ cell
                # The same cell turned so that the plane is z = 0; the atoms all moved to one plane.
                lower = np.asarray(np.linalg.cholesky(basis @ basis.T), dtype=np.float64)
                frac = positions[order[members]] @ np.linalg.inv(basis)
                frac[:, 2] = heights[start : start + size] / spacing
                atoms = frac @ lower
                miller = tuple(np.rint(lattice @ normal).astype(int).tolist())
                yield Layer(miller, lower[:2, :2], atoms[:, :2], atoms[:, 2])


def _nearest(cell: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) distance of each atom to the nearest other one, images included; `cell` is reduced."""
    difference = (positions[:, None] - positions) @ np.linalg.inv(cell)
    difference -= np.rint(difference)
    nearest = np.full(len(positions), np.inf)
    for image in itertools.product((-1, 0, 1), repeat=3):
        distance = np.linalg.norm((difference + image) @ cell, axis=-1)
        if image == (0, 0, 0):
            np.fill_diagonal(distance, np.inf)
        nearest = np.minimum(nearest, distance.min(axis=1))
    return nearest


def _lattice_planes(cell: NDArray[np.float64], area: float) -> NDArray[np.int64]:
    """(planes, 3) Miller indices of all planes far enough apart for a net, each once.

    With `area` in squared bond lengths the net on all the atoms, the spacing D of the planes and the
    bond length d obey d^2 >= V / (D area) and D >= _CLEAR_HEIGHT d, which bounds D from below.
    """
    spacing = (_CLEAR_HEIGHT**2 * abs(float(np.linalg.det(cell))) / area) ** (1 / 3)
    reach = np.floor(np.linalg.norm(cell, axis=1) / spacing).astype(int)
    axes = [np.arange(-r, r + 1) for r in reach]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[len(grid) // 2 + 1 :]  # the centre is 0 0 0; before it lie the opposites
    apart = np.linalg.norm(grid @ np.linalg.inv(cell).T, axis=1) * spacing <= 1
    return np.asarray(grid[apart & (np.gcd.reduce(grid, axis=1) == 1)])


def _basis_with_plane(cell: NDArray[np.float64], miller: NDArray[np.int64]) -> NDArray[np.int64]:
    """(3, 3) integer rows, determinant +-1: the two shortest vectors in the plane, one to the next."""
    h, k, m = miller.tolist()
    g, x, y = _bezout(h, k)
    if g == 0:
        rows = np.diag([1, 1, m])
    else:
        _, p, q = _bezout(g, m)
        rows = np.array([[k // g, -h // g, 0], [x * m, y * m, -g], [p * x, p * y, q]])
    while True:  # Gauss's reduction of the two vectors in the plane
        if np.linalg.norm(rows[0] @ cell) > np.linalg.norm(rows[1] @ cell):
            rows = rows[[1, 0, 2]]
        u, v = rows[:2] @ cell
        steps = round(float(u @ v / (u @ u)) * (1 - 1e-9))  # rounding must not turn 1/2 back and forth
        if steps == 0:
            return rows
        rows[1] -= steps * rows[0]


def _bezout(a: int, b: int) -> tuple[int, int, int]:
    """(g, x, y) with g = gcd(a, b) = x a + y b >= 0."""
    if b == 0:
        return abs(a), -1 if a < 0 else 1, 0
    g, x, y = _bezout(b, a % b)
    return g, y, x - a // b * y


def _runs(heights: NDArray[np.float64], size: int, bond: float) -> list[int]:
    """Where runs of `size` atoms begin that are flat and lie apart from the rest.

    `heights` (2 n,) in angstrom, rising, are two periods, so that a run may cross the first one's end.
    """
    n = len(heights) // 2
    first = np.arange(n)
    flat = heights[first + size - 1] - heights[first] <= _BUCKLING * bond
    before = heights[first + n] - heights[first + n - 1]
    after = heights[first + size] - heights[first + size - 1]
    return [int(i) for i in first[flat & (np.minimum(before, after) >= _CLEAR_HEIGHT * bond)]]
