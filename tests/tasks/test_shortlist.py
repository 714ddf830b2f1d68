"""Which crystals come to DFT: SUN crystals, varied, and the sure before the doubtful."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from heliodor.core.crystal import Crystal
from heliodor.core.records import Candidate, Origin, Outcome, Stage, Status
from heliodor.tasks.shortlist import shortlist
from heliodor.tasks.table import Record


def rocksalt(cation: int, a: float) -> Crystal:
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([cation, 8]))


def record(slot: int, energy: float, cation: int = 12, *, novel: bool = True, **scores: float) -> Record:
    crystal = rocksalt(cation, 4.2 + 0.1 * slot)
    passed = {"passed": True}
    judged = {
        "hull": {"energy_above_hull": max(0.0, energy), "decomposition_energy": energy},
        "uniqueness": passed,
        "novelty": {"passed": novel},
    }
    screened = {"validity": passed, "uniqueness": passed, "novelty": passed}
    return Record(
        slot,
        generate=Outcome(slot, Stage.GENERATE, Status.PASSED),
        candidate=Candidate(crystal, Origin("files", "0", 0, slot)),
        screen=Outcome(slot, Stage.SCREEN, Status.PASSED, data=screened),
        relax=Outcome(slot, Stage.RELAX, Status.PASSED, crystal=crystal),
        assess=Outcome(slot, Stage.ASSESS, Status.PASSED, data=judged),
        review=Outcome(slot, Stage.REVIEW, Status.PASSED, data={"scores": scores}),
    )


def slots(found: list[Record], threshold: float = 0.1, top: int = 10) -> list[int]:
    return [item.record.slot for item in shortlist(found, threshold, top)]


def test_sun_crystals_by_energy():
    found = [
        record(0, 0.05, 12),
        record(1, -0.02, 20),
        record(2, -0.5, 38, novel=False),
        record(3, 0.3, 56),
        record(4, 0.05, 30),
    ]
    assert slots(found) == [1, 0, 4]
    assert slots(found, top=2) == [1, 0]
    assert slots(found, threshold=0.0) == [1]
    assert slots([]) == []


def test_a_second_polymorph_waits_for_the_first_of_other_compositions():
    found = [record(0, -0.10), record(1, -0.09), record(2, 0.05, 20), record(3, -0.08)]
    assert slots(found) == [0, 2, 1, 3]


def test_a_doubtful_energy_stands_behind_a_sure_one():
    sure = record(0, 0.02, 12, energy_above_hull_uncertainty=0.01)
    doubtful = record(1, 0.01, 20, energy_above_hull_uncertainty=0.08)
    assert slots([doubtful, sure]) == [0, 1]


def test_between_equals_the_farthest_from_what_is_known():
    near = record(0, 0.0201, 12, amd_distance=0.1)
    far = record(1, 0.0199, 20, amd_distance=0.6)
    assert slots([near, far]) == [1, 0]


def test_elements_come_after_compounds():
    element = record(0, -0.05)
    bare = Crystal(np.eye(3) * 3, np.zeros((1, 3)), np.array([12]))
    relaxed = Outcome(0, Stage.RELAX, Status.PASSED, crystal=bare)
    assert slots([replace(element, relax=relaxed), record(1, 0.09, 20)]) == [1, 0]
