"""Campaigns whose stages run as jobs of a real Slurm, with deaths, beside undisturbed local ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from heliodor.core.campaign import load_campaign
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.core.records import Stage
from heliodor.flows.build import stages_of

pytestmark = pytest.mark.slow

BATCH = 3


@pytest.fixture
def write_cluster(tmp_path) -> Callable[..., Path]:
    """Small jobs without any network: each runs in a network namespace of its own."""

    def write(**changes: object) -> Path:
        alone = {"container": "unshare -n", "python": sys.executable, "time": "00:10:00"}
        content = {
            "poll": 0.5,
            "batch": BATCH,
            "in_flight": 6,
            "generate": {**alone, "memory_gb": 1.5},
            "relax": {**alone, "memory_gb": 2.5},
            **changes,
        }
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def wait_for(true: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "the campaign ended before what the test waits for"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def submissions(folder: Path) -> dict[str, list[str]]:
    """Slurm's ids of each job, by the folder's name."""
    found: dict[str, list[str]] = {}
    for log in folder.glob("jobs/*/*/job.log"):
        lines = [line for line in log.read_text().splitlines() if line.startswith("-- ")]
        found[log.parent.name] = sorted({line.split(" is job ")[1].split(",")[0] for line in lines})
    return found


def ledger_of(folder: Path, file: Path) -> dict[tuple[int, Stage], object]:
    """What a campaign's ledger says, times and places apart; numbers to the last bit."""
    campaign = load_campaign(file)
    ledger = Ledger(
        Database(f"sqlite:///{folder / 'ledger.sqlite'}", create=False), campaign, stages_of(campaign)
    )
    content: dict[tuple[int, Stage], object] = {}
    for stage in ledger.stages:
        for o in ledger.outcomes(stage):
            kept = {k: v for k, v in o.data.items() if k not in ("seconds", "path", "flow_uuid")}
            crystal = o.crystal.to_bytes() if o.crystal else None
            content[o.slot, stage] = (o.status, o.reason, json.dumps(kept, sort_keys=True), crystal)
    for slot, candidate in ledger.candidates(range(1000)).items():
        content[slot, Stage.GENERATE] = (content[slot, Stage.GENERATE], candidate)
    return content


@pytest.mark.timeout(900)
def test_six_in_flight_killed_and_cancelled_and_the_same_ledger(
    slurm, heliodor, environment, tmp_path, write_alloys, write_cluster
):
    """The orchestrator dies with six relaxing jobs in flight, and one job is cancelled: every other job
    was submitted once, and the ledger is that of a campaign that ran here, to the last bit.
    """
    changes = {"budget": {"candidates": 24, "round_size": 24}, "dft": {"kind": "none"}}
    file, calm = write_alloys("same", **changes), tmp_path / "calm"
    done = heliodor("run", file, "--out", calm)
    assert done.returncode == 0, done.stderr

    folder, cluster = tmp_path / "jobs", write_cluster()
    environment = {**environment, **slurm.environment}
    command = [sys.executable, "-m", "heliodor.cli", "run", file, "--out", folder, "--cluster", cluster]
    arguments = {"env": environment, "cwd": tmp_path, "stdout": subprocess.DEVNULL}

    def in_flight(states: str = "PD,R") -> list[str]:
        rows = slurm.command("squeue", "-h", "-r", "-t", states, "-o", "%F_%K %Z").splitlines()
        return [row.split()[0] for row in rows if "/relax/" in row]

    def held_in_flight() -> int:
        """How many relaxing jobs are in flight; those that wait are kept waiting."""
        for waiting in in_flight("PD"):
            slurm.command("scontrol", "hold", waiting, check=False)  # it may have begun just now
        return len(in_flight())

    killed = subprocess.Popen([*map(str, command)], **arguments)
    wait_for(lambda: held_in_flight() == 6, killed)
    six = set(in_flight())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    with (tmp_path / "second.log").open("w") as log:
        second = subprocess.Popen([*map(str, command)], **arguments, stderr=log)
    wait_for(lambda: any(folder.glob("jobs/relax/*/claim.1")), second)
    cancelled, *others = in_flight("PD")
    slurm.command("scancel", cancelled)
    for waiting in others:
        slurm.command("scontrol", "release", waiting)
    assert second.wait(500) == 0, (tmp_path / "second.log").read_text()

    ids = submissions(folder)
    twice = {name: found for name, found in ids.items() if len(found) > 1}
    assert len(twice) <= 1
    assert all(cancelled in found for found in twice.values())
    assert six - {cancelled} <= {i for found in ids.values() for i in found}
    assert ledger_of(folder, file) == ledger_of(calm, file)


@pytest.mark.timeout(600)
def test_dft_as_jobs(slurm, heliodor, tmp_path, write_campaign, write_cluster):
    """Calculations of finalists (a potential in DFT's place) as jobs; nothing is computed twice."""
    changes = {"budget": {"candidates": 6, "round_size": 6}, "review": {"scores": False}}
    file = write_campaign("dft", **changes, dft={"kind": "none"}, select={"top": 1})
    run = heliodor("run", file, "--out", tmp_path / "dft")
    assert run.returncode == 0, run.stderr
    cluster = write_cluster(
        generate=None,
        relax=None,
        dft={"memory_gb": 2.5, "container": "unshare -n", "python": sys.executable, "time": "00:10:00"},
    )
    arguments = ("verify", tmp_path / "dft", "--dft", "mlip", "--cluster", cluster, "--json")
    first = heliodor(*arguments, **slurm.environment)
    assert first.returncode == 0, first.stderr
    folders = [path.parent for path in (tmp_path / "dft" / "dft").glob("*/flow.json")]
    assert folders
    for folder in folders:
        assert (folder / "result.json").is_file(), (folder / "job.log").read_text()
        assert not (folder / "calculate.log").exists(), "it was computed here"
    again = heliodor(*arguments, **slurm.environment)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert all((folder / "job.log").read_text().count("\n-- ") == 0 for folder in folders), "run twice"


def test_what_the_site_refuses_is_said_before_any_work(
    slurm, heliodor, write_campaign, write_cluster, tmp_path
):
    cluster = write_cluster(relax={"partition": "gpus"})
    done = heliodor("run", write_campaign("a"), "--cluster", cluster, **slurm.environment)
    assert done.returncode == 2
    assert "cluster file, relax:" in done.stderr
    assert "partition" in done.stderr
    assert not (tmp_path / "runs" / "a" / "jobs").exists()
