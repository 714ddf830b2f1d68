"""Each guard names its reason, and leaves real crystals alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.records import Reason
from heliodor.engines.guards import (
    Unphysical,
    check_cell,
    check_evaluation,
    check_geometry,
    check_input,
    check_start,
)
from heliodor.engines.neighbors import find_neighbors
from heliodor.engines.potentials import KNOWN, Evaluation

ELEMENTS = KNOWN["chgnet"].elements
SALT = from_atoms(bulk("NaCl", "rocksalt", a=5.64))


def scaled(crystal, volume_ratio):
    return Crystal(
        crystal.lattice * volume_ratio ** (1 / 3), crystal.frac_coords, crystal.atomic_numbers
    )


def reason(check, *args):
    with pytest.raises(Unphysical) as caught:
        check(*args)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize(
    ("crystal", "expected"),
    [
        (Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [11]), Reason.NOT_FINITE),
        (Crystal(np.eye(3) * 4, [[0, np.inf, 0]], [11]), Reason.NOT_FINITE),
        (Crystal(np.eye(3) * 4, [[0, 0, 0]], [96]), Reason.ELEMENT),
        (Crystal(np.eye(3) * 4, [[0, 0, 0]], [84]), Reason.ELEMENT),
        (from_atoms(bulk("Cu", cubic=True).repeat(3)), Reason.TOO_MANY_ATOMS),
    ],
)
def test_input(crystal, expected):
    failure = check_input(crystal, ELEMENTS, 100)
    assert failure.reason == expected
    assert failure.key == crystal.digest


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("C", "diamond", a=3.57),
        bulk("Cs", "bcc", a=6.14),
        bulk("Be", "hcp", a=2.29, c=3.58),
        bulk("H", "sc", a=1.8),
    ],
    ids=lambda atoms: str(atoms.symbols),
)
def test_crystals_pass(atoms):
    crystal = from_atoms(atoms)
    near = find_neighbors(crystal, 6.0)
    assert check_input(crystal, ELEMENTS, 100) is None
    check_cell(crystal)
    check_start(crystal, near)
    check_geometry(crystal, near, crystal.volume, 6.0)


def test_cells():
    assert reason(check_cell, scaled(SALT, 0.01)) == Reason.VOLUME
    assert reason(check_cell, Crystal(np.zeros((3, 3)), [[0, 0, 0]], [11])) == Reason.VOLUME
    flat = Crystal(np.diag([0.3, 20, 20]), [[0, 0, 0]], [11])
    assert reason(check_cell, flat) == Reason.CELL


@pytest.mark.parametrize("distance", [0.05, 0.3, 1.2])
def test_overlapping_atoms(distance):
    crystal = Crystal(np.eye(3) * 5, [[0, 0, 0], [distance / 5, 0, 0]], [11, 17])
    assert reason(check_start, crystal, find_neighbors(crystal, 6.0)) == Reason.DISTANCE


def test_overlap_with_the_own_image():
    crystal = Crystal(np.diag([1.5, 6, 6]), [[0, 0, 0]], [55])
    assert reason(check_start, crystal, find_neighbors(crystal, 6.0)) == Reason.DISTANCE


def test_atoms_out_of_sight():
    far = scaled(SALT, 100)
    assert reason(check_geometry, far, find_neighbors(far, 6.0), far.volume, 6.0) == Reason.EXPLODED


def test_volume_on_the_way():
    for ratio, expected in ((0.25, Reason.COLLAPSED), (3.5, Reason.EXPLODED)):
        changed = scaled(SALT, ratio)
        assert (
            reason(check_geometry, changed, find_neighbors(changed, 6.0), SALT.volume, 6.0) == expected
        )


@pytest.mark.parametrize(
    ("energy", "force", "expected"),
    [
        (-8.5e6, 1.0, Reason.ENERGY),
        (21.0, 1.0, Reason.ENERGY),
        (-6.0, np.nan, Reason.EXPLODED),
        (np.nan, 1.0, Reason.EXPLODED),
        (-6.0, 2e4, Reason.EXPLODED),
    ],
)
def test_answers(energy, force, expected):
    found = Evaluation(energy, np.full((2, 3), force), np.zeros((3, 3)))
    assert reason(check_evaluation, found, 2, (-30, 10)) == expected


def test_neighbors_agree_with_ase():
    from ase.neighborlist import neighbor_list

    atoms = bulk("ZnS", "wurtzite", a=3.8, c=6.2)
    near = find_neighbors(from_atoms(atoms), 6.0)
    i, d = neighbor_list("id", atoms, 6.0)
    assert np.array_equal(np.bincount(near.first), np.bincount(i))
    assert np.allclose(np.sort(near.distances), np.sort(d))
    vectors = near.vectors(from_atoms(atoms))
    assert np.allclose(np.linalg.norm(vectors, axis=1), near.distances)
