"""Flow runs as Slurm jobs: a real Prefect server, a real worker, a real Slurm."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from heliodor.cluster.settings import Resources
from heliodor.deployments.slurm_pool import SlurmJobConfiguration, job_name
from heliodor.deployments.slurm_worker import SlurmWorker

FLOWS = """
import os, signal, time
from prefect import flow

@flow
def work(doing: str = "end"):
    print("doing", doing)
    if doing == "die":
        os.kill(os.getppid(), signal.SIGKILL)
    if doing != "end":
        time.sleep(600)
"""


def test_the_form_asks_for_every_resource_and_explains_it():
    template = SlurmWorker.get_default_base_job_template()
    properties = template["variables"]["properties"]
    for name in (*Resources.model_fields, "folder", "poll", "env", "command"):
        assert properties[name]["description"], name
        assert template["job_configuration"][name] == f"{{{{ {name} }}}}"


def test_a_configuration_becomes_a_job(tmp_path):
    from uuid import uuid4

    values = {"gpus": 2, "gpu_type": "h200", "account": "mat", "setup": ["module load cuda"]}
    configuration = SlurmJobConfiguration(
        **values, folder=str(tmp_path), command="{python} -m prefect flow-run execute"
    )
    assert configuration.resources() == Resources(**values)
    run = uuid4()
    job = configuration.job(run)
    assert (job.name, job.folder) == (job_name(run), tmp_path / str(run))
    assert job.command == ("{python}", "-m", "prefect", "flow-run", "execute")


def test_prefect_finds_the_worker_without_heavy_imports():
    code = """
import sys
from prefect.plugins import load_prefect_collections
from prefect.workers.base import BaseWorker

found = load_prefect_collections()["heliodor_slurm"]
assert not isinstance(found, Exception), found
assert BaseWorker.get_worker_class_from_type("heliodor-slurm").type == "heliodor-slurm"
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "heliodor.deployments.slurm_worker" in loaded
    assert not {"pymatgen", "ase", "torch", "pandas", "sqlalchemy", "numpy"} & loaded


class Server:
    """The server's REST interface, as far as it is used here."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=None if method == "GET" else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        for attempt in range(10):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:  # its SQLite is busy
                if error.code != 503 or attempt == 9:
                    raise
            time.sleep(1)
        raise AssertionError

    def run(self, deployment: str, doing: str, **variables: Any) -> str:
        body = {"parameters": {"doing": doing}, "job_variables": variables}
        return str(self.call(f"deployments/{deployment}/create_flow_run", body)["id"])

    def read(self, run: str) -> Any:
        return self.call(f"flow_runs/{run}", method="GET")

    def wait(self, run: str, kind: str, seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            found = self.read(run)
            if found["state"]["type"] == kind:
                return found
            assert time.monotonic() < deadline, (kind, found["state"], self.log(run))
            time.sleep(0.5)

    def cancel(self, run: str) -> None:
        self.call(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    def log(self, run: str) -> str:
        lines = self.call("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return "\n".join(line["message"] for line in lines)

    def until_log(self, run: str, words: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.log(run):
            assert time.monotonic() < deadline, self.log(run)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of our own; gives its API URL."""
    module = runpy.run_path(str(Path(__file__).parents[1] / "prefect_server.py"))
    with module["prefect_server"](tmp_path_factory.mktemp("prefect")) as server:
        yield server.url


Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(server_url: str, slurm: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker of the pool `cluster`."""
    workers: list[subprocess.Popen[bytes]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {
        "PREFECT_API_URL": server_url,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
    }

    def call() -> subprocess.Popen[bytes]:
        log = (tmp_path / "worker.log").open("ab")
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cluster"]
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
        workers.append(worker)
        return worker

    yield call
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGINT)
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def jobs(slurm: Any, *runs: str) -> list[str]:
    from uuid import UUID

    from heliodor.cluster.slurm import Slurm

    return list(Slurm().find([job_name(UUID(run)) for run in runs]).values())


@pytest.mark.slow
def test_flow_runs_end_die_are_cancelled_and_outlive_their_worker(
    server_url: str, slurm: Any, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "sleepy.py").write_text(FLOWS)
    server = Server(server_url)
    pool = {
        "name": "cluster",
        "type": "heliodor-slurm",
        "base_job_template": SlurmWorker.get_default_base_job_template(),
    }
    server.call("work_pools/", pool)
    flow = server.call("flows/", {"name": "work"})["id"]
    environment = {"PYTHONPATH": str(tmp_path), "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    deployment = server.call(
        "deployments/",
        {
            "name": "slurm",
            "flow_id": flow,
            "entrypoint": "sleepy.work",
            "path": str(tmp_path),
            "work_pool_name": "cluster",
            "job_variables": {
                "folder": str(tmp_path / "runs"),
                "poll": 1,
                "time": "00:10:00",
                "memory_gb": 1,
                "env": environment,
            },
        },
    )["id"]

    ends = server.run(deployment, "end")
    dies = server.run(deployment, "die")
    starves = server.run(deployment, "end", memory_gb=0.05)
    refused = server.run(deployment, "end", partition="nowhere")
    held = server.run(deployment, "end", directives=["--begin=now+1hour"])
    worker = start()

    assert "Invalid partition" in server.wait(refused, "CRASHED")["state"]["message"]
    assert "out of memory" in server.wait(starves, "CRASHED")["state"]["message"]
    server.wait(ends, "COMPLETED")
    assert "doing end" in (tmp_path / "runs" / ends / "job.log").read_text()
    message = server.wait(dies, "CRASHED")["state"]["message"]
    assert "killed by SIGKILL" in message, message
    server.until_log(dies, "The end of its output")

    assert len(jobs(slurm, held)) == 1
    server.until_log(held, "queued: waits (BeginTime)")
    server.cancel(held)
    server.wait(held, "CANCELLED")
    assert jobs(slurm, held) == []

    first, second, waits = (
        server.run(deployment, "sleep"),
        server.run(deployment, "sleep"),
        server.run(deployment, "end", directives=["--begin=now+1hour"]),
    )
    server.wait(first, "RUNNING")
    server.wait(second, "RUNNING")
    server.until_log(waits, "queued")
    before = sorted(jobs(slurm, first, second, waits))
    assert len(before) == 3
    worker.kill()
    worker.wait()
    (number,) = jobs(slurm, second)
    slurm.command("scancel", "--signal=KILL", number)
    start()
    message = server.wait(second, "CRASHED")["state"]["message"]
    assert f"Slurm job {number} ended: cancelled" in message
    server.until_log(first, "is watched again")
    server.until_log(waits, "is watched again")
    assert sorted([*jobs(slurm, first, waits), number]) == before  # none was submitted again
    for run in (first, waits):
        server.cancel(run)
    for run in (first, waits):
        server.wait(run, "CANCELLED")
    deadline = time.monotonic() + 30
    while jobs(slurm, first, waits):
        assert time.monotonic() < deadline
        time.sleep(0.5)
