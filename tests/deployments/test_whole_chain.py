"""A campaign asked for through a Prefect server, its run and its stages as Slurm jobs, its ledger on
PostgreSQL; the worker, the run and a stage's job are killed on the way.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml

pytest.importorskip("prefect")

from heliodor.cluster.slurm import Slurm
from heliodor.core.campaign import load_campaign
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.core.records import Stage
from heliodor.deployments.slurm_pool import job_name
from heliodor.flows.build import stages_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOL = "cluster"
CAMPAIGN = {
    "name": "chain",
    "seed": 3,
    "space": {"elements": ["Na", "Cl", "Mg"], "max_atoms": 6, "subsystems": True},
    "generator": {"kind": "substitution"},
    "relaxer": {"kind": "chgnet", "fmax": 0.1, "max_steps": 60},
    "review": {"scores": False},
    "dft": {"kind": "none"},
    "budget": {"candidates": 16, "round_size": 8},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    module = runpy.run_path(str(Path(__file__).parents[1] / "prefect_server.py"))
    with module["prefect_server"](tmp_path / "server") as running:
        yield running


@pytest.fixture
def environment(server: Any, slurm: Any, postgres_url: str, tmp_path: Path) -> dict[str, str]:
    """Of the login node. Jobs inherit it, as `sbatch` does by default."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIODOR_", "PREFECT_", "MP_API"))}
    return {
        **kept,
        **slurm.environment,
        "PREFECT_API_URL": server.url,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
        "HELIODOR_LEDGER_URL": postgres_url,
        "HELIODOR_CACHE": str(tmp_path / "cache"),
        "HELIODOR_WORKERS": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Starts a worker of the pool."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def content(url: str, file: Path) -> dict[tuple[int, Stage], object]:
    """What a ledger says, times and places apart; numbers to the last bit."""
    campaign = load_campaign(file)
    ledger = Ledger(Database(url, create=False), campaign, stages_of(campaign))
    found: dict[tuple[int, Stage], object] = {}
    for stage in ledger.stages:
        for o in ledger.outcomes(stage):
            data = json.dumps({k: v for k, v in o.data.items() if k != "seconds"}, sort_keys=True)
            crystal = o.crystal.to_bytes() if o.crystal else None
            found[o.slot, stage] = (o.status, o.reason, data, crystal)
    for slot, candidate in ledger.candidates(range(100)).items():
        found[slot, Stage.GENERATE] = (found[slot, Stage.GENERATE], candidate)
    return found


def until(true: Callable[[], Any], told: Callable[[], str], seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)
    return found


def test_asked_for_by_the_api_run_by_slurm_killed_three_times_and_the_same_ledger(
    server, slurm, environment, worker, postgres_url, tmp_path
):
    file, calm, folder = tmp_path / "chain.yaml", tmp_path / "calm", tmp_path / "chain"
    file.write_text(yaml.safe_dump(CAMPAIGN))
    job = {"python": sys.executable, "time": "00:20:00", "memory_gb": 2}
    cluster = tmp_path / "cluster.yaml"
    stages = {"generate": job, "relax": {**job, "gpus": 1, "gpu_type": "h200"}}
    cluster.write_text(yaml.safe_dump({"poll": 0.5, "batch": 4, "in_flight": 4, **stages}))

    def command(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("prefect", "work-pool", "create", POOL, "--type", "heliodor-slurm")
    command("heliodor.cli", "deploy", file, "--pool", POOL, "--folder", folder, "--cluster", cluster)

    with httpx.Client(base_url=server.url, timeout=60) as api:

        def ask(path: str, **body: Any) -> Any:
            answer = api.post(path, json=body)
            answer.raise_for_status()
            return answer.json()

        def state() -> tuple[str, str]:
            found = api.get(f"/flow_runs/{run}").json()["state"]
            return found["type"], found.get("message") or ""

        def told() -> str:
            logs = ask("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
            said = "\n".join(line["message"] for line in logs)
            queue, log = slurm.command("squeue"), (tmp_path / "worker.log").read_text()
            return "\n".join([*state(), said, queue, log])

        deployment = api.get("/deployments/name/discover/chain").json()["id"]
        place = {"folder": str(tmp_path / "runs"), "poll": 1, "time": "00:20:00", "memory_gb": 2.5}
        run = ask(f"/deployments/{deployment}/create_flow_run", job_variables=place)["id"]
        first = worker()

        # The worker dies; the run that it had submitted does not notice.
        until(lambda: list(folder.glob("jobs/relax/*/claim*")), told)
        first.kill()
        first.wait()
        worker()

        # The run itself dies: its worker says why, and it is started again.
        (number,) = Slurm().find([job_name(UUID(run))]).values()
        until(lambda: "is watched again" in told(), told)
        before = api.get(f"/flow_runs/{run}").json()["run_count"]
        slurm.command("scancel", "--signal=KILL", number)
        until(lambda: api.get(f"/flow_runs/{run}").json()["run_count"] > before, told)
        assert f"Slurm job {number} ended" in told()

        # A stage's job dies.
        def relaxing() -> list[str]:
            rows = slurm.command("squeue", "-h", "-r", "-t", "PD,R", "-o", "%F_%K %Z").splitlines()
            return [row.split()[0] for row in rows if "/relax/" in row]

        (cancelled, *_) = until(relaxing, told)
        slurm.command("scancel", cancelled)

        until(lambda: state()[0] in ("COMPLETED", "FAILED"), told, 600)
        assert state()[0] == "COMPLETED", told()
        artifacts = ask("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        assert any("funnel" in a["key"] for a in artifacts)

    environment.pop("HELIODOR_LEDGER_URL")
    command("heliodor.cli", "run", file, "--out", calm)
    assert content(postgres_url, file) == content(f"sqlite:///{calm / 'ledger.sqlite'}", file)
    assert (folder / "report.html").is_file()
