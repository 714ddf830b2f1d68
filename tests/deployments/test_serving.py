"""Campaigns that a real Prefect server runs: on a schedule, and again after their process was killed."""

from __future__ import annotations

import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

pytest.importorskip("prefect")

from heliodor.core.campaign import load_campaign
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.flows.build import stages_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

TESTS = Path(__file__).parents[1]
SILENCE = 35  # seconds; heartbeats come every 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    module = runpy.run_path(str(TESTS / "prefect_server.py"))
    often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    with module["prefect_server"](tmp_path_factory.mktemp("server"), **often) as running:
        yield running


@pytest.fixture
def environment(server: Any, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in server.client(tmp_path / "home").items() if not k.startswith("HELIODOR_")}
    polled = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **polled, "HELIODOR_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def api(server: Any) -> Iterator[Callable[..., Any]]:
    with httpx.Client(base_url=f"{server.url}/", timeout=30) as client:

        def call(path: str, **content: Any) -> Any:
            answer = client.post(path, json=content)
            answer.raise_for_status()
            return answer.json()

        yield call


def write(tmp_path: Path, name: str, candidates: int) -> Path:
    content = {
        "name": name,
        "seed": 3,
        "space": {"elements": ["Na", "Cl", "Mg", "O"], "max_atoms": 10, "subsystems": True},
        "generator": {"kind": "substitution"},
        "relaxer": {"kind": "none"},
        "dft": {"kind": "none"},
        "review": {"scores": False},
        "budget": {"candidates": candidates, "round_size": 50},
    }
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def serving(environment: dict[str, str], folder: Path, *words: object) -> Iterator[psutil.Process]:
    """`heliodor serve` in a folder; it and its children are gone afterwards."""
    command = [sys.executable, "-m", "heliodor.cli", "serve", *map(str, words)]
    with (folder / "serve.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    served = psutil.Process(process.pid)
    try:
        yield served
    finally:
        kill(served)
        process.wait(30)


def kill(process: psutil.Process) -> None:
    """This process and those that it started."""
    with_children = [process]
    if process.is_running():
        with_children += process.children(recursive=True)
    for one in with_children:
        if one.is_running():
            one.send_signal(signal.SIGKILL)


def wait(what: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError("it did not come to that")


def deployment(api: Callable[..., Any], name: str) -> str:
    def find() -> Any:
        return api("deployments/filter", deployments={"name": {"any_": [name]}})

    return str(wait(find)[0]["id"])


def runs(api: Callable[..., Any], deployment_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api(
        "flow_runs/filter", flow_runs={"deployment_id": {"any_": [deployment_id]}}
    )
    return found


def outcomes(folder: Path) -> int:
    path = folder / "ledger.sqlite"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        try:
            return int(ledger.execute("select count(*) from outcome").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def content(file: Path, folder: Path) -> dict[Any, Any]:
    """What a ledger says, without times and machines."""
    campaign = load_campaign(file)
    database = Database(f"sqlite:///{folder / 'ledger.sqlite'}", create=False)
    ledger = Ledger(database, campaign, stages_of(campaign))
    said: dict[Any, Any] = {
        (o.slot, stage): (o.status, o.reason, {k: v for k, v in o.data.items() if k != "seconds"})
        for stage in ledger.stages
        for o in ledger.outcomes(stage)
    }
    said |= {slot: c.key for slot, c in ledger.candidates(range(1000)).items()}
    return said


def test_a_schedule_makes_runs_and_a_spent_budget_ends_them_at_once(api, environment, tmp_path):
    file = write(tmp_path, "nightly", 50)
    with serving(environment, tmp_path, file, "--cron", "* * * * *", "--rounds", "1"):
        id_ = deployment(api, "nightly")
        ahead = wait(lambda: [r for r in runs(api, id_) if r["auto_scheduled"]], 30)
        assert len(ahead) >= 2, "the scheduler looks further ahead than one run"

        def ended(n: int) -> list[dict[str, Any]]:
            done = [r for r in runs(api, id_) if r["state_type"] == "COMPLETED"]
            return done if len(done) >= n else []

        first, second = sorted(wait(lambda: ended(2), 240), key=lambda r: r["start_time"])[:2]
    assert first["name"] == "nightly"
    assert first["state"]["message"] == "budget of candidates spent"
    assert second["state"]["message"] == "nothing was left to do: budget of candidates spent"
    assert outcomes(tmp_path / "runs" / "nightly") == len(
        {key for key in content(file, tmp_path / "runs" / "nightly") if isinstance(key, tuple)}
    )


def test_a_run_whose_process_and_server_process_are_killed_goes_on(api, environment, tmp_path):
    file = write(tmp_path, "killed", 400)
    folder = tmp_path / "runs" / "killed"
    with serving(environment, tmp_path, file) as served:
        id_ = deployment(api, "killed")
        patience = "import sys; from prefect.client.orchestration import get_client\n"
        patience += "from heliodor.deployments.resuming import register_resuming\n"
        patience += f"with get_client(sync_client=True) as c: register_resuming(c, silence={SILENCE})"
        subprocess.run([sys.executable, "-c", patience], env=environment, check=True, cwd=tmp_path)
        api(f"deployments/{id_}/create_flow_run")
        wait(lambda: outcomes(folder) > 100)
        kill(served)
    at_the_kill = outcomes(folder)
    [run] = runs(api, id_)
    assert run["state_type"] == "RUNNING", "nobody was left to tell the server"

    def resumed() -> Any:
        return next((r for r in runs(api, id_) if r["state_name"] == "Resuming"), None)

    wait(resumed, SILENCE + 60)
    with serving(environment, tmp_path, file):
        [done] = wait(lambda: [r for r in runs(api, id_) if r["state_type"] == "COMPLETED"], 180)
    assert done["id"] == run["id"]
    assert done["run_count"] == 2
    calm = [sys.executable, "-m", "heliodor.cli", "run", str(file), "--out", str(tmp_path / "calm")]
    subprocess.run(calm, env=environment, check=True, capture_output=True, cwd=tmp_path, timeout=200)
    undisturbed = content(file, tmp_path / "calm")
    assert len(undisturbed) > 400
    assert 100 < at_the_kill < len(undisturbed) - 400, "the kill came too early or too late"
    assert content(file, folder) == undisturbed


def test_a_cancelled_run_stays_cancelled(api, environment, tmp_path):
    """The signal that ends its process is no crash to resume from."""
    file = write(tmp_path, "cancelled", 1000)
    with serving(environment, tmp_path, file):
        id_ = deployment(api, "cancelled")
        run = api(f"deployments/{id_}/create_flow_run")
        wait(lambda: outcomes(tmp_path / "runs" / "cancelled") > 100)
        api(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})
        wait(lambda: runs(api, id_)[0]["state_type"] == "CANCELLED", 60)
        time.sleep(6)  # time to be resumed
        [found] = runs(api, id_)
    assert (found["state_type"], found["run_count"]) == ("CANCELLED", 1)
    assert outcomes(tmp_path / "runs" / "cancelled") > 100


def test_a_run_that_crashes_again_and_again_fails_in_the_end(api, environment, tmp_path):
    """Its last state is set as a worker would; nothing runs it in between."""
    register = """
from prefect import flow
from prefect.client.orchestration import get_client
from heliodor.deployments.resuming import register_resuming

@flow
def idle(): ...

with get_client(sync_client=True) as client:
    register_resuming(client, resumes=2)
    print(client.create_flow_run(idle, tags=["heliodor"]).id)
"""
    made = subprocess.run(
        [sys.executable, "-c", register], env=environment, check=True, capture_output=True, text=True
    )
    id_ = made.stdout.split()[-1]

    def state() -> dict[str, Any]:
        [run] = api("flow_runs/filter", flow_runs={"id": {"any_": [id_]}})
        return dict(run["state"])

    for crash in range(3):
        api(f"flow_runs/{id_}/set_state", state={"type": "CRASHED", "message": f"{crash}"}, force=True)
        last = wait(lambda: (s := state()) and s["type"] != "CRASHED" and s, 60)
        if crash < 2:
            assert last["name"] == "Resuming"
            time.sleep(3)  # time to give up too early
            assert state()["name"] == "Resuming"
    final = wait(lambda: (s := state()) and s["type"] == "FAILED" and s, 60)
    assert "given up: it crashed more than 2 times" in final["message"]


def test_deploying_twice_changes_nothing_and_forgets_nothing(api, environment, tmp_path):
    file = write(tmp_path, "twice", 50)
    make = [sys.executable, "-m", "prefect", "work-pool", "create", "pool", "--type", "process"]
    subprocess.run(make, env=environment, check=True, capture_output=True)

    def deploy(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "heliodor.cli", "deploy", str(file), *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
        )

    missing = deploy("--pool", "nowhere")
    assert missing.returncode == 2
    assert "known: pool" in missing.stderr
    assert "prefect work-pool create nowhere" in missing.stderr
    assert deploy("--pool", "pool", "--cron", "0 22 * * *").returncode == 0
    before = sorted(api("automations/filter"), key=lambda a: a["name"])
    assert deploy("--pool", "pool", "--resumes", "3").returncode == 0
    after = sorted(api("automations/filter"), key=lambda a: a["name"])
    ours = [a for a in after if a["name"].startswith("heliodor: ")]
    assert len(ours) == 3
    changed = [b["name"] for b, a in zip(before, after, strict=True) if a["updated"] != b["updated"]]
    assert changed == ["heliodor: given up"]
    [found] = api("deployments/filter", deployments={"name": {"any_": ["twice"]}})
    assert found["schedules"] == []
    assert found["work_pool_name"] == "pool"
