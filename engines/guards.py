"""What stops a relaxation: unusable input, and geometries or numbers that no crystal has.

A potential answers anything: atoms on top of one another get energies of minus a million eV, and atoms
out of each other's sight "converge" at once with zero force. Each check raises `Unphysical`, which ends
the relaxation of that crystal as a `Failure` with its reason.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from ..core.crystal import Crystal
from ..core.elements import symbol
from ..core.records import Failure, Reason
from .neighbors import Neighbors
from .potentials import Evaluation

MIN_DISTANCE = 0.5  # angstrom, at the start; H2 has 0.74
MIN_DISTANCE_RATIO = 0.5  # of the sum of the covalent radii, at the start
COLLAPSED_DISTANCE = 0.4  # angstrom, during the relaxation
MIN_VOLUME = 1.5  # cubic angstrom per atom; the densest known crystals have 3 to 4
MIN_HEIGHT = 0.5  # angstrom between opposite faces of the cell
VOLUME_RATIO = (0.3, 3.0)  # of the volume at the start
MAX_FORCE = 1e4  # eV/angstrom


class Unphysical(Exception):  # noqa: N818 - a verdict on a crystal, not an error of the program
    """The relaxation of this crystal ends here, for `reason`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def check_input(crystal: Crystal, elements: AbstractSet[int], max_atoms: int) -> Failure | None:
    """What can be refused without a potential: size, elements, numbers that are not finite."""
    unknown = sorted({int(z) for z in crystal.atomic_numbers} - elements)
    if len(crystal) > max_atoms:
        reason, detail = Reason.TOO_MANY_ATOMS, f"{len(crystal)} atoms, max_atoms is {max_atoms}"
    elif unknown:
        reason, detail = Reason.ELEMENT, f"not trained on {', '.join(map(symbol, unknown))}"
    elif not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        reason, detail = Reason.NOT_FINITE, "lattice or coordinates hold NaN or infinity"
    else:
        return None
    return Failure(crystal.digest, reason, detail)


def check_cell(crystal: Crystal) -> None:
    """Cells in which a search for neighbours would not end. Made for every geometry."""
    volume = crystal.volume / len(crystal)
    if not volume >= MIN_VOLUME:
        raise Unphysical(Reason.VOLUME, f"{volume:.3g} cubic angstrom per atom, below {MIN_VOLUME:g}")
    a, b, c = crystal.lattice
    faces = [np.linalg.norm(np.cross(*pair)) for pair in ((b, c), (c, a), (a, b))]
    height = crystal.volume / max(faces)
    if height < MIN_HEIGHT:
        raise Unphysical(Reason.CELL, f"opposite faces of the cell are {height:.3g} angstrom apart")


def check_start(crystal: Crystal, near: Neighbors) -> None:
    """Overlapping atoms before the first evaluation (covalent radii: Cordero et al., Dalton Trans. 2008,
    2832, as in ASE).
    """
    from ase.data import covalent_radii

    if len(near.distances) == 0:
        return
    radii = covalent_radii[crystal.atomic_numbers]
    allowed = np.maximum(MIN_DISTANCE, MIN_DISTANCE_RATIO * (radii[near.first] + radii[near.second]))
    worst = int(np.argmin(near.distances / allowed))
    if near.distances[worst] < allowed[worst]:
        pair = "-".join(symbol(int(crystal.atomic_numbers[k[worst]])) for k in (near.first, near.second))
        raise Unphysical(
            Reason.DISTANCE,
            f"{pair} at {near.distances[worst]:.2f} angstrom, below {allowed[worst]:.2f}",
        )


def check_geometry(crystal: Crystal, near: Neighbors, start_volume: float, cutoff: float) -> None:
    """Geometries on the way: volume, distances, atoms that the potential does not see."""
    ratio = crystal.volume / start_volume
    low, high = VOLUME_RATIO
    if not low <= ratio <= high:
        reason = Reason.COLLAPSED if ratio < low else Reason.EXPLODED
        raise Unphysical(reason, f"volume is {ratio:.2f} of the start's, outside {low:g} to {high:g}")
    isolated = near.isolated(len(crystal))
    if len(isolated):
        raise Unphysical(
            Reason.EXPLODED, f"{len(isolated)} atoms have no neighbour within {cutoff:g} angstrom"
        )
    if near.distances.min() < COLLAPSED_DISTANCE:
        raise Unphysical(Reason.COLLAPSED, f"atoms {near.distances.min():.2f} angstrom apart")


def check_evaluation(found: Evaluation, n_atoms: int, energies: tuple[float, float]) -> None:
    """Numbers that the potential answered; `energies` is the range in eV/atom that crystals have."""
    if not (
        np.isfinite(found.energy) and np.isfinite(found.forces).all() and np.isfinite(found.stress).all()
    ):
        raise Unphysical(Reason.EXPLODED, "energy, forces or stress are not finite")
    low, high = energies
    per_atom = found.energy / n_atoms
    if not low <= per_atom <= high:
        raise Unphysical(Reason.ENERGY, f"{per_atom:.4g} eV/atom, outside {low:g} to {high:g}")
    if np.abs(found.forces).max() > MAX_FORCE:
        raise Unphysical(Reason.EXPLODED, f"a force of {np.abs(found.forces).max():.3g} eV/angstrom")
