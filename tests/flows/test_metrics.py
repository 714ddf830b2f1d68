"""The campaign's numbers for Prometheus and for the terminal."""

import json
import threading
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from heliodor.cli import app
from heliodor.core.campaign import parse_campaign
from heliodor.core.database import Database
from heliodor.core.journal import Journal
from heliodor.core.ledger import Ledger
from heliodor.core.records import Candidate, Failure, Origin, Outcome, Reason, Stage, Status
from heliodor.flows.build import remember, stages_of
from heliodor.flows.metrics import CONTENT_TYPE, metrics_text, server
from heliodor.testing import rock_salt

P = ("p", {})
HULL = {"energy_above_hull": 0.0, "decomposition_energy": -0.02}
GOOD = {"hull": HULL, "uniqueness": {"passed": True}, "novelty": {"passed": True}}


@pytest.fixture
def folder(tmp_path):
    campaign = parse_campaign(
        {
            "name": "told",
            "space": {"elements": ["Mg", "O"]},
            "generator": {"kind": "substitution"},
            "budget": {"candidates": 8, "gpu_hours": 2, "prices": {"gpu_hour": 3}},
        }
    )
    ledger = Ledger(Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}"), campaign, stages_of(campaign))
    remember(campaign, tmp_path)
    origin = Origin("t", "1", 0, 0)
    made = [(i, Candidate(rock_salt(4.2 + i / 100), origin)) for i in range(3)]
    ledger.add([*made, (3, Failure("", Reason.GENERATION, 'a "quoted" fault'))], P)
    ledger.record([Outcome(i, Stage.SCREEN, Status.PASSED) for i in range(2)], P)
    ledger.record([Outcome(2, Stage.SCREEN, Status.REJECTED, Reason.DUPLICATE)], P)
    ledger.record([Outcome(i, Stage.RELAX, Status.PASSED) for i in range(2)], P)
    ledger.record([Outcome(0, Stage.ASSESS, Status.PASSED, data=GOOD)], P)
    Journal(ledger.database, ledger.campaign_id).meter("run a", {"gpu_hours": 0.5, "node_hours": 1})
    ledger.leases.enter()  # as a campaign that is being run
    ledger.claim(Stage.ASSESS, range(8), 5)
    return tmp_path


def test_prometheus_reads_the_metrics(folder):
    parser = pytest.importorskip("prometheus_client.parser")
    text = metrics_text([folder, folder / "nothing"])
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    samples = {
        (s.name, *sorted(v for k, v in s.labels.items() if k not in ("campaign", "folder"))): s.value
        for family in families.values()
        for s in family.samples
    }
    assert families["heliodor_spent"].type == "counter"
    assert samples["heliodor_spent_total", "gpu_hours"] == 0.5
    assert samples["heliodor_spent_total", "money"] == 1.5
    assert samples["heliodor_budget_limit", "gpu_hours"] == 2
    assert ("heliodor_budget_limit", "node_hours") not in samples, "no limit, no number"
    assert samples["heliodor_outcomes", "duplicate", "rejected", "screen"] == 1
    assert samples["heliodor_outcomes", "failed", "generate", "generation_failed"] == 1
    assert samples["heliodor_sun_crystals", "0"] == 1
    assert samples["heliodor_leases_in_flight", "assess"] == 1
    assert samples["heliodor_leases_in_flight", "relax"] == 0
    up = {s.labels["folder"]: s.value for s in families["heliodor_campaign_up"].samples}
    assert up == {str(folder): 1, str(folder / "nothing"): 0}


def test_they_are_served(folder):
    with server([folder], 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{serving.server_port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert answer.read().decode() == metrics_text([folder])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/other", timeout=20)
        serving.shutdown()


def test_status_says_it_all(folder):
    jobs = folder / "jobs"
    for name, files in {"a": ["work.json"], "b": ["work.json", "started.json"]}.items():
        (jobs / name).mkdir(parents=True)
        for file in files:
            (jobs / name / file).write_text("{}")
    found = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).stdout)
    assert found["stages"]["screen"] == {"passed": 2, "rejected": {"duplicate": 1}, "failed": {}}
    budget = {row["name"]: row for row in found["budget"]}
    assert budget["gpu_hours"] == {"name": "gpu_hours", "spent": 0.5, "limit": 2, "left": 1.5}
    assert budget["candidates"]["spent"] == 4
    assert found["best"] == [{"slot": 0, "formula": "MgO", **HULL}]
    assert (found["sun"]["count"], found["sun"]["n"]) == (1, 4)
    assert found["jobs"] == {"running": 1, "waiting": 1, "ended": 0}
    shown = CliRunner().invoke(app, ["status", str(folder)]).stdout
    for words in ("GPU hours", "25%", "MgO", "-0.020", "1 running, 1 waiting", "1 duplicate"):
        assert words in shown
