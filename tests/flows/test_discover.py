"""Whole small campaigns through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import ase.io
import pandas as pd
import pytest
from monty.json import MontyDecoder

from heliodor import cli
from heliodor.core.campaign import Budget
from heliodor.flows.discover import rounds


def test_rounds_cover_the_budget_once():
    slots = [s for r in rounds(Budget(candidates=25, round_size=10)) for s in r]
    assert slots == list(range(25))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_campaign_from_proposal_to_dft_inputs(heliodor, tmp_path, write_campaign, monkeypatch, capsys):
    file = write_campaign("small", budget={"candidates": 10, "round_size": 10})
    out = tmp_path / "out"
    result = heliodor("run", file, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["n"] == 10
    assert summary["ended"] == "budget of candidates spent"
    table = pd.read_parquet(out / "crystals.parquet")
    assert len(table) == 10
    assert table["chemsys"].map(lambda s: set(s.split("-")) <= {"Na", "Cl", "Mg"}).all()
    relaxed = table[table["converged"].fillna(False)]
    assert len(relaxed) > 0
    assert (relaxed["max_force"] <= 0.1).all()
    assert relaxed["level"].dropna().eq("chgnet-0.3.0").all()
    # What was selected has its inputs, and the ledger says where.
    selected = table[table["stage"] == "dft"]
    sun = table["sun"].fillna(value=False).sum()
    assert len(selected) == min(2, sun)
    assert len(list((out / "dft").glob("*/manifest.json"))) == len(selected)

    # A bigger budget goes on from there.
    write_campaign("small", budget={"candidates": 14, "round_size": 10})
    more = heliodor("run", file, "--out", out, "--json")
    assert json.loads(more.stdout)["n"] == 14, more.stderr
    again = pd.read_parquet(out / "crystals.parquet")
    pd.testing.assert_series_equal(again["key"][:10], table["key"])
    pd.testing.assert_series_equal(again["energy_per_atom"][:10], table["energy_per_atom"])

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["heliodor", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code

    call("export", out, "--all", "--out", tmp_path / "all.extxyz")
    assert len(ase.io.read(tmp_path / "all.extxyz", ":")) == 14
    call("export", out, "--all", "--out", tmp_path / "e.json")
    entries = json.loads((tmp_path / "e.json").read_text(), cls=MontyDecoder)
    assert {type(e).__name__ for e in entries} == {"ComputedStructureEntry"}
    call("export", out, "--out", tmp_path / "cifs")
    call("status", out, "--json")
    status = json.loads(capsys.readouterr().out.split("\n", 3)[-1])
    assert status["stages"]["generate"]["passed"] == 14


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_generator_that_comes_to_its_end_says_so(heliodor, tmp_path, write_campaign):
    assert heliodor("generate", "--chemsys", "Na-Cl", "-n", 3, "--out", "three.extxyz").returncode == 0
    file = write_campaign(
        "files",
        generator={"kind": "files", "paths": [str(tmp_path / "three.extxyz")]},
        relaxer={"kind": "none"},
        space={"elements": ["Na", "Cl"]},
    )
    result = heliodor("run", file, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["n"] == 3
    assert "nothing more to propose" in json.loads(result.stdout)["ended"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(environment, recorded, tmp_path, write_campaign):
    file = write_campaign(
        "stopped",
        space={"elements": ["Na", "Cl", "Mg"], "max_atoms": 20},
        budget={"candidates": 10_000, "round_size": 12},
    )
    command = [sys.executable, "-m", "heliodor.cli", "run", str(file)]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not recorded(tmp_path / "runs" / "stopped", "relax"):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    assert f"heliodor run {file}" in errors
    assert "Traceback" not in errors
