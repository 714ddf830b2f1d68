"""From the hull back to the energies of a potential: when a relaxation may be given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.records import Reason, Relaxed
from heliodor.testing import rock_salt
from heliodor.validators.hull import Hull
from heliodor.validators.reference_embedded import EmbeddedReference
from heliodor.validators.stability import Stability


@pytest.fixture(scope="module")
def stability():
    return Stability(EmbeddedReference())


@pytest.mark.parametrize("model", ["chgnet-0.3.0", "sevennet-0"])
@pytest.mark.parametrize("above", [0.0, 0.3])
def test_a_crystal_at_its_ceiling_lies_so_far_above_the_hull(stability, model, above):
    crystal = rock_salt()
    (ceiling,) = stability.ceilings([crystal], model=model, above=above)
    at = Relaxed(crystal.digest, crystal, ceiling, 0.0, 0.0, 0, converged=True, model=model)
    assert stability.judge(at).decomposition_energy == pytest.approx(above, abs=1e-9)


def test_without_a_reference_there_is_no_ceiling(stability):
    polonium = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])
    assert stability.ceilings([polonium], model="chgnet-0.3.0", above=0.1) == [None]


def crystals():
    """Rock salts, an element that the reference does not know, and an energy that is none."""
    made = [
        rock_salt(a, cation, anion) for a, cation, anion in ((4.2, 12, 8), (4.8, 20, 8), (5.6, 11, 17))
    ]
    relaxed = [Relaxed(c.digest, c, -11.0, 0, 0, 1, converged=True, model="chgnet-0.3.0") for c in made]
    polonium = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])
    relaxed.append(Relaxed("po", polonium, -3.0, 0, 0, 1, converged=True, model="chgnet-0.3.0"))
    relaxed.append(replace(relaxed[0], key="nan", energy=float("nan")))
    return relaxed


def test_a_batch_is_judged_as_one_by_one(stability):
    batch = crystals()
    together = stability.judge_many(batch)
    assert together == [stability.judge(r) for r in batch]
    assert [p.key for p in together] == [r.key for r in batch]
    assert [getattr(p, "reason", None) for p in together] == [
        None,
        None,
        None,
        Reason.NO_REFERENCE,
        Reason.ENERGY,
    ]
    assert stability.judge_many([]) == []


def test_a_hull_that_fails_costs_only_its_crystal(stability, monkeypatch):
    batch = crystals()[:3]
    whole = Hull.ground_states

    def failing(hull, compositions):
        if any(z == 17 for c in compositions for z, _ in c):
            raise ArithmeticError("no optimum")
        return whole(hull, compositions)

    monkeypatch.setattr(Hull, "ground_states", failing)
    found = stability.judge_many(batch)
    assert [getattr(p, "reason", None) for p in found] == [None, None, Reason.CHECK_FAILED]
