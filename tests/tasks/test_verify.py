"""Which hull a DFT energy goes on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.levels import Level
from heliodor.core.protocols import Phase, ReferenceInfo
from heliodor.core.records import DftResult, HullPoint
from heliodor.tasks.verify import _on_the_reference, dft_reference, on_reference_hull
from heliodor.validators.self_consistent import SelfConsistentReference

SALT = Crystal(2.8 * (np.ones((3, 3)) - np.eye(3)), np.array([[0, 0, 0], [0.5] * 3]), np.array([11, 17]))
HULLS = {
    "PBE": Level.of("vasp", "PBE/PBE+U", "GGA_GGA+U", {}),
    "r2SCAN": Level.of("vasp", "r2SCAN", "R2SCAN", {}),
    "abinit": Level.of("abinit-9.6.2", "PBE", "own", {}),
}


class Snapshot:
    """Salt at -2 eV/atom from elements at -1 and -3."""

    def __init__(self, hull="GGA_GGA+U"):
        self.info = ReferenceInfo("snapshot", "0" * 16, 1, "salt", hull=hull)

    def entries(self, elements):
        del elements
        return [Phase("mp-22862", SALT.reduced_composition, -2.0)]

    def element_energies(self, elements):
        return {11: -1.0, 17: -3.0} if elements else {}


class File:
    """Structures that need not have energies."""

    info = Snapshot().info


def with_a_potentials_energies(base):
    made = SelfConsistentReference.__new__(SelfConsistentReference)
    made._base = base
    return made


@pytest.mark.parametrize(
    ("level", "hull", "there"),
    [
        ("PBE", "GGA_GGA+U", True),
        ("r2SCAN", "R2SCAN", True),
        ("PBE", "R2SCAN", False),
        ("r2SCAN", "GGA_GGA+U", False),
        ("abinit", "GGA_GGA+U", False),
        ("abinit", "own", False),
    ],
)
def test_energies_go_on_the_hull_of_their_level(level, hull, there):
    assert on_reference_hull(HULLS[level], Snapshot(hull)) is there


def test_a_potentials_energies_do_not_take_the_place_of_the_materials_projects():
    known = Snapshot("R2SCAN")
    assert dft_reference(SimpleNamespace(reference=known)) is known
    own = with_a_potentials_energies(known)
    assert dft_reference(SimpleNamespace(reference=own)) is known
    own = with_a_potentials_energies(File())
    assert dft_reference(SimpleNamespace(reference=own)) is own


def test_r2scan_has_no_corrections():
    entry = {
        "run_type": "R2SCAN",
        "is_hubbard": False,
        "hubbards": {},
        "potcar_spec": [],
        "oxide_type": "None",
        "aspherical": True,
    }
    level = HULLS["r2SCAN"]
    result = DftResult("k", "d", level, SALT, -7.8, 0.0, 0.0, converged=True, steps=1, entry=entry)
    point = _on_the_reference(result, Snapshot("R2SCAN"))
    assert isinstance(point, HullPoint), point
    assert point.formation_energy_per_atom == pytest.approx((-7.8 + 1 + 3) / 2)
    assert point.energy_above_hull == pytest.approx(0.1)
    assert (point.corrections, point.uncertain) == ("none (all of one functional)", False)
