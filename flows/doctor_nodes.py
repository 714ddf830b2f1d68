"""What `heliodor doctor --nodes` finds on the nodes: a small job for each stage of the cluster file."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cluster.choose import scheduler_of
from ..cluster.job_folder import job_name, last_words
from ..cluster.scheduler import Job, JobState, Phase, Scheduler
from ..cluster.settings import load_cluster
from ..core.errors import HeliodorError, InputError
from ..core.files import write_text
from ..core.settings import Settings, load_settings
from .finding import Check

PATIENCE = 600.0  # seconds that jobs may wait in the queue and work
_EVERY = 2.0  # seconds between questions to the batch system
_LATE = 5.0  # seconds that an answer may take after its job has ended
_FOUND = "found.json"
_EQUAL = ("heliodor", "chgnet", "sevenn")  # what results depend on


@dataclass(frozen=True)
class _Asked:
    """A job that looks around on a node."""

    stage: str
    folder: Path
    number: str
    gpus: int


def node_checks(settings: Settings, here: list[Check], patience: float = PATIENCE) -> Iterator[Check]:
    """What nodes of each stage lack, or have otherwise than this machine.

    Args:
        here: what was found on this machine. patience: seconds; jobs that take longer are cancelled.
    """
    if settings.cluster is None:
        yield Check("nodes", "fail", "no cluster file is set", "export HELIODOR_CLUSTER=cluster.yaml")
        return
    try:
        cluster = load_cluster(settings.cluster)
        place = cluster.jobs or Path.cwd()
        place.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(dir=place, prefix=".heliodor-doctor-")).absolute()
    except (HeliodorError, OSError) as error:
        yield Check("nodes", "fail", str(error), "mend the cluster file")
        return
    asked: list[_Asked] = []
    try:
        scheduler = scheduler_of(cluster, root)
        for stage, resources in cluster.stages.items():
            folder = root / stage
            folder.mkdir()
            command = ("{python}", "-P", "-m", __name__, str(folder))
            job = Job(job_name(folder), folder, command)
            try:
                number = scheduler.submit([job], resources)[job.name]
            except InputError as error:
                yield Check(f"node for {stage}", "fail", error.message, error.hint or "")
            else:
                asked.append(_Asked(stage, folder, number, resources.gpus))
        yield from _answers(scheduler, asked, here, patience)
    except HeliodorError as error:
        yield Check("nodes", "fail", error.message, error.hint or "")
    finally:
        with suppress(HeliodorError):
            scheduler.cancel([one.number for one in asked])
        shutil.rmtree(root, ignore_errors=True)


def _answers(
    scheduler: Scheduler, asked: list[_Asked], here: list[Check], patience: float
) -> Iterator[Check]:
    until, waiting = time.monotonic() + patience, list(asked)
    while waiting:
        states = scheduler.states([one.number for one in waiting])
        late = time.monotonic() > until
        for one in list(waiting):
            state = states.get(one.number, JobState(Phase.LOST))
            ended = state.phase in (Phase.ENDED, Phase.LOST)
            if _there(one.folder / _FOUND, _LATE if ended else 0):
                yield from _compared(one, here)
            elif ended:
                yield _silent(one, state)
            elif late:
                yield Check(
                    f"node for {one.stage}",
                    "warn",
                    f"no answer in {patience:.0f} s: the job {state.phase.value}, {state.detail}",
                    "try again when the queue is shorter",
                )
            else:
                continue
            waiting.remove(one)
        if waiting:
            time.sleep(_EVERY)


def _there(path: Path, seconds: float) -> bool:
    """Whether a file is there, or comes: over a network it may be late."""
    until = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() >= until:
            return False
        time.sleep(0.5)
    return True


def _silent(one: _Asked, state: JobState) -> Check:
    """A job that ended without an answer: what it said last tells why."""
    return Check(
        f"node for {one.stage}",
        "fail",
        f"the job left no answer: {state.detail or state.phase.value}; {last_words(one.folder)}",
        "setup, modules, memory or python in the cluster file, or a folder that the node does not see",
    )


def _compared(one: _Asked, here: list[Check]) -> Iterator[Check]:
    """A line for the node, and one for each thing that is not well there and is here, or another."""
    answer: dict[str, Any] = json.loads((one.folder / _FOUND).read_text(encoding="utf-8"))
    ours = {check.name: check.found for check in here}
    found = {check.name: check for check in (Check(**item) for item in answer["checks"])}
    name = f"node for {one.stage}"
    yield Check(name, "ok", f"{answer['host']} looked at; GPU: {found['GPU'].found}")
    if one.gpus and found["GPU"].found.startswith("none"):
        advice = "setup or modules in the cluster file, or PyTorch's CUDA build on the node"
        yield Check(f"{name}: GPU", "warn", f"asked for {one.gpus}, PyTorch sees none", advice)
    for check in found.values():
        there = ours.get(check.name)
        if check.name in _EQUAL and check.found != there:
            advice = f"here: {there}. Jobs whose versions differ are refused: install the same on both"
            yield Check(f"{name}: {check.name}", "fail", check.found, advice)
        elif check.level != "ok" and check.found != there:
            yield Check(f"{name}: {check.name}", check.level, check.found, check.advice)


def main(folder: Path) -> None:
    """On the node: look, and leave the answer in the folder."""
    from .doctor import machine_checks

    found = [check.as_dict() for check in machine_checks(load_settings())]
    answer = {"host": socket.gethostname(), "checks": found}
    write_text(folder / _FOUND, json.dumps(answer), "the answer")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
