"""Flags of what a potential has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.protocols import Phase
from heliodor.core.records import Evaluated, HullPoint, Judged, Relaxed
from heliodor.validators.extrapolation import Extrapolation, distance_flag, volume_flag
from heliodor.validators.known_ranges import derive, distance_ratios, known_ranges

SALT = Crystal(2.105 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])


def judged(crystal: Crystal, signed: float = 0.0, proposed: Crystal | None = None) -> Judged:
    relaxed = Relaxed(crystal.digest, crystal, 0.0, 0.0, 0.0, 0, converged=True, model="m")
    hull = HullPoint(crystal.digest, max(0.0, signed), signed, -1.0, (), "m", "", "r")
    return Judged(crystal.digest, proposed or crystal, relaxed, hull)


def scaled(crystal: Crystal, volume: float) -> Crystal:
    return Crystal(crystal.lattice * volume ** (1 / 3), crystal.frac_coords, crystal.atomic_numbers)


class Forces:
    name = model = "forces"

    def __init__(self, size):
        self.size = size

    def supports(self, atomic_number):
        return True

    def evaluate(self, batch):
        for c in batch:
            forces = np.zeros((len(c), 3))
            forces[0, 1] = self.size
            yield Evaluated(c.digest, 0.0, forces, np.zeros((3, 3)), "m")

    def close(self):
        pass


def test_an_ordinary_crystal_has_no_flag():
    (row,) = Extrapolation(lambda z: True, Forces(1.0)).score([judged(SALT)])
    assert row == {"extrapolates": False, "extrapolation": ""}


@pytest.mark.parametrize(
    ("item", "flag"),
    [
        (judged(scaled(SALT, 4.0)), "volume"),
        (judged(scaled(SALT, 0.4)), "covalent radii"),
        (judged(Crystal(SALT.lattice, SALT.frac_coords, [91, 8])), "Pa is rare"),
        (judged(SALT, signed=-0.5), "0.50 eV/atom below the known hull"),
    ],
)
def test_flags(item, flag):
    (row,) = Extrapolation(lambda z: True).score([item])
    assert row["extrapolates"] is True
    assert flag in row["extrapolation"]


def test_elements_and_forces_that_the_potential_has_not_seen():
    (row,) = Extrapolation(lambda z: z != 8, Forces(50.0)).score([judged(SALT)])
    assert "O was not in the training" in row["extrapolation"]
    assert "forces of 50 eV/angstrom at the start" in row["extrapolation"]


def test_without_a_relaxation_nothing_is_said():
    assert Extrapolation().score([Judged("k", SALT)]) == [{}]


def test_shortest_distances_are_those_of_each_element():
    ratios = distance_ratios(SALT)
    assert ratios[12] == ratios[8] == pytest.approx(2.105 / (1.41 + 0.66), rel=1e-6)


def test_ranges_of_a_small_table_hold_it():
    ranges = derive(
        [Phase(str(i), ((12, 1), (8, 1)), -3.0, crystal=scaled(SALT, 1 + i / 50)) for i in range(9)], ""
    )
    assert ranges.counts == {"O": 9, "Mg": 9}
    assert ranges.volume_ratio[0] < 1 < ranges.volume_ratio[1]
    assert sum(ranges.volumes["ionic"].values()) == pytest.approx(SALT.volume * 1.08, rel=0.01)


@pytest.mark.shared
def test_one_in_a_hundred_known_crystals_is_flagged_at_most(mp_table):
    rows = mp_table.sample(300, random_state=0)
    flagged = 0
    for row in rows.itertuples():
        crystal = Crystal(
            np.reshape(row.lattice, (3, 3)), np.reshape(row.frac_coords, (-1, 3)), row.atomic_numbers
        )
        flagged += bool([*volume_flag(crystal), *distance_flag(crystal)])
    assert flagged <= 3
    assert known_ranges().crystals == len(mp_table)
