"""Jobs on real Dask workers, in processes of their own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="no Dask (extra dask)")

from heliodor.cluster.choose import scheduler_of
from heliodor.cluster.dask import Dask
from heliodor.cluster.scheduler import End, Job, Phase
from heliodor.cluster.settings import Cluster, Resources
from heliodor.core.errors import InputError, MissingError, StorageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, resources={"GPU": 1}
    ) as cluster:
        yield cluster


def job(root: Path, *command: str) -> Job:
    name = f"heliodor-{uuid.uuid4().hex[:24]}"
    (root / name).mkdir()
    return Job(name, root / name, command)


def wait(dask: Dask, names: list[str], phase: Phase = Phase.ENDED) -> dict:
    deadline = time.monotonic() + 60
    while True:
        states = dict(dask.states(names))
        if all(state.phase is phase for state in states.values()):
            return states
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def test_jobs_on_workers(workers, tmp_path):
    dask = scheduler_of(Cluster(scheduler="dask", address=workers.scheduler_address), tmp_path)
    assert isinstance(dask, Dask)
    resources = Resources(gpus=1, setup=("export COLOUR=green",))
    dask.check(resources)
    with pytest.raises(InputError, match="none of 2 Dask workers has 2 GPUs"):
        dask.check(Resources(gpus=2))

    good = job(tmp_path, "{python}", "-c", "import os; print(os.environ['COLOUR'], os.getcwd())")
    bad = job(tmp_path, "bash", "-c", "exit 75")
    ids = dask.submit([good, bad], resources)
    states = wait(dask, list(ids.values()))
    assert (states[good.name].end, states[good.name].seconds > 0) == (End.COMPLETED, True)
    assert (states[bad.name].end, states[bad.name].detail) == (End.STOPPED, "exit code 75")
    assert f"green {good.folder}" in (good.folder / "job.log").read_text()

    sleepers = [job(tmp_path, "sleep", "600") for _ in range(3)]
    dask.submit(sleepers, resources)
    names = [j.name for j in sleepers]
    deadline = time.monotonic() + 30
    while [s.phase for s in dask.states(names).values()].count(Phase.RUNNING) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    dask.close()  # who submitted is gone; the next one finds what runs
    other = Dask(workers.scheduler_address)
    assert set(other.find([*names, good.name])) == set(names)
    phases = sorted(state.phase for state in other.states(names).values())
    assert phases == [Phase.QUEUED, Phase.RUNNING, Phase.RUNNING]
    other.cancel(names)
    deadline = time.monotonic() + 30
    while other.find(names):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = other.submit([good], resources)  # the workers are free, and a name may come again
    assert wait(other, list(again.values()))[good.name].end is End.COMPLETED
    other.close()


def test_no_scheduler(tmp_path):
    with pytest.raises(InputError, match="address"):
        scheduler_of(Cluster(scheduler="dask"), tmp_path)
    with pytest.raises(MissingError, match="no Dask scheduler"):
        Dask(str(tmp_path / "none.json")).check(Resources())


def test_a_scheduler_that_does_not_answer_is_waited_for(monkeypatch):
    from heliodor.cluster import dask

    monkeypatch.setattr(dask, "_TIMEOUT", 0.5)
    with pytest.raises(StorageError, match="no Dask scheduler answers"):
        Dask("tcp://127.0.0.1:9").find(["heliodor-1"])
