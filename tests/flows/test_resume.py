"""Kill -9 at random moments, other worker counts, other databases: always the same ledger."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from heliodor.core.campaign import load_campaign
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.core.records import Stage
from heliodor.flows.build import stages_of

KILLS = 4
CANDIDATES = 48
WORKERS = 2

# A plugin as a third party would write one, which notes each crystal. It takes the time of a larger
# potential, not its work.
PLUGIN = """
    import time
    from heliodor.core.choices.relaxers import AseChoice
    from heliodor.engines.mlip import MlipRelaxer

    class Noting(MlipRelaxer):
        def __init__(self, log, workers, **choice):
            super().__init__("ase", AseChoice(**choice), workers)
            self.log = log

        def relax(self, batch):
            for result in super().relax(batch):
                time.sleep(0.25)
                with open(self.log, "a") as file:
                    file.write(result.key + chr(10))
                yield result
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    info = folder / "noting-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "noting.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[heliodor.plugins]\nnoting = noting:Noting\n")
    return folder


def snapshot(campaign_file: Path, url: str) -> dict:
    """All that a ledger says, without times and machines."""
    campaign = load_campaign(campaign_file)
    ledger = Ledger(Database(url, create=False), campaign, stages_of(campaign))
    content: dict = {}
    for stage in ledger.stages:
        for o in ledger.outcomes(stage):
            data = {k: v for k, v in o.data.items() if k not in ("seconds", "path", "flow_uuid")}
            content[o.slot, stage] = (o.status, o.reason, data, o.crystal)
    candidates = ledger.candidates(range(1000))
    return {"keys": {slot: c.key for slot, c in candidates.items()}, "outcomes": content}


def assert_same(one: dict, other: dict) -> None:
    assert one["keys"] == other["keys"]
    assert one["outcomes"].keys() == other["outcomes"].keys()
    for where, (status, reason, data, crystal) in one["outcomes"].items():
        status2, reason2, data2, crystal2 = other["outcomes"][where]
        assert (status, reason) == (status2, reason2), where
        assert_close(data, data2, where)
        assert (crystal is None) == (crystal2 is None), where
        if crystal is not None:
            assert np.allclose(crystal.lattice, crystal2.lattice, atol=1e-6), where


def assert_close(a, b, where) -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, abs=1e-6), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], (*where, key))
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for x, y in zip(a, b, strict=True):
            assert_close(x, y, where)
    else:
        assert a == b, where


def lines_of(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def sqlite_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.sqlite'}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_minus_nine_at_random_moments(heliodor, environment, plugin, tmp_path, write_alloys):
    def campaign(name: str) -> tuple[Path, Path]:
        log, budget = tmp_path / f"{name}.log", {"candidates": CANDIDATES, "round_size": CANDIDATES // 2}
        file = write_alloys(name, budget=budget, dft={"kind": "none"})
        content = yaml.safe_load(file.read_text())
        # As if its energies were the Materials Project's: what is said of them does not matter here.
        told = {"corrections": "included", "log": str(log), "workers": WORKERS}
        options = {**content["relaxer"], **told}
        content["relaxer"] = {"kind": "plugin", "name": "noting", "options": options}
        content["reference"] = {"kind": "embedded"}
        file.write_text(yaml.safe_dump(content))
        return file, log

    environment = {**environment, "PYTHONPATH": str(plugin)}
    calm_file, calm_log = campaign("calm")
    calm = heliodor("run", calm_file, "--out", tmp_path / "calm", PYTHONPATH=str(plugin))
    assert calm.returncode == 0, calm.stderr

    killed_file, killed_log = campaign("killed")
    command = [sys.executable, "-m", "heliodor.cli", "run", killed_file, "--out", tmp_path / "killed"]
    computed_by_then = len(set(calm_log.read_text().split()))
    # From before the first proposal, over the middle of relaxing, to shortly before the end.
    moments = random.Random(0)
    for share in (0, 0, *sorted(moments.uniform(0.1, 0.8) for _ in range(KILLS - 2))):
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while share and len(set(lines_of(killed_log))) < share * computed_by_then:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3) if share else moments.uniform(0, 6))
        assert process.poll() is None, "the campaign ended before the kill: make it longer"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = heliodor("run", killed_file, "--out", tmp_path / "killed", PYTHONPATH=str(plugin))
    assert last.returncode == 0, last.stderr
    one = snapshot(calm_file, sqlite_of(tmp_path / "calm"))
    assert len(one["keys"]) == CANDIDATES
    assert_same(one, snapshot(killed_file, sqlite_of(tmp_path / "killed")))
    # Each kill can cost the crystals that were with the workers, or on their way to the ledger.
    computed, needed = (Counter(log.read_text().split()) for log in (killed_log, calm_log))
    assert set(computed) == set(needed)
    assert computed.total() <= needed.total() + KILLS * (WORKERS + 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_databases_and_company_do_not_matter(
    heliodor, environment, tmp_path, postgres_server, write_alloys
):
    """One process with one worker on SQLite; two processes with several workers on PostgreSQL."""
    file = write_alloys("c", review={"scores": True})
    alone = heliodor("run", file, "--out", tmp_path / "alone", HELIODOR_WORKERS="1")
    assert alone.returncode == 0, alone.stderr
    url = new_database(postgres_server, "shared")
    command = [sys.executable, "-m", "heliodor.cli", "run", str(file), "--out", str(tmp_path / "shared")]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            env={**environment, "HELIODOR_LEDGER_URL": url, "HELIODOR_WORKERS": workers},
        )
        for workers in ("2", "4")
    ]  # fmt: skip
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    first = snapshot(file, sqlite_of(tmp_path / "alone"))
    assert {stage for _, stage in first["outcomes"]} == set(Stage) - {Stage.VERIFY}
    assert_same(first, snapshot(file, url))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_while_the_diffusion_model_proposes(
    heliodor, environment, recorded, tmp_path, write_campaign
):
    def campaign(name: str) -> Path:
        generator = {"kind": "diffusion", "symmetric": False}  # the slower kind: no short cells
        budget = {"candidates": 40, "round_size": 20}
        space = {"elements": ["Li", "Ti", "O"], "max_atoms": 20}
        none = {"kind": "none"}
        return write_campaign(
            name, generator=generator, space=space, relaxer=none, dft=none, budget=budget
        )

    calm_file, killed_file = campaign("calm"), campaign("killed")
    calm = heliodor("run", calm_file, "--out", tmp_path / "calm")
    assert calm.returncode == 0, calm.stderr
    command = [sys.executable, "-m", "heliodor.cli", "run", killed_file, "--out", tmp_path / "killed"]
    for proposed in (0, 1):
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not (tmp_path / "killed" / "ledger.sqlite").is_file() or (
            recorded(tmp_path / "killed", "generate") < proposed
        ):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(1)
        assert process.poll() is None, "the campaign ended before the kill: make it longer"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = heliodor("run", killed_file, "--out", tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    one = snapshot(calm_file, sqlite_of(tmp_path / "calm"))
    assert len(one["keys"]) == 40
    assert_same(one, snapshot(killed_file, sqlite_of(tmp_path / "killed")))


def new_database(server: str, name: str) -> str:
    import psycopg

    with psycopg.connect(f"{server.replace('+psycopg', '')}/postgres", autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    return f"{server}/{name}"
