"""Continuous measures in a campaign's summary."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.protocols import Phase
from heliodor.core.records import Candidate, Origin, Outcome, Stage, Status
from heliodor.tasks.continuous import continuous
from heliodor.tasks.table import Record
from heliodor.validators.change import Change
from heliodor.validators.distances import Distances
from heliodor.validators.measures import continuous_uniqueness
from heliodor.validators.packed_phases import PackedPhases
from heliodor.validators.phases import Phases

FCC = (np.ones((3, 3)) - np.eye(3)) / 2
SALTS = [
    Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], z)
    for a, z in [(4.2, [12, 8]), (5.6, [11, 17]), (6.3, [19, 17])]
]


def record(slot, crystal, *, valid=True, relaxed=None):
    origin = Origin("test", "0", seed=0, index=slot)
    screen = Outcome(slot, Stage.SCREEN, Status.PASSED, None, 1, {"validity": {"passed": valid}})
    relax = Outcome(slot, Stage.RELAX, Status.PASSED, None, 1, {}, relaxed) if relaxed else None
    generate = Outcome(slot, Stage.GENERATE, Status.PASSED)
    return Record(slot, generate, Candidate(crystal, origin), screen, relax)


def test_valid_crystals_count_as_they_ended():
    found = [
        record(0, SALTS[0]),
        record(1, SALTS[2], relaxed=SALTS[1]),
        record(2, SALTS[2], valid=False),
    ]
    phases = Phases([Phase("MgO", SALTS[0].reduced_composition, None)])
    scorers = [Change(), Distances(PackedPhases(phases, [None]))]
    block = continuous(found, scorers, seed=0)
    expected = continuous_uniqueness(SALTS[:2])
    assert block["uniqueness"]["structure"]["value"] == pytest.approx(expected.structure.value)
    assert block["uniqueness"]["structure"]["unit"] == "angstrom"
    assert block["uniqueness"]["n"] == block["uniqueness"]["of"] == 2
    assert block["novelty"]["structure"] is None  # no phase has a vector
    assert block["novelty"]["composition"]["value"] > 0
    assert json.loads(json.dumps(block)) == block


def test_what_cannot_be_measured_is_null():
    assert continuous([], [Change()], seed=0) == {"uniqueness": None, "novelty": None}
    assert continuous([record(0, SALTS[0])], [], seed=0) == {"uniqueness": None, "novelty": None}
