"""The one place where pymatgen, ASE and Heliodor meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .crystal import Crystal
from .errors import HeliodorError
from .records import Reason

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


class ConversionError(HeliodorError):
    """An object of another package is no ordered crystal; `reason` says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DisorderedError(ConversionError):
    """Sites are partly occupied. `structure` is what was read, where it is pymatgen's."""

    def __init__(self, formula: str, structure: Structure | None = None) -> None:
        super().__init__(Reason.DISORDERED, f"partial occupancies in {formula}")
        self.structure = structure


def from_structure(structure: Structure) -> Crystal:
    """A pymatgen Structure (or IStructure) as a Crystal; site properties and charges are dropped.

    Raises:
        DisorderedError: partial occupancies. ConversionError: dummy species, or no sites.
    """
    if len(structure) == 0:
        raise ConversionError(Reason.UNREADABLE, "no atoms")
    if not structure.is_ordered:
        raise DisorderedError(structure.composition.reduced_formula, structure)
    numbers = [getattr(site.specie, "Z", 0) for site in structure]
    if not all(1 <= z <= 118 for z in numbers):
        raise ConversionError(Reason.UNREADABLE, "a site holds no chemical element")
    return Crystal(structure.lattice.matrix, structure.frac_coords, np.array(numbers, dtype=np.int64))


def to_structure(crystal: Crystal) -> Structure:
    """A new pymatgen Structure."""
    from pymatgen.core import Lattice, Structure

    from .elements import SYMBOLS

    return Structure(
        Lattice(crystal.lattice), [SYMBOLS[z] for z in crystal.atomic_numbers], crystal.frac_coords
    )


def from_atoms(atoms: Atoms) -> Crystal:
    """An ASE Atoms object as a Crystal.

    Raises:
        DisorderedError: partial occupancies.
        ConversionError: not periodic in three directions, no cell, or no atoms.
    """
    if len(atoms) == 0:
        raise ConversionError(Reason.UNREADABLE, "no atoms")
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise ConversionError(Reason.UNREADABLE, "not periodic in three directions")
    if (atoms.numbers < 1).any():
        raise ConversionError(Reason.UNREADABLE, "a site holds no chemical element")
    occupancy = atoms.info.get("occupancy") or {}
    if any(abs(sum(site.values()) - 1) > 1e-6 or len(site) > 1 for site in occupancy.values()):
        raise DisorderedError(atoms.get_chemical_formula())
    return Crystal(atoms.cell.array, atoms.get_scaled_positions(wrap=False), atoms.numbers)


def to_atoms(crystal: Crystal) -> Atoms:
    """A new ASE Atoms object, periodic in three directions."""
    from ase import Atoms

    return Atoms(
        numbers=crystal.atomic_numbers,
        scaled_positions=crystal.frac_coords,
        cell=crystal.lattice,
        pbc=True,
    )
