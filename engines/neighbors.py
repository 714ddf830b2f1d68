"""Neighbours of every atom within a radius: what the potentials, the guards and the optimiser share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal


@dataclass(frozen=True)
class Neighbors:
    """Directed pairs (each bond appears from both ends), without an atom's own zero distance.

    Args:
        first, second: (m,) int64 indices of the two atoms.
        images: (m, 3) int64; the second atom sits at frac_coords[second] + images.
        distances: (m,) angstrom.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    images: NDArray[np.int64]
    distances: NDArray[np.float64]

    def vectors(self, crystal: Crystal) -> NDArray[np.float64]:
        """(m, 3) vectors from first to second atom in angstrom."""
        frac = crystal.frac_coords[self.second] - crystal.frac_coords[self.first] + self.images
        return np.asarray(frac @ crystal.lattice)

    def isolated(self, n_atoms: int) -> NDArray[np.int64]:
        """Indices of atoms without any neighbour."""
        return np.flatnonzero(np.bincount(self.first, minlength=n_atoms) == 0)


def find_neighbors(crystal: Crystal, radius: float) -> Neighbors:
    """All pairs not farther apart than `radius` (angstrom), by pymatgen's cell list.

    Cost and memory grow with the number of pairs: call it on geometries that passed
    `guards.check_start`, for a collapsed cell has billions.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart = np.ascontiguousarray(crystal.frac_coords @ crystal.lattice)
    first, second, images, distances = find_points_in_spheres(
        cart, cart, r=radius, pbc=np.ones(3, dtype=np.int64), lattice=np.array(crystal.lattice), tol=1e-8
    )
    other = (first != second) | (distances > 1e-8)
    return Neighbors(
        first[other].astype(np.int64),
        second[other].astype(np.int64),
        images[other].astype(np.int64),
        distances[other],
    )
