"""The review stage: columns from scorers, on a real ledger."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from heliodor.core.campaign import parse_campaign
from heliodor.core.columns import Column
from heliodor.core.crystal import Crystal
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.core.records import Candidate, Origin, Outcome, Stage, Status
from heliodor.tasks.columns import columns_of
from heliodor.tasks.context import Context, InOrder
from heliodor.tasks.outputs import write_table_of
from heliodor.tasks.review import judged, review
from heliodor.tasks.screen import screened_crystals
from heliodor.tasks.table import records
from heliodor.validators.change import Change
from heliodor.validators.uniqueness import Uniqueness

SALT = Crystal(2.1 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])
POINT = {
    "energy_above_hull": 0.02,
    "decomposition_energy": 0.02,
    "formation_energy_per_atom": -3.0,
    "decomposition": [["MgO", "mp-1265", 1.0]],
    "level": "m",
    "corrections": "",
    "reference": "r",
    "coverage": "",
    "uncertain": False,
}
RELAXED = {
    "energy": -12.0,
    "max_force": 0.0,
    "max_stress": 0.0,
    "steps": 3,
    "converged": True,
    "model": "m",
    "seconds": 0.1,
}


class Odd:
    name = "odd"
    columns = (Column("odd", "float64", "is it odd"), Column("word", "string", "a word"))

    def score(self, batch):
        return [{"odd": math.nan, "word": "yes"} for _ in batch]


class Broken(Odd):
    name = "broken"
    columns = (Column("never", "boolean", "never there"),)

    def score(self, batch):
        raise RuntimeError("a third party's fault")


@pytest.fixture
def context(tmp_path):
    campaign = parse_campaign({"name": "t", "generator": {"kind": "random"}})
    ledger = Ledger(Database(f"sqlite:///{tmp_path / 'l.sqlite'}"), campaign)
    given = (ledger, Stage.SCREEN, screened_crystals)
    made = Context(
        campaign=campaign,
        ledger=ledger,
        folder=tmp_path,
        generator=None,
        validity=None,
        unique=InOrder(Uniqueness, *given),
        unique_relaxed=InOrder(Uniqueness, *given),
        reference=None,
        relaxer=None,
        judge=None,
        dft=None,
        workers=1,
        scorers=(Change(), Odd(), Broken()),
    )
    p = ("p", {})
    ledger.add([(0, Candidate(SALT, Origin("g", "1", 0, 0)))], p)
    passed = {"passed": True}
    screened = {"validity": passed, "uniqueness": passed, "novelty": passed}
    wider = Crystal(1.01 * SALT.lattice, SALT.frac_coords, SALT.atomic_numbers)
    for outcome in (
        Outcome(0, Stage.SCREEN, Status.PASSED, data=screened),
        Outcome(0, Stage.RELAX, Status.PASSED, data=RELAXED, crystal=wider),
        Outcome(0, Stage.ASSESS, Status.PASSED, data={**screened, "hull": POINT}),
    ):
        ledger.record([outcome], p)
    return made


def test_scores_reach_the_table_and_a_broken_scorer_costs_its_columns_only(context, tmp_path):
    work = context.ledger.claim(Stage.REVIEW, range(1), 10)
    (item,) = judged(context.ledger, work)
    assert item.hull.decomposition == (("MgO", "mp-1265", 1.0),)
    assert item.relaxed.energy == -12.0
    assert review.fn(context, work) == 1
    found = list(records(context.ledger))
    assert found[0].scores == pytest.approx(
        {
            "rmsd_from_relaxation": 0,
            "volume_change": 1.01**3 - 1,
            "odd": None,
            "word": "yes",
            "never": None,
        },
        abs=1e-9,
    )
    assert found[0].sun(0.1), "the review decides nothing"
    columns = columns_of(context.scorers, [r.scores for r in found])
    write_table_of(found, columns, tmp_path)
    table = pd.read_parquet(tmp_path / "crystals.parquet")
    assert table["volume_change"][0] == pytest.approx(1.01**3 - 1)
    assert table["never"].isna().all()
    described = {c["name"]: c for c in json.loads((tmp_path / "columns.json").read_text())}
    assert set(described) == set(table.columns)
    assert described["rmsd_from_relaxation"]["unit"] == "angstrom"
    (as_json,) = json.loads((tmp_path / "crystals.json").read_text())
    assert as_json["word"] == "yes"


def test_columns_of_earlier_runs_stay_without_their_scorer(context):
    review.fn(context, context.ledger.claim(Stage.REVIEW, range(1), 10))
    scores = [r.scores for r in records(context.ledger)]
    names = {c.name: c for c in columns_of((), scores)}
    assert names["word"].dtype == "string"
    assert names["volume_change"].dtype == "float64"
    assert "never" not in names
