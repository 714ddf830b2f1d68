"""Second opinions, their consensus and uncertainty, the calibration behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.errors import HeliodorError
from heliodor.core.records import Failure, HullPoint, Judged, Reason, Relaxed
from heliodor.validators.calibration import CALIBRATIONS, likelihood
from heliodor.validators.opinions import Opinion, Opinions

SALT = Crystal(2.1 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])
SODIUM = Crystal(2.8 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])


def point(key: str, signed: float, model: str) -> HullPoint:
    return HullPoint(key, max(0.0, signed), signed, -1.0 + signed, (), model, "", "r")


def judged(crystal: Crystal, signed: float) -> Judged:
    relaxed = Relaxed(crystal.digest, crystal, -1.0, 0.0, 0.0, 0, converged=True, model="chgnet-0.3.0")
    return Judged(crystal.digest, crystal, relaxed, point(crystal.digest, signed, "chgnet-0.3.0"))


class Says:
    """A potential whose distances to the hull are given by formula; None: it fails."""

    name = "says"

    def __init__(self, model, signed, converged=True, broken=False):
        self.model, self.signed, self.converged, self.broken = model, signed, converged, broken

    def supports(self, atomic_number):
        return True

    def relax(self, batch, ceilings=None):
        if self.broken:
            raise HeliodorError("no worker starts")
        for c in batch:
            if self.signed[c.formula] is None:
                yield Failure(c.digest, Reason.ELEMENT, "it does not know Na")
            else:
                yield Relaxed(c.digest, c, -2.0, 0.3, 0.0, 7, converged=self.converged, model=self.model)

    def judge(self, batch):
        return [point(r.key, self.signed[r.crystal.formula], self.model) for r in batch]

    def close(self):
        pass


def opinions(says: Says) -> Opinions:
    return Opinions("chgnet-0.3.0", [Opinion(says, says.judge)])


def test_columns_of_each_and_of_all():
    scorer = opinions(Says("sevennet-0", {"MgO": 0.06, "NaCl": -0.05}))
    salt, sodium = scorer.score([judged(SALT, 0.02), judged(SODIUM, -0.01)])
    assert salt["energy_above_hull_chgnet-0.3.0"] == 0.02
    assert salt["energy_above_hull_sevennet-0"] == 0.06
    assert salt["stable_0.1_sevennet-0"] is True
    assert salt["stable_0_consensus"] is False
    assert salt["stable_0.1_consensus"] is True
    assert salt["energy_above_hull_mean"] == pytest.approx(0.04)
    assert salt["energy_above_hull_spread"] == pytest.approx(0.02)
    errors = [CALIBRATIONS[m].new.half_width for m in ("chgnet-0.3.0", "sevennet-0")]
    assert salt["energy_above_hull_uncertainty"] == pytest.approx(math.hypot(np.mean(errors), 0.02))
    # Both lie below the hull: they agree that it is stable, and their distances differ all the same.
    assert sodium["energy_above_hull_mean"] == 0
    assert sodium["energy_above_hull_spread"] == pytest.approx(0.02)
    assert sodium["stable_0_consensus"] is True
    names = {column.name for column in scorer.columns}
    assert set(salt) | set(sodium) <= names
    assert len(names) == len(scorer.columns)


def test_a_potential_that_fails_costs_its_own_cells_only():
    scorer = opinions(Says("sevennet-0", {"MgO": 0.03, "NaCl": None}))
    salt, sodium = scorer.score([judged(SALT, 0.02), judged(SODIUM, 0.02)])
    assert salt["energy_above_hull_sevennet-0"] == 0.03
    assert sodium["not_judged_sevennet-0"] == "element_unknown_to_potential: it does not know Na"
    assert sodium["energy_above_hull_chgnet-0.3.0"] == 0.02
    assert sodium["stable_0.1_consensus"] is None, "one has no opinion"
    assert sodium["stable_0_consensus"] is False, "one disagrees, whatever the other says"
    assert "energy_above_hull_spread" not in sodium


def test_what_has_not_converged_is_no_opinion():
    (row,) = opinions(Says("sevennet-0", {"MgO": 0.0}, converged=False)).score([judged(SALT, 0.0)])
    assert row["not_judged_sevennet-0"].startswith("not_converged: 0.3 eV/angstrom after 7")


def test_a_potential_that_does_not_start_is_a_reason_in_every_row():
    (row,) = opinions(Says("sevennet-0", {}, broken=True)).score([judged(SALT, 0.0)])
    assert row["not_judged_sevennet-0"] == "check_failed: no worker starts"
    assert row["stable_0_chgnet-0.3.0"] is True


def test_without_energies_nothing_is_said():
    assert opinions(Says("sevennet-0", {})).score([Judged("k", SALT)]) == [{}]
    assert Opinions("a-potential-of-mine").score([judged(SALT, 0.0)])[0].keys() <= {
        "energy_above_hull_uncertainty",
        "stable_0_likelihood",
        "stable_0.1_likelihood",
    }


def test_one_potential_has_its_calibrated_uncertainty_and_no_consensus():
    (row,) = Opinions("chgnet-0.3.0").score([judged(SALT, 0.02)])
    assert row["energy_above_hull_uncertainty"] == CALIBRATIONS["chgnet-0.3.0"].new.half_width
    assert set(row) == {
        "energy_above_hull_uncertainty",
        "stable_0_likelihood",
        "stable_0.1_likelihood",
    }


@pytest.mark.parametrize("model", sorted(CALIBRATIONS))
def test_likelihoods_fall_with_the_distance(model):
    found = [likelihood(model, d, 0.1) for d in np.linspace(-2, 2, 41)]
    assert found[0] == 1
    assert found[-1] == 0
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("model", sorted(CALIBRATIONS))
def test_errors_on_new_crystals_are_larger_than_on_known_ones(model):
    known, new = CALIBRATIONS[model].known, CALIBRATIONS[model].new
    assert 0.005 < known.mae < new.mae < 0.1
    assert known.half_width < new.half_width
    assert list(new.quantiles) == sorted(new.quantiles)
