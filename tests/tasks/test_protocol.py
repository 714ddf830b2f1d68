"""Counting by other evaluators' rules: every number against one counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from heliodor.core.campaign import parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.protocols import Phase, ReferenceInfo
from heliodor.core.records import Candidate, HullPoint, Origin, Outcome, Reason, Stage, Status, Verdict
from heliodor.tasks.protocol import count_by_protocol
from heliodor.tasks.table import Record

FCC = 1 - np.eye(3)


def salt(cation: int, anion: int, a: float) -> Crystal:
    return Crystal(a / 2 * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion])


NACL, MGO, CAO, KBR = salt(11, 17, 5.64), salt(12, 8, 4.21), salt(20, 8, 4.81), salt(19, 35, 6.6)
NACL2 = Crystal(np.diag([4.0, 4.0, 8.0]), [[0, 0, 0], [0.5, 0.5, 0.2], [0, 0, 0.5]], [11, 17, 17])


class Known:
    """A reference of one phase, sodium chloride, with its structure."""

    info = ReferenceInfo("one salt", "d" * 64, 4, "one phase")

    def entries(self, elements):
        return [self.phase] if {"Na", "Cl"} <= set(elements) else []

    def like(self, composition):
        return [self.phase] if composition == NACL.reduced_composition else []

    def match(self, batch):
        same = [c.reduced_composition == NACL.reduced_composition for c in batch]
        return [
            Verdict(c.digest, "novelty", not s, match="mp-1" if s else None)
            for c, s in zip(batch, same, strict=True)
        ]

    phase = Phase("mp-1", NACL.reduced_composition, -2.0, 225, NACL)


def judge(batch):
    """The one that stopped short lies 0.05 eV/atom above the hull."""
    return [
        HullPoint(r.key, 0.05, 0.05, -1.0, (("CaO", "mp-2", 1.0),), "m", "", "one salt") for r in batch
    ]


def record(slot: int, crystal: Crystal | None, distance: float | None = None, *, relaxed: bool = True):
    if crystal is None:
        return Record(slot, Outcome(slot, Stage.GENERATE, Status.FAILED, Reason.UNREADABLE))
    candidate = Candidate(crystal, Origin("files", "1", 0, slot))
    made = Outcome(slot, Stage.GENERATE, Status.PASSED)
    screened = Outcome(slot, Stage.SCREEN, Status.PASSED, data={"validity": {"passed": True}})
    if not relaxed:
        rejected = Outcome(slot, Stage.SCREEN, Status.REJECTED, Reason.DISTANCE)
        return Record(slot, made, candidate, rejected)
    data = {
        "energy": -6.0,
        "max_force": 0.1,
        "max_stress": 0.0,
        "steps": 9,
        "converged": distance is not None,
        "model": "m",
        "seconds": 1.0,
    }
    if distance is None:
        short = Outcome(
            slot, Stage.RELAX, Status.FAILED, Reason.NOT_CONVERGED, data=data, crystal=crystal
        )
        return Record(slot, made, candidate, screened, short)
    done = Outcome(slot, Stage.RELAX, Status.PASSED, data=data, crystal=crystal)
    hull = {
        "energy_above_hull": max(distance, 0),
        "decomposition_energy": distance,
        "formation_energy_per_atom": -1.0,
        "decomposition": [["NaCl", "mp-1", 1.0]],
        "level": "m",
        "corrections": "",
        "reference": "one salt",
    }
    return Record(
        slot,
        made,
        candidate,
        screened,
        done,
        Outcome(slot, Stage.ASSESS, Status.PASSED, data={"hull": hull}),
    )


FOUND = [
    record(0, NACL, 0.0),  # known, stable
    record(1, MGO, -0.1),  # new, below the hull
    record(2, salt(12, 8, 4.25), 0.02),  # the same again
    record(3, CAO),  # stopped short: 0.05 by the judge
    record(4, KBR, 0.3),  # new, not stable
    record(5, NACL2, 0.08),  # charges do not balance
    record(6, KBR, relaxed=False),  # rejected before it was relaxed
    record(7, None),  # not read
]


def counted(protocol: str, relaxer: object = SimpleNamespace(model="m")):
    campaign = parse_campaign(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": ["x"]},
            "review": {"protocol": protocol},
        }
    )
    context = SimpleNamespace(
        campaign=campaign, reference=Known(), relaxer=relaxer, judge=judge if relaxer else None
    )
    return count_by_protocol(context, FOUND)


def test_our_own_protocol_adds_nothing():
    assert counted("heliodor") is None


def test_mattergens_numbers():
    result = counted("mattergen")
    found = {m.name: m for m in result.metrics}
    values = {name: m.value for name, m in found.items()}
    assert values == pytest.approx(
        {
            "frac_successful_jobs": 6 / 7,
            "avg_rmsd_from_relaxation": 0.0,
            "avg_energy_above_hull_per_atom": (0 - 0.1 + 0.02 + 0.05 + 0.3 + 0.08) / 6,
            "frac_stable_structures": 5 / 7,
            "frac_stable_structures_0": 2 / 7,
            "frac_novel_unique_stable_structures": 3 / 7,  # MgO, CaO, NaCl2
            "frac_novel_unique_stable_structures_0": 1 / 7,
            "avg_structure_validity": 1.0,
            "avg_comp_validity": 5 / 6,
            "avg_structure_comp_validity": 5 / 6,
            "frac_unique_structures": 5 / 6,
            "frac_novel_structures": 5 / 6,
            "frac_novel_unique_structures": 4 / 6,
            "precision": 1 / 6,
            "recall": 1 / 4,
            "frac_unique_systems": 4 / 6,  # Na-Cl, Mg-O, Ca-O, K-Br
            "frac_novel_systems": 3 / 6,
        },
        abs=1e-6,
    )
    stable = found["frac_stable_structures"]
    assert (stable.count, stable.n) == (5, 7)
    assert 0 < stable.low < stable.value < stable.high < 1
    differences = {d.what: d for d in result.differences}
    assert "(1) count all the same" in differences["potential"].ours
    assert differences["what cannot be read"].ours.startswith("1 of 8")
    assert "structures of the reference" in differences["novelty"].ours


def test_without_a_potential_mattergens_numbers_are_of_the_crystals_as_given():
    names = {m.name: m for m in counted("mattergen", None).metrics}
    assert not [n for n in names if "stable" in n or "hull" in n or "rmsd" in n]
    assert names["frac_unique_structures"].n == 7


def test_lemats_numbers():
    values = {m.name: m.value for m in counted("lemat").metrics}
    # NaCl2 is not charge balanced: 6 of the 7 that were read are valid, and the rest is of those 6.
    assert values == pytest.approx(
        {
            "charge_neutral_ratio": 6 / 7,
            "distance_valid_ratio": 1.0,
            "plausibility_valid_ratio": 1.0,
            "overall_valid_ratio": 6 / 7,
            "unique_rate": 4 / 6,  # MgO and KBr are there twice
            "novelty_score": 5 / 6,
            "stable_ratio": 2 / 6,
            "metastable_ratio": 4 / 6,
            "mean_e_above_hull": (0 - 0.1 + 0.02 + 0.05 + 0.3) / 5,
            "sun_rate": 1 / 6,  # MgO
            "msun_rate": 1 / 6,  # CaO
            "combined_sun_msun_rate": 2 / 6,
        }
    )
