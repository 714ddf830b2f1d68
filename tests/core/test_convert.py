from __future__ import annotations

import ase.build
import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import ConversionError, from_atoms, from_structure, to_atoms, to_structure
from heliodor.core.records import Reason


def test_structure_round_trip(srtio3):
    assert from_structure(to_structure(srtio3)).digest == srtio3.digest


def test_atoms_round_trip(srtio3):
    assert from_atoms(to_atoms(srtio3)).digest == srtio3.digest


def test_pymatgen_and_ase_agree_on_cartesian_positions():
    atoms = ase.build.bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    structure = to_structure(from_atoms(atoms))
    inverse = np.linalg.inv(structure.lattice.matrix)
    difference = (atoms.positions - structure.cart_coords) @ inverse
    assert np.abs(difference - np.round(difference)).max() < 1e-12


def test_oxidation_states_are_dropped(mgo):
    structure = to_structure(mgo)
    structure.add_oxidation_state_by_element({"Mg": 2, "O": -2})
    assert from_structure(structure).digest == mgo.digest


def test_partial_occupancy_has_its_reason():
    disordered = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(ConversionError, match="partial") as caught:
        from_structure(disordered)
    assert caught.value.reason is Reason.DISORDERED


@pytest.mark.parametrize(
    "atoms", [Atoms(), ase.build.molecule("H2O"), Atoms("Si", cell=[1, 1, 0], pbc=True)]
)
def test_what_is_no_crystal_is_refused(atoms):
    with pytest.raises(ConversionError) as caught:
        from_atoms(atoms)
    assert caught.value.reason is Reason.UNREADABLE
