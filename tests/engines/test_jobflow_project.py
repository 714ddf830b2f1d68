"""DFT through jobflow-remote: its own runner, a worker's processes, a database in memory.

MongoDB itself is not needed: mongomock stands in for the server, in this process.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from heliodor.cluster.settings import Cluster
from heliodor.core.campaign import parse_campaign
from heliodor.core.choices.dft import MlipDftChoice
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.records import DftResult, Failure, Reason
from heliodor.engines.calculate import calculate
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.jobflow_project import JobflowProject
from heliodor.engines.mlip_recipe import MlipRecipe
from heliodor.engines.relaxation_path import relaxation_path
from heliodor.flows.on_cluster import OnCluster

jobflow_remote = pytest.importorskip("jobflow_remote", reason="jobflow-remote is not installed")
pytest.importorskip("chgnet")

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
SILICON = Crystal(5.40 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), np.array([14, 14]))
STEPS = ["CHECKED_OUT", "UPLOADED", "RUN_FINISHED", "DOWNLOADED"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A database that all clients of this process share; a client that closes leaves the data."""
    import mongomock_ng
    import pymongo
    from maggma.stores import mongolike
    from mongomock_ng.store import ServerStore

    data = ServerStore()

    class Client(mongomock_ng.MongoClient):
        def close(self):
            pass

    def connect(host, port=27017, **options):
        if port != 27017:
            return pymongo.MongoClient(host, port, **options)
        return Client(host, port, _store=data)

    monkeypatch.setattr(mongolike, "MongoClient", connect)
    monkeypatch.setattr(jobflow_remote.SETTINGS, "projects_folder", str(tmp_path / "projects"))
    monkeypatch.setattr("jobflow_remote.jobs.runner.initialize_runner_logger", lambda **_: None)
    (tmp_path / "projects").mkdir()
    write_project(tmp_path, "lab")
    return data


@pytest.fixture
def controller(server):
    made = jobflow_remote.JobController.from_project_name("lab")
    made.reset()  # as `jf admin reset` on a new database
    return made


def write_project(folder: Path, name: str, port: int = 27017):
    store = {
        "type": "MongoStore",
        "host": "localhost",
        "port": port,
        "database": name,
        "mongoclient_kwargs": {"serverSelectionTimeoutMS": 100},
    }
    (folder / "work").mkdir(exist_ok=True)
    worker = {
        "type": "local",
        "scheduler_type": "shell",
        "work_dir": str(folder / "work"),
        "pre_run": f"export OMP_NUM_THREADS=1 PATH={Path(sys.executable).parent}:$PATH",
    }
    record = {
        "name": name,
        "workers": {"here": worker},
        "queue": {"store": store | {"collection_name": "jobs"}},
        "jobstore": {
            "docs_store": store | {"collection_name": "outputs"},
            "additional_stores": {"data": store | {"collection_name": "data"}},
        },
    }
    (folder / "projects" / f"{name}.yaml").write_text(yaml.safe_dump(record))


@contextmanager
def running():
    """jobflow-remote's own runner, without the pauses of its schedule."""
    from jobflow_remote.jobs.runner import Runner

    runner, stop = Runner("lab"), threading.Event()

    def work():
        while not stop.wait(0.2):
            runner.checkout()
            runner.check_run_status()
            runner.advance_state(STEPS)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def engine(recipe=None, **project) -> FlowEngine:
    elsewhere = JobflowProject("lab", poll=0.3, **project)
    return FlowEngine(recipe or MlipRecipe(), MlipDftChoice(kind="mlip"), None, elsewhere)


def from_cluster_file(section: dict[str, str], *, run: bool = True):
    """Who runs the calculations of a campaign."""
    cluster = Cluster.model_validate({"jobflow_remote": section})
    campaign = parse_campaign(
        {"name": "si", "space": {"elements": ["Si"]}, "generator": {"kind": "substitution"}}
    )
    return OnCluster(cluster, campaign, Path()).calculations(MlipDftChoice(kind="mlip", run=run))


def stopped(seconds: float) -> threading.Event:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return stop


class Raises(MlipRecipe):
    """Its Flow's only job raises on the worker."""

    def flow(self, crystal, level, mends=()):
        from jobflow.core.flow import Flow
        from jobflow_remote.testing import always_fails

        return Flow([always_fails()])


@pytest.mark.slow
@pytest.mark.timeout(600)  # each of two jobs is a process that loads everything
def test_a_calculation_is_submitted_once_and_comes_home(controller, tmp_path):
    """The same result as calculated in the folder, whoever waits for it."""
    first = engine()
    [ticket] = first.prepare([SILICON], tmp_path / "dft")
    assert first.remote
    assert first.run(ticket, stopped(1.5)) is None  # it submitted, and was stopped
    assert [info.flow_id for info in controller.get_flows_info()] == [ticket.flow_uuid]
    found: list[DftResult | Failure | None] = []
    others = [
        threading.Thread(target=lambda: found.append(engine().run(ticket, threading.Event())))
        for _ in range(2)
    ]
    with running():
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
    assert controller.count_flows() == 1
    assert found[0] == found[1] == first.ended(ticket)

    [here] = FlowEngine(MlipRecipe()).prepare([SILICON], tmp_path / "here")
    same, result = calculate(Path(here.path)), found[0]
    assert isinstance(result, DftResult)
    assert isinstance(same, DftResult)
    assert result.crystal.digest == same.crystal.digest
    assert result.energy == pytest.approx(same.energy, abs=1e-9)
    assert result.forces == same.forces
    assert (result.level, result.steps, result.input_digest) == (
        same.level,
        same.steps,
        same.input_digest,
    )
    assert 0 < result.seconds < 600
    # The documents are in the folder, as if its jobs had run there.
    frames = relaxation_path(Path(ticket.path), ticket.input_digest)
    assert len(frames) == len(relaxation_path(Path(here.path), here.input_digest)) > 0


@pytest.mark.slow
def test_what_failed_is_told_in_their_words_and_not_kept(controller, tmp_path):
    from jobflow_remote.jobs.state import JobState

    raising = engine(Raises())
    [ticket] = raising.prepare([SILICON], tmp_path / "dft")
    with running():
        found = raising.run(ticket, threading.Event())
    assert isinstance(found, Failure)
    assert found.reason is Reason.DFT_FAILED
    [job] = controller.get_jobs_info()
    assert found.detail.startswith(f"always_fails is FAILED (jf job info {job.db_id}): ")
    assert job.error.strip().splitlines()[-1] in found.detail
    assert raising.ended(ticket) is None
    controller.rerun_job(db_id=job.db_id)  # as a person does by `jf job rerun`
    assert raising.run(ticket, stopped(1)) is None  # it waits again
    controller.set_job_state(JobState.REMOTE_ERROR, db_id=job.db_id)
    assert isinstance(raising.run(ticket, threading.Event()), Failure)
    controller.delete_flow(ticket.flow_uuid)
    assert raising.run(ticket, stopped(1)) is None  # submitted anew
    assert controller.count_flows() == 1
    controller.jobs.delete_many({})  # a submission that was killed between its two writes
    found = raising.run(ticket, threading.Event())
    assert isinstance(found, Failure)
    assert "jf flow delete" in found.detail


def test_a_database_that_is_away_is_waited_for(server, tmp_path, caplog):
    write_project(tmp_path, "away", port=9)
    waiting = FlowEngine(MlipRecipe(), elsewhere=JobflowProject("away", poll=0.05))
    [ticket] = waiting.prepare([SILICON], tmp_path / "dft")
    with caplog.at_level(logging.WARNING, "heliodor.engines"):
        assert waiting.run(ticket, stopped(1)) is None
    assert caplog.text.count("does not answer; waiting for it") == 1
    here = sorted(path.name for path in Path(ticket.path).iterdir())
    assert here == [".running", "flow.json", "manifest.json", "mlip"]


def test_projects_that_cannot_do_it(server, tmp_path):
    with pytest.raises(InputError, match=r"jobflow_remote.project: .*nowhere does not exist"):
        JobflowProject("nowhere")
    with pytest.raises(InputError, match=r"jobflow_remote.worker: got 'far'; the project has here"):
        JobflowProject("lab", "far")
    with pytest.raises(InputError, match=r"jobflow_remote.exec_config: got 'gpu'; the project has none"):
        JobflowProject("lab", exec_config="gpu")
    with pytest.raises(InputError, match=r"jobflow_remote.exec_config.module: got \['abinit'\]"):
        JobflowProject("lab", exec_config={"module": ["abinit"]})
    new = engine(exec_config={"modules": ["abinit"]})
    assert isinstance(from_cluster_file({"project": "lab", "worker": "here"}), JobflowProject)
    with pytest.raises(InputError, match=r"jobflow_remote.worker: got 'far'"):
        from_cluster_file({"project": "lab", "worker": "far"})
    assert from_cluster_file({"worker": "far"}, run=False) is None  # inputs only: nobody is to run them
    [ticket] = new.prepare([SILICON], tmp_path / "dft")
    begun = time.monotonic()
    with pytest.raises(InputError, match="has not been initialised"):
        new.run(ticket, threading.Event())
    assert time.monotonic() - begun < 30
