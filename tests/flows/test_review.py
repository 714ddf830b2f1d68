"""A closer look at finalists: `heliodor review` on a campaign that has ended."""

from __future__ import annotations

import json
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from heliodor.core.campaign import Review, parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.provenance import provenance
from heliodor.core.records import Candidate, Origin, Outcome, Stage, Status
from heliodor.core.settings import Settings
from heliodor.flows.build import open_ledger, remember, reopen
from heliodor.flows.review import review_finalists
from heliodor.flows.stability_scorers import stability_scorers

P = provenance("0" * 64, {})
GOOD = {"passed": True}


def rock_salt(a: float, cation: int, anion: int) -> Crystal:
    return Crystal(a / 2 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion])


MGO, NACL = rock_salt(4.25, 12, 8), rock_salt(5.65, 11, 17)


@pytest.fixture
def folder(tmp_path):
    """A campaign that has ended: MgO on the hull, NaCl far above it (as recorded)."""
    campaign = parse_campaign(
        {
            "name": "done",
            "generator": {"kind": "random"},
            "relaxer": {"kind": "chgnet"},
            "dft": {"kind": "none"},
            "review": {"scores": False},
        }
    )
    settings = Settings()
    ledger = open_ledger(campaign, tmp_path, settings)
    remember(campaign, tmp_path)
    ledger.add([(i, Candidate(c, Origin("g", "1", 0, i))) for i, c in enumerate((MGO, NACL))], P)
    for slot, (crystal, above) in enumerate(((MGO, 0.0), (NACL, 0.5))):
        verdicts = {"validity": GOOD, "uniqueness": GOOD, "novelty": GOOD}
        relaxed = {
            "energy": -11.9, "max_force": 0.0, "max_stress": 0.0, "steps": 1, "converged": True,
            "model": "chgnet-0.3.0", "seconds": 0.1,
        }  # fmt: skip
        hull = {
            "energy_above_hull": above, "decomposition_energy": above, "formation_energy_per_atom": -3.0,
            "decomposition": [], "level": "chgnet-0.3.0", "corrections": "", "reference": "r",
        }  # fmt: skip
        ledger.record([Outcome(slot, Stage.SCREEN, Status.PASSED, data=verdicts)], P)
        ledger.record([Outcome(slot, Stage.RELAX, Status.PASSED, data=relaxed, crystal=crystal)], P)
        ledger.record([Outcome(slot, Stage.ASSESS, Status.PASSED, data={**verdicts, "hull": hull})], P)
        ledger.record([Outcome(slot, Stage.REVIEW, Status.PASSED, data={"scores": {"old": 7.0}})], P)
    return tmp_path


def look(folder, asked: Review, **options):
    ledger, campaign = reopen(folder, Settings())
    return review_finalists(ledger, campaign, folder, asked, Settings(), **{"top": 5, **options})


def test_nothing_asked_is_refused(folder):
    with pytest.raises(InputError, match="nothing to review"):
        look(folder, Review(scores=False))


def test_no_finalists_is_said_with_what_would_help(folder):
    ledger, _ = reopen(folder, Settings())
    known = {"passed": False, "match": "mp-1265"}
    (assessed, _) = ledger.outcomes(Stage.ASSESS)
    data = {**assessed.data, "novelty": known}
    ledger.record([Outcome(0, Stage.ASSESS, Status.PASSED, attempt=2, data=data)], P)
    with pytest.raises(InputError, match="no SUN crystals within 0.1") as refused:
        look(folder, Review(scores=False, elastic=True))
    assert "--all" in refused.value.hint


@pytest.mark.parametrize("name", ["chgnet", "sevennet-mf-r2scan"])
def test_potentials_that_are_no_second_opinion_are_refused(name):
    pytest.importorskip("chgnet")
    pytest.importorskip("sevenn")
    from heliodor.flows.build import build_relaxer
    from heliodor.validators.reference_embedded import EmbeddedReference

    campaign = parse_campaign(
        {"name": "t", "generator": {"kind": "random"}, "review": {"potentials": [name]}}
    )
    relaxer = build_relaxer(campaign.relaxer, 1)
    with pytest.raises(InputError), ExitStack() as resources:
        stability_scorers(campaign, EmbeddedReference(), relaxer, Settings(), resources)


def test_a_relaxer_without_forces_cannot_do_phonons():
    campaign = parse_campaign(
        {
            "name": "t",
            "generator": {"kind": "random"},
            "relaxer": {"kind": "plugin", "name": "mine"},
            "review": {"scores": False, "elastic": True},
        }
    )
    relaxer = SimpleNamespace(name="mine", model="m", relax=None, supports=None, close=None)
    with pytest.raises(InputError, match="gives none"):
        stability_scorers(campaign, SimpleNamespace(), relaxer, Settings(), ExitStack())


def test_unknown_potentials_are_refused_by_the_campaign_file():
    with pytest.raises(InputError, match="review.potentials"):
        parse_campaign(
            {"name": "t", "generator": {"kind": "random"}, "review": {"potentials": ["m3gnet"]}}
        )


@pytest.mark.parametrize("asked", [{"phonons": True}, {"elastic": True}, {"potentials": ["chgnet"]}])
def test_without_a_potential_there_is_nothing_to_compute_with(asked):
    content = {
        "name": "t",
        "generator": {"kind": "random"},
        "relaxer": {"kind": "none"},
        "review": asked,
    }
    with pytest.raises(InputError, match="needs a potential"):
        parse_campaign(content)


@pytest.mark.slow
def test_columns_are_added_and_what_was_known_stays(folder):
    pytest.importorskip("sevenn")
    pytest.importorskip("chgnet")
    asked = Review(scores=False, elastic=True, potentials=("sevennet",))
    (finalist,) = look(folder, asked)
    assert finalist.formula == "MgO", "NaCl lies too high"
    assert finalist.scores["old"] == 7.0
    assert finalist.scores["elastically_stable"] is True
    assert 90 < finalist.scores["bulk_modulus"] < 200  # measured: 163 GPa; the potentials are soft
    assert finalist.scores["energy_above_hull_sevennet-0"] < 0.1
    table = pd.read_parquet(folder / "crystals.parquet").set_index("slot")
    assert table["elastically_stable"][0]
    assert table["elastically_stable"].isna()[1]
    assert table["old"].tolist() == [7.0, 7.0]
    described = {c["name"] for c in json.loads((folder / "columns.json").read_text())}
    assert set(table.columns) <= described
    ledger, campaign = reopen(folder, Settings())
    assert campaign.review.elastic, "the folder says what its columns are"
    assert [o.attempt for o in ledger.outcomes(Stage.REVIEW)] == [2, 1], "append-only"
    assert look(folder, asked) == [finalist]
    assert [o.attempt for o in ledger.outcomes(Stage.REVIEW)] == [2, 1], "nothing is computed twice"
