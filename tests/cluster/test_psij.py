"""PSI/J's seam on a real Slurm; what it hands to PBS and LSF."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("psij", reason="no PSI/J (extra psij)")

from heliodor.cluster.choose import scheduler_of
from heliodor.cluster.psij import PsiJ
from heliodor.cluster.scheduler import End, Job, Phase
from heliodor.cluster.settings import Cluster, Resources
from heliodor.core.errors import InputError, MissingError, StorageError

SMALL = Resources(time="00:10:00", memory_gb=0.05)


def job(root: Path, *command: str) -> Job:
    name = f"heliodor-{uuid.uuid4().hex[:24]}"
    (root / name).mkdir()
    return Job(name, root / name, command)


def until(batch: PsiJ, numbers: list[str], *phases: Phase) -> dict:
    """PSI/J cannot read some answers of Slurm's: it is asked again, as a caller does."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with suppress(StorageError):
            states = dict(batch.states(numbers))
            if all(state.phase in phases for state in states.values()):
                return states
        time.sleep(0.2)
    raise AssertionError(batch.states(numbers))


@pytest.fixture
def forgetful(slurm_servers, monkeypatch):
    """A Slurm that soon forgets what has ended: PSI/J cannot read the line of a job that failed."""
    with slurm_servers(kept=2) as server:
        monkeypatch.setenv("SLURM_CONF", server.environment["SLURM_CONF"])
        yield server


def test_jobs_on_slurm_through_psij(forgetful, tmp_path):
    batch = PsiJ("slurm", tmp_path / "records")
    batch.check(SMALL)
    jobs = [
        job(tmp_path, "{python}", "-c", "import os; print('in', os.getcwd())"),
        job(tmp_path, "bash", "-c", "exit 75"),
        job(tmp_path, "sleep", "600"),
    ]
    ids = batch.submit(jobs, SMALL.model_copy(update={"setup": ("export A=1",)}))
    good, bad, sleeper = (ids[j.name] for j in jobs)
    until(batch, [sleeper], Phase.RUNNING)
    states = until(batch, [good, bad], Phase.ENDED)
    assert states[good].end is End.COMPLETED
    assert (states[bad].end, states[bad].detail) == (End.STOPPED, "exit code 75")
    assert f"in {jobs[0].folder}" in (jobs[0].folder / "job.log").read_text()

    other = PsiJ("slurm", tmp_path / "records")  # who comes later
    assert other.find([j.name for j in jobs]) == {jobs[2].name: sleeper}
    other.cancel([good, sleeper])
    until(other, [sleeper], Phase.ENDED, Phase.LOST)


@pytest.mark.parametrize(
    ("kind", "program", "says", "lines"),
    [
        (
            "pbs",
            "qsub",
            "123.server",
            ["walltime=1:30:0", "#PBS -q gpu", '-W "group_list=mat"', "ncpus=8"],
        ),
        (
            "lsf",
            "bsub",
            "Job <123> is submitted to queue <gpu>.",
            ["#BSUB -W 1:30", '#BSUB -q "gpu"', "#BSUB -gpu num=2", '-W "group_list=mat"'],
        ),
    ],
)
def test_what_pbs_and_lsf_are_handed(kind, program, says, lines, tmp_path, monkeypatch):
    """A program that stands in keeps the script: no such batch system is here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    kept = tmp_path / "script"
    (folder / program).write_text(
        f'#!/bin/bash\n[ -f "${{!#}}" ] && cat "${{!#}}" >{kept} || cat >{kept}\necho \'{says}\'\n'
    )
    (folder / program).chmod(0o755)
    batch = scheduler_of(Cluster(scheduler=kind), tmp_path)
    with pytest.raises(MissingError, match=program):
        batch.check(SMALL)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    resources = Resources(
        time="01:30:00",
        partition="gpu",
        cpus=8,
        gpus=2 if kind == "lsf" else 0,
        directives=("-W group_list=mat",),
    )
    batch.check(resources)
    work = job(tmp_path, "{python}", "-m", "heliodor.flows.job", "x")
    assert "123" in batch.submit([work], resources)[work.name]
    text = kept.read_text()
    for line in lines:
        assert line in text, text
    assert "heliodor.flows.job" in text
    with pytest.raises((StorageError, MissingError)):  # its queue cannot be asked
        batch.find([work.name])


def test_what_cannot_be_passed_on_is_refused(tmp_path, slurm):
    with pytest.raises(InputError, match="directives"):
        PsiJ("slurm", tmp_path).check(Resources(directives=("exclusive",)))
    with pytest.raises(InputError, match="gpu_type"):
        PsiJ("slurm", tmp_path).check(Resources(gpus=1, gpu_type="h200"))
    with pytest.raises(InputError, match="refuses"):
        PsiJ("slurm", tmp_path).submit([job(tmp_path, "true")], Resources(partition="nowhere"))
