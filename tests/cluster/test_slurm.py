"""On a real Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from heliodor.cluster import slurm as slurm_module
from heliodor.cluster.scheduler import End, Job, JobState, Phase
from heliodor.cluster.settings import Resources
from heliodor.cluster.slurm import Slurm
from heliodor.core.errors import InputError, MissingError, StorageError

SMALL = Resources(time="00:10:00", memory_gb=0.05)


def job(root: Path, *command: str, folder: str = "") -> Job:
    name = f"heliodor-{uuid.uuid4().hex[:24]}"
    path = root / (folder or name)
    path.mkdir(parents=True)
    return Job(name, path, command)


def wait(
    slurm: Slurm,
    ids: Sequence[str],
    until: Callable[[JobState], bool] = lambda state: state.phase is Phase.ENDED,
    seconds: float = 60,
) -> Mapping[str, JobState]:
    deadline = time.monotonic() + seconds
    while True:
        states = slurm.states(ids)
        if all(until(state) for state in states.values()):
            return states
        assert time.monotonic() < deadline, states
        time.sleep(0.2)


def running(state: JobState) -> bool:
    return state.phase is Phase.RUNNING


def programs(folder: Path, **texts: str) -> str:
    """A PATH on which programs are shell scripts of ours."""
    for name, text in texts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_an_array_of_different_ends(slurm, tmp_path):
    batch = Slurm(environment={"COLOUR": "green"})
    batch.check(SMALL)
    jobs = [
        job(tmp_path, "{python}", "-c", "import os; print('in', os.getcwd(), os.environ['COLOUR'])"),
        job(tmp_path, "bash", "-c", "exit 3"),
        job(tmp_path, "bash", "-c", "kill -KILL $$"),
        job(tmp_path, "echo", "$HOME *", folder='it\'s a "folder" \\ $HOME;'),
        job(tmp_path, "sleep", "600"),
    ]
    ids = batch.submit(jobs, SMALL)
    assert len({number.partition("_")[0] for number in ids.values()}) == 1  # one array
    assert batch.find([j.name for j in jobs] + ["heliodor-none"]) == ids

    sleeper = ids[jobs[-1].name]
    wait(batch, [sleeper], lambda state: state.seconds >= 1)
    ended = [ids[j.name] for j in jobs[:-1]]
    states = [wait(batch, ended)[number] for number in ended]
    assert [s.end for s in states] == [End.COMPLETED, End.FAILED, End.FAILED, End.COMPLETED]
    assert states[1].detail.startswith("exit code 3")
    assert states[2].detail.startswith("killed by SIGKILL")
    assert f"in {jobs[0].folder} green" in (jobs[0].folder / "job.log").read_text()
    assert "$HOME *" in (jobs[3].folder / "job.log").read_text()

    assert batch.find([j.name for j in jobs]) == {jobs[-1].name: sleeper}
    batch.cancel([sleeper, ended[0]])
    cancelled = wait(batch, [sleeper])[sleeper]
    assert (cancelled.end, cancelled.seconds > 0) == (End.CANCELLED, True)


def test_signals_reach_the_program_and_75_is_an_exit_code_without_restarts(slurm, tmp_path):
    batch = Slurm(restarts=0)
    told = "trap 'echo told; exit 75' USR1; echo ready; while :; do sleep 0.1; done"
    work = job(tmp_path, "bash", "-c", told)
    (number,) = batch.submit([work], SMALL).values()
    wait(batch, [number], running)
    until = time.monotonic() + 20
    log = work.folder / "job.log"
    while not (log.exists() and "ready" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    slurm.command("scancel", "--signal=USR1", "--batch", number)  # what Slurm does before the walltime
    state = wait(batch, [number])[number]
    assert (state.end, state.detail) == (End.STOPPED, "exit code 75 on node")
    assert "told" in log.read_text()


def test_gpu_setup_and_container_on_the_node(slurm, tmp_path):
    resources = Resources(
        time="00:10:00",
        memory_gb=0.05,
        gpus=1,
        gpu_type="h200",
        setup=("export PART=setup", "set -- taken by a sourced file"),
        container="env INSIDE=1",
        python=sys.executable,
    )
    batch = Slurm()
    batch.check(resources)
    code = "import os; print(*(os.environ[k] for k in ('PART', 'INSIDE', 'SLURM_JOB_GPUS')))"
    work = job(tmp_path, "{python}", "-c", code)
    (number,) = batch.submit([work], resources).values()
    assert wait(batch, [number])[number].end is End.COMPLETED
    assert "setup 1 0" in (work.folder / "job.log").read_text()


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(partition="nowhere"), "nvalid partition"),
        (Resources(gpus=9), "node configuration is not available"),
        (Resources(gpus=1, gpu_type="a100"), "node configuration is not available"),
        (Resources(time="30-00:00"), "ime limit"),
        (Resources(directives=("--no-such-option",)), "unrecognized option"),
    ],
)
def test_what_the_site_refuses_is_said_before_any_work(slurm, resources, words, tmp_path):
    with pytest.raises(InputError, match=words):
        Slurm().check(resources)
    assert not list(tmp_path.iterdir())


def test_the_shells_settings_change_nothing(slurm, monkeypatch, tmp_path):
    for name in ("SBATCH_PARTITION", "SBATCH_ARRAY_INX", "SQUEUE_FORMAT", "SQUEUE_STATES"):
        monkeypatch.setenv(name, "nowhere")
    batch = Slurm()
    batch.check(SMALL)
    (number,) = batch.submit([job(tmp_path, "true")], SMALL).values()
    assert wait(batch, [number])[number].end is End.COMPLETED


def test_whoever_comes_after_a_kill_finds_what_was_taken(slurm, tmp_path):
    jobs = [job(tmp_path / "jobs", "sleep", "600") for _ in range(3)]
    folder = tmp_path / "bin"
    folder.mkdir()
    code = (
        "import sys, pathlib\n"
        "from heliodor.cluster.scheduler import Job\n"
        "from heliodor.cluster.settings import Resources\n"
        "from heliodor.cluster.slurm import Slurm\n"
        "jobs = [Job(pathlib.Path(p).name, pathlib.Path(p), ('sleep', '600')) for p in sys.argv[1:]]\n"
        "Slurm().submit(jobs, Resources(time='00:10:00', memory_gb=0.05))\n"
    )
    # The real sbatch answers, and nobody is there any more to hear it.
    sbatch = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True)
    path = programs(folder, sbatch=f'{sbatch.stdout.strip()} "$@" >/dev/null; kill -KILL $PPID')
    command = [sys.executable, "-c", code, *(str(j.folder) for j in jobs)]
    assert subprocess.run(command, env=os.environ | {"PATH": path}, check=False).returncode == -9

    found = Slurm().find([j.name for j in jobs])
    assert sorted(found) == sorted(j.name for j in jobs)
    wait(Slurm(), list(found.values()), lambda state: state.phase is not Phase.LOST)
    Slurm().cancel(list(found.values()))
    ended = wait(Slurm(), list(found.values()))
    assert {state.end for state in ended.values()} == {End.CANCELLED}
    assert Slurm().find([j.name for j in jobs]) == {}


def test_unknown_jobs_are_lost(slurm):
    assert Slurm().states(["987654_0", "987655_1"])["987654_0"].phase is Phase.LOST
    assert Slurm().states([]) == {}
    Slurm().cancel(["987654_0"])


def test_accounting_knows_what_the_controller_forgot(slurm, tmp_path, monkeypatch):
    lines = (
        "987654_0|NODE_FAIL|0:0|60|n1\n987654_0|COMPLETED|0:0|30|n2\n987654_1|CANCELLED by 7|0:0|5|n1"
    )
    monkeypatch.setenv("PATH", programs(tmp_path, sacct=f"cat <<'END'\n{lines}\nEND"))
    states = Slurm().states(["987654_0", "987654_1", "987654_2"])
    first, second, third = states.values()
    assert (first.end, first.seconds, first.detail) == (End.COMPLETED, 90, "completed on n2")
    assert (second.end, second.detail) == (End.CANCELLED, "cancelled by 7 on n1")
    assert third.phase is Phase.LOST


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="sbatch"):
        Slurm().check(SMALL)


def test_programs_that_fail_or_hang_are_waited_for(tmp_path, monkeypatch):
    silent = "echo 'error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    names = ("sbatch", "squeue", "scancel")
    monkeypatch.setenv("PATH", programs(tmp_path, **dict.fromkeys(names, silent)))
    calls = [
        lambda: Slurm().check(SMALL),
        lambda: Slurm().submit([job(tmp_path, "true")], SMALL),
        lambda: Slurm().find(["heliodor-1"]),
        lambda: Slurm().states(["1_0"]),
        lambda: Slurm().cancel(["1_0"]),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="Unable to contact"):
            call()
    programs(tmp_path, squeue="sleep 30", sbatch="echo 'QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
    monkeypatch.setattr(slurm_module, "_TIMEOUT", 0.2)
    with pytest.raises(StorageError, match="squeue hangs"):
        Slurm().states(["1_0"])
    with pytest.raises(StorageError, match="no more jobs for now"):
        Slurm().submit([job(tmp_path, "true")], SMALL)


@pytest.mark.slow
def test_exit_75_goes_on_in_the_same_job(slurm, tmp_path):
    batch = Slurm(restarts=2)
    often = "echo start >>starts; sleep 1.5; [ $(wc -l <starts) -lt {} ] && exit 75; exit 0"
    jobs = [job(tmp_path, "bash", "-c", often.format(n)) for n in (2, 9)]
    ids = batch.submit(jobs, SMALL)
    states = wait(batch, list(ids.values()))
    twice, often_ = (states[ids[j.name]] for j in jobs)
    assert (twice.end, (jobs[0].folder / "starts").read_text()) == (End.COMPLETED, "start\n" * 2)
    assert twice.seconds >= 2  # both starts
    assert often_.detail.startswith("exit code 75")  # after as many restarts as are allowed
    assert (jobs[1].folder / "starts").read_text() == "start\n" * 3
    assert "start 1, on" in (jobs[0].folder / "job.log").read_text()


@pytest.mark.slow
def test_walltime(slurm, tmp_path):
    """The time is shortened by hand: Slurm looks about twice a minute whether it is used up."""
    batch = Slurm(restarts=0)
    told = "trap 'exit 75' USR1; while :; do sleep 0.1; done"
    deaf = "trap '' USR1; sleep 600"
    jobs = [job(tmp_path, "bash", "-c", text) for text in (told, deaf)]
    ids = batch.submit(jobs, SMALL.model_copy(update={"time": "00:01:00"}))
    wait(batch, list(ids.values()), running)
    for number in ids.values():
        slurm.command("scontrol", "update", f"JobId={number}", "EndTime=now+25")
    states = wait(batch, list(ids.values()), seconds=120)
    heard, over = (states[ids[j.name]] for j in jobs)
    assert heard.detail.startswith("exit code 75")
    assert (over.end, over.detail) == (End.WALLTIME, "its walltime was used up on node")


@pytest.mark.slow
def test_memory_and_preemption(slurm, tmp_path):
    batch = Slurm()
    greedy = job(tmp_path, "{python}", "-c", "import time; x = bytearray(400_000_000); time.sleep(60)")
    spare = job(tmp_path, "sleep", "600")
    (first,) = batch.submit([greedy], SMALL).values()
    assert wait(batch, [first])[first].end is End.OUT_OF_MEMORY
    low = SMALL.model_copy(update={"partition": "spare"})
    (second,) = batch.submit([spare], low).values()
    wait(batch, [second], running)
    (third,) = batch.submit([job(tmp_path, "true")], SMALL.model_copy(update={"cpus": 2})).values()
    assert wait(batch, [second])[second].end is End.PREEMPTED
    assert wait(batch, [third])[third].end is End.COMPLETED


@pytest.mark.slow
def test_a_controller_that_dies_and_a_node_that_fails(slurm_servers, monkeypatch, tmp_path):
    with slurm_servers(kept=2) as own:
        monkeypatch.setenv("SLURM_CONF", own.environment["SLURM_CONF"])
        batch = Slurm(restarts=0)
        short, long = job(tmp_path, "sleep", "1"), job(tmp_path, "sleep", "600")
        ids = batch.submit([short, long], SMALL)
        wait(batch, list(ids.values()), running)
        time.sleep(6)  # until it has written down that they run
        own.kill_controller()
        with monkeypatch.context() as patch:
            patch.setattr(slurm_module, "_TIMEOUT", 3)
            with pytest.raises(StorageError):
                batch.states(list(ids.values()))
            with pytest.raises(StorageError):
                batch.submit([job(tmp_path, "true")], SMALL)
        own.start_controller()
        assert batch.find([long.name]) == {long.name: ids[long.name]}
        own.command("scontrol", "update", "nodename=node", "state=down", "reason=test")
        state = wait(batch, [ids[long.name]])[ids[long.name]]
        assert state.end is End.NODE_FAILURE
        wait(batch, list(ids.values()), lambda s: s.phase is Phase.LOST, seconds=90)
