"""What `heliodor doctor` says of a Prefect server: against a real one."""

import re
import runpy
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from heliodor.core.settings import load_settings
from heliodor.flows.doctor_cluster import cluster_checks, job_store_check
from heliodor.flows.doctor_nodes import node_checks
from heliodor.flows.doctor_server import prefect_checks
from heliodor.flows.finding import Check

prefect_server = runpy.run_path(str(Path(__file__).parents[1] / "prefect_server.py"))["prefect_server"]


def found(monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    return {check.name: check for check in prefect_checks()}


def test_without_a_server_runs_start_their_own(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    [check] = prefect_checks()
    assert check.level == "ok"
    assert "start one" in check.found


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "no url at all"])
def test_a_server_that_does_not_answer(monkeypatch, url):
    check = found(monkeypatch, url)["Prefect server"]
    assert check.level == "fail"
    assert "prefect server start" in check.advice


def test_clocks_that_differ(monkeypatch):
    class Late(httpx.Client):
        def get(self, path):
            date = format_datetime(datetime.now(UTC) - timedelta(minutes=5), usegmt=True)
            asked = httpx.Request("GET", path)
            return httpx.Response(200, headers={"date": date}, json="3.8", request=asked)

        def post(self, path, json):
            return httpx.Response(200, json=[], request=httpx.Request("POST", path))

    monkeypatch.setattr(httpx, "Client", Late)
    check = found(monkeypatch, "http://127.0.0.1/api")["clocks"]
    assert check.level == "warn"
    seconds, how = re.fullmatch(r"the server's is (\d+) s (.*) ours", check.found).groups()
    assert how == "behind"
    assert 295 < int(seconds) < 310


@pytest.mark.slow
def test_pools_workers_and_schedules(monkeypatch, tmp_path):
    slow = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3600"}  # first look at the start only
    with (
        prefect_server(tmp_path / "home", **slow) as server,
        httpx.Client(base_url=server.url) as client,
    ):

        def post(path, **content):
            answer = client.post(path, json=content)
            answer.raise_for_status()
            return answer.json()

        flow = post("/flows/", name="discover")["id"]
        assert found(monkeypatch, server.url)["Prefect server"].level == "ok"
        post("/work_pools/", name="cluster", type="process")
        night = {"schedule": {"cron": "0 22 * * *", "timezone": "UTC"}, "active": True}
        made = post(
            "/deployments/",
            name="nightly",
            flow_id=flow,
            work_pool_name="cluster",
            tags=["heliodor"],
            schedules=[night],
            enforce_parameter_schema=False,
        )
        checks = found(monkeypatch, server.url)
        assert checks["schedules"].level == "fail"  # its scheduler is not at work
        assert "nightly" in checks["schedules"].found
        assert checks["work pool cluster"].level == "warn"
        assert "prefect worker start --pool cluster" in checks["work pool cluster"].advice

        post(f"/deployments/{made['id']}/schedule", future_seconds=100_000, min_runs=1)
        client.post("/work_pools/cluster/workers/heartbeat", json={"name": "w"}).raise_for_status()
        checks = found(monkeypatch, server.url)
        assert checks["schedules"].level == "ok"
        assert checks["work pool cluster"].found == "process; 1 workers online"


def test_sqlite_with_locks_on_this_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert job_store_check().level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written(monkeypatch):
    monkeypatch.chdir("/proc")
    check = job_store_check()
    assert check.level == "warn"
    assert "another disk" in check.advice


def test_what_slurm_says_to_each_stage_of_the_cluster_file(slurm, tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "relax: {gpus: 1, gpu_type: h200, time: '01:00:00'}\ndft: {partition: nowhere, memory_gb: 1}\n"
    )
    checks = {check.name: check for check in cluster_checks(load_settings(file))}
    assert checks["slurm, relax"].level == "ok"
    assert "gpu_type h200" in checks["slurm, relax"].found
    assert checks["slurm, dft"].level == "fail"
    assert "partition" in checks["slurm, dft"].found


def test_a_cluster_file_that_is_none(tmp_path):
    (tmp_path / "c.yaml").write_text("relax: {gpu: 1}\n")
    [check] = cluster_checks(load_settings(tmp_path / "c.yaml"))
    assert check.level == "fail"
    assert "relax.gpu" in check.found


def test_a_slurm_without_a_cluster_file(slurm, monkeypatch):
    monkeypatch.delenv("HELIODOR_CLUSTER", raising=False)
    [check] = cluster_checks(load_settings())
    assert check.level == "ok"
    assert "batch" in check.found


@pytest.mark.slow
def test_nodes_are_looked_at_by_jobs(slurm, tmp_path):
    """One is well but for its key, and of another version than here; one has no Python."""
    file = tmp_path / "cluster.yaml"
    file.write_text(
        f"jobs: {tmp_path}/shared\n"
        "relax: {gpus: 1, memory_gb: 2.5, setup: [export MP_API_KEY=short]}\n"
        "dft: {python: /nowhere/python}\n"
        "generate: {partition: nowhere}\n"
    )
    here = [Check("heliodor", "ok", "0.0.1"), Check("Python", "ok", "3.0")]
    found = {check.name: check for check in node_checks(load_settings(file), here)}
    assert "looked at; GPU: " in found["node for relax"].found
    assert found["node for relax: Materials Project key"].found == "5 characters"
    assert found["node for relax: GPU"].found == "asked for 1, PyTorch sees none"  # it is /dev/null
    version = found["node for relax: heliodor"]
    assert (version.level, "0.0.1" in version.advice) == ("fail", True)
    assert "nvalid partition" in found["node for generate"].found
    assert found["node for dft"].level == "fail"
    assert "/nowhere/python" in found["node for dft"].found
    assert not list((tmp_path / "shared").iterdir()), "nothing is left behind"


def test_a_node_that_does_not_answer(slurm, tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(f"jobs: {tmp_path}\nrelax: {{directives: [--begin=now+1hour]}}\n")
    [check] = node_checks(load_settings(file), [], patience=1)
    assert check.level == "warn"
    assert "the job queued" in check.found
    assert not slurm.command("squeue", "--noheader").strip(), "it was cancelled"


def test_nodes_without_a_cluster_file(monkeypatch):
    monkeypatch.delenv("HELIODOR_CLUSTER", raising=False)
    [check] = node_checks(load_settings(), [])
    assert "HELIODOR_CLUSTER" in check.advice
