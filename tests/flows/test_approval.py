"""A deployment's run that waits for a person, on a real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from heliodor.core.journal import Journal, Kind
from heliodor.core.records import Stage
from heliodor.core.settings import load_settings
from heliodor.flows.build import reopen
from heliodor.validators.energies import elemental_energies

pytestmark = pytest.mark.slow

BEGIN = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.deployments.runner import EntrypointType
from heliodor.core.campaign import load_campaign
from heliodor.flows.discover import discover
campaign, folder = sys.argv[1:]
made = discover.to_deployment("gated", entrypoint_type=EntrypointType.MODULE_PATH)
given = {"campaign": load_campaign(campaign).model_dump(mode="json"), "folder": folder}
with get_client(sync_client=True) as client:
    print(client.create_flow_run_from_deployment(made.apply(), parameters=given).id)
"""

ASK = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
run, answer = sys.argv[1:]
with get_client(sync_client=True) as client:
    mine = {"id": ["heliodor.campaign.gated"]}  # other tests' campaigns are on this server too
    wanted = {"filter": {"event": {"prefix": ["heliodor."]}, "resource": mine}}
    found = client.request("POST", "/events/filter", json=wanted)
    events = [(e["event"], e["payload"]["message"]) for e in found.json()["events"]]
    made = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    artifacts = {a.key: a.data for a in client.read_artifacts(artifact_filter=made)}
    flow_run = client.read_flow_run(run)
    if answer:
        response = client.resume_flow_run(flow_run.id, run_input=json.loads(answer))
        assert response.status.value == "ACCEPT", response
print(json.dumps([flow_run.state.name, flow_run.state.message, events, artifacts]))
"""


def python(environment: dict[str, str], code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def execute(environment: dict[str, str], run: str, folder: Path) -> None:
    """What a worker does with a flow run. Prefect copies the folder where it begins: a small one."""
    command = [str(Path(sys.executable).with_name("prefect")), "flow-run", "execute", run]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def entry(structure: Structure, name: str, formation: float) -> dict:
    elements = elemental_energies()
    energy = sum(elements[z] for z in structure.atomic_numbers) + formation * len(structure)
    data = {"formation_energy_per_atom": formation}
    return ComputedStructureEntry(structure, energy, entry_id=name, data=data).as_dict()


@pytest.fixture
def campaign(tmp_path, write_campaign) -> Path:
    """LiAl3 against a table of the elements."""
    fcc, bcc = Lattice.cubic(4.05), Lattice.cubic(3.44)
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    known = [
        entry(Structure(fcc, ["Al"] * 4, sites), "al", 0.0),
        entry(Structure(bcc, ["Li"] * 2, [[0, 0, 0], [0.5] * 3]), "li", 0.0),
    ]
    (tmp_path / "known.json").write_text(json.dumps(known))
    folder = tmp_path / "proposed"
    folder.mkdir()
    Structure(Lattice.cubic(4.02), ["Li", "Al", "Al", "Al"], sites).to(str(folder / "a.cif"))
    return write_campaign(
        "gated",
        space={"elements": ["Al", "Li"], "subsystems": True},
        generator={"kind": "files", "paths": [str(folder)]},
        reference={"kind": "file", "path": str(tmp_path / "known.json")},
        review={"scores": False},
        select={"max_energy_above_hull": 1.0, "top": 1},
        dft={"kind": "mlip", "approval": True},
        budget={"candidates": 1, "round_size": 1, "node_hours": 5},
    )


def test_a_run_waits_for_its_form_and_goes_on_with_the_answer(environment, campaign, tmp_path):
    folder = tmp_path / "out"
    run = python(environment, BEGIN, campaign, folder)
    execute(environment, run, campaign.parent)
    answer = {"answer": "no", "leave_out": [], "comment": "too dear", "who": "Ann"}
    state, _, events, artifacts = json.loads(python(environment, ASK, run, json.dumps(answer)))
    assert state == "Suspended"
    told = [event for event, _ in events]
    assert told.count("heliodor.approval.wanted") == 1
    assert told.count("heliodor.sun.found") == 1, "LiAl3 lies below the elements"
    assert "data:image/svg+xml;base64," in artifacts["gated-best"]
    assert "| node hours |" in artifacts["gated-budget"]
    assert {"gated-funnel", "gated-failures", "gated-progress-relax"} <= set(artifacts)
    assert artifacts["gated-progress-relax"] == 100
    assert (folder / "report.html").is_file(), "what there is to see is there while it waits"

    execute(environment, run, campaign.parent)
    state, message, events, _ = json.loads(python(environment, ASK, run, ""))
    assert state == "Completed"
    assert "1 crystal declined by Ann" in message
    told = [event for event, _ in events]
    assert sorted(set(told)) == sorted(told), "each once"
    assert "heliodor.budget.spent" in told
    ledger, _ = reopen(folder, load_settings())
    [decision] = Journal(ledger.database, ledger.campaign_id).entries(Kind.DECISION)
    assert decision.data == {"yes": False, "leave_out": [], "who": "Ann", "comment": "too dear"}
    assert ledger.outcomes(Stage.VERIFY) == []
