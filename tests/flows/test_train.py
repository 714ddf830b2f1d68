"""`heliodor train`: end to end on a small table, its judge, and what it refuses."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from heliodor.core.crystal import Crystal
from heliodor.core.errors import HeliodorError, InputError
from heliodor.core.records import Failure, Reason
from heliodor.flows import judge as judging
from heliodor.flows.judge import Judge, Judgement, better, low_energy
from heliodor.flows.train import TrainOptions, known_crystals, select, train
from heliodor.generators.diffusion.checkpoint import load_process
from heliodor.generators.diffusion.data import Packed, pack

RADII = {3: 0.76, 11: 1.02, 19: 1.38, 37: 1.52, 9: 1.33, 17: 1.81, 35: 1.96, 53: 2.2}  # Shannon, A
QUICK = TrainOptions(
    minutes=0.1, size="tiny", device="cpu", batch=16, judge_samples=8, judge_energy="none", judge_every=1
)


def salt(z: int, x: int, stretch: float = 1.0, *, caesium: bool = False) -> Crystal:
    """An alkali halide: primitive rock salt, or the caesium chloride structure."""
    bond = stretch * (RADII[z] + RADII[x])
    cell = bond * (np.eye(3) * 2 / np.sqrt(3) if caesium else np.ones((3, 3)) - np.eye(3))
    return Crystal(cell, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([z, x]))


def salts() -> list[tuple[str, Crystal]]:
    pairs = itertools.product((3, 11, 19, 37), (9, 17, 35, 53), (False, True), (1.0, 1.1))
    return [(f"{z}-{x}-{c}-{s}", salt(z, x, s, caesium=c)) for z, x, c, s in pairs]


def write_table(path: Path, **columns: object) -> Path:
    names, crystals = zip(*salts(), strict=True)
    table = pd.DataFrame(
        {
            "material_id": names,
            "atomic_numbers": [c.atomic_numbers for c in crystals],
            "frac_coords": [c.frac_coords.ravel() for c in crystals],
            "lattice": [c.lattice.ravel() for c in crystals],
            **columns,
        }
    )
    table.to_parquet(path)
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HELIODOR_WORKERS", "1")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=300)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Packed:
    return pack(pd.read_parquet(write_table(tmp_path_factory.mktemp("t") / "t.parquet")))


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- the command ---------------------------------------------------------------------------------


def test_end_to_end(tmp_path, console):
    table = write_table(tmp_path / "salts.parquet")
    out = tmp_path / "out"
    result = train([table], out, QUICK, console=console)
    assert result["ended"] == "done", said(console)
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [r for r in rows if r["types"] and r["held_types"]], "losses are logged, held-out ones too"
    judged = [r for r in rows if r["score"]]
    assert judged, f"judged at the end: {said(console)}"
    last = judged[-1]
    assert int(last["step"]) == result["step"]
    assert last["low_energy"] == "", "left out, not zero"
    assert float(last["score_low"]) <= float(last["score"]) <= float(last["score_high"])
    _, card = load_process(out / "model.safetensors")
    assert card.notes["judged"]["score"] == pytest.approx(float(last["score"]), abs=1e-4)
    assert card.notes["judged"]["energy"] == "none"
    assert (out / "last.safetensors").exists()
    assert (out / "templates.npz").exists()
    again = train([table], out, QUICK, console=console)
    assert again["step"] == result["step"], "a finished training stays finished"


def test_pauses_and_goes_on_whatever_the_judge_does(tmp_path, console, monkeypatch):
    table = write_table(tmp_path / "salts.parquet")
    options = replace(QUICK, minutes=0.11)
    first = train([table], tmp_path / "o", options, console=console, for_minutes=0.01, resume="again")
    assert first["ended"] == "paused"
    assert first["message"].endswith("Go on with: again")
    monkeypatch.setattr("heliodor.flows.train._proposer", lambda *_: failing)
    second = train([table], tmp_path / "o", options, console=console)
    assert second["ended"] == "done"
    assert "judging failed: RuntimeError: a fault" in said(console)
    assert (tmp_path / "o" / "model.safetensors").exists(), "unjudged, the last weights are kept"
    assert second["step"] > first["step"] > 0
    steps = [int(r["step"]) for r in csv.DictReader((tmp_path / "o" / "log.csv").open())]
    assert steps == sorted(steps)


def failing(weights: Path, n: int, seed: int) -> Iterator[Crystal]:
    raise RuntimeError("a fault")


CHILD = """
import sys
from pathlib import Path
from rich.console import Console
from heliodor.flows.train import TrainOptions, train
options = TrainOptions(
    minutes=5, size="tiny", device="cpu", batch=16, judge_energy="none", judge_every=9
)
try:
    train([Path(sys.argv[1])], Path(sys.argv[2]), options, console=Console(width=300), resume="RESUME")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_sigterm_saves(tmp_path, console):
    table = write_table(tmp_path / "salts.parquet")
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(table), str(out)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (out / "log.csv").exists():
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    text, _ = child.communicate(timeout=240)
    assert child.returncode == 130, text
    assert "nothing is lost. Go on with: RESUME" in text
    options = replace(QUICK, minutes=5, judge_every=9, judge_samples=200)
    resumed = train([table], out, options, console=console, for_minutes=0.01)
    assert resumed["step"] > 0
    assert "going on at step" in said(console)


# --- what it refuses -----------------------------------------------------------------------------


def test_missing_columns_are_named(tmp_path, console):
    path = tmp_path / "poor.parquet"
    pd.DataFrame({"material_id": ["a"], "lattice": [[1.0] * 9]}).to_parquet(path)
    with pytest.raises(InputError, match=r"poor\.parquet: no column atomic_numbers, frac_coords"):
        train([path], tmp_path / "out", QUICK, console=console)
    assert not (tmp_path / "out").exists()


def test_hull_filter_needs_its_column_in_every_table(tmp_path, console):
    good = write_table(tmp_path / "good.parquet", e_above_hull=0.0)
    bad = write_table(tmp_path / "bad.parquet")
    options = replace(QUICK, max_energy_above_hull=0.1)
    with pytest.raises(InputError, match=r"bad\.parquet has no column e_above_hull"):
        train([good, bad], tmp_path / "out", options, console=console)
    far = write_table(tmp_path / "far.parquet", e_above_hull=0.5)
    with pytest.raises(InputError, match=r"no crystal has e_above_hull at most 0\.1"):
        train([far], tmp_path / "out", options, console=console)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0.0}, "minutes: got 0.0"),
        ({"minutes": float("nan")}, "minutes: got nan"),
        ({"size": "huge"}, "size: 'huge'; known: tiny"),
        ({"judge_samples": 0}, "judge_samples: got 0"),
        ({"judge_energy": "dft"}, "judge_energy: 'dft'"),
        ({"device": "tpu"}, "device: 'tpu'"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_options_are_named(tmp_path, console, change, message):
    table = write_table(tmp_path / "salts.parquet")
    with pytest.raises(InputError, match=message):
        train([table], tmp_path / "out", replace(QUICK, **change), console=console)
    assert not (tmp_path / "out").exists()


def test_cuda_that_is_not_there(tmp_path, console, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    table = write_table(tmp_path / "salts.parquet")
    with pytest.raises(HeliodorError, match="cuda"):
        train([table], tmp_path / "out", replace(QUICK, device="cuda"), console=console)
    assert not (tmp_path / "out").exists()


def test_missing_table_and_file_as_folder(tmp_path, console):
    with pytest.raises(InputError, match="no such file"):
        train([tmp_path / "none.parquet"], tmp_path / "out", QUICK, console=console)
    table = write_table(tmp_path / "salts.parquet")
    with pytest.raises(InputError, match="is a file"):
        train([table], table, QUICK, console=console)


# --- its parts -----------------------------------------------------------------------------------


def test_selection_has_a_digest_of_its_own(packed):
    mask = np.arange(len(packed)) % 2 == 0
    half, other = select(packed, mask), select(packed, ~mask)
    assert len(half) == mask.sum()
    assert list(half.ids) == list(packed.ids[mask])
    assert len({packed.digest, half.digest, other.digest}) == 3
    assert select(packed, mask).digest == half.digest


def test_known_crystals_are_those_of_the_table(packed):
    from heliodor.validators.matching import Matcher, MatcherSettings, prepare

    before = dict(salts())
    matcher = Matcher(MatcherSettings())
    for name, crystal in known_crystals(packed):
        assert crystal.volume == pytest.approx(before[name].volume, rel=1e-4)
        assert matcher.matches(prepare(crystal), prepare(before[name]))


def proposing(*items: Crystal | Failure):
    def propose(weights: Path, n: int, seed: int) -> Iterator[Crystal | Failure]:
        yield from items[:n]

    return propose


def test_judge_counts_jointly(tmp_path):
    known, novel = salt(11, 17), salt(19, 35, caesium=True)
    overlap = Crystal(2 * np.eye(3), [[0, 0, 0], [0.05, 0, 0]], np.array([11, 9]))
    failed = Failure("", Reason.GENERATION)
    items = (known, novel, salt(19, 35, 1.001, caesium=True), overlap, failed)
    judged = Judge(proposing(*items), [("mp-1", known)], 6, None)(tmp_path)
    assert (judged.n, judged.valid, judged.unique, judged.novel) == (6, 3, 3, 3)
    assert judged.joint == 1, "only the first of the two alike is valid, unique and novel"
    assert judged.low_energy is None
    assert judged.score == pytest.approx(1 / 6)
    rates = judged.rates()
    assert 0 < rates["score_low"] < 1 / 6 < rates["score_high"] < 1


def test_judge_stops_when_asked(tmp_path):
    judge = Judge(proposing(salt(11, 17)), [], 1, None)
    with pytest.raises(judging.Stopped):
        judge(tmp_path, lambda: True)


def test_the_later_wins_a_tie_and_other_measures_are_not_compared():
    def judged(joint: int, energy: str = "chgnet") -> Judgement:
        return Judgement(200, 200, 200, 200, 200, joint, energy, 1.0)

    best = judged(30).facts()
    assert better(judged(30), best)
    assert better(judged(31), best)
    assert not better(judged(29), best)
    assert better(judged(1, "none"), best)
    assert better(judged(0), None)
    assert json.loads(json.dumps(best)) == best


def test_potential_that_is_not_installed_is_left_out(monkeypatch):
    from heliodor.engines import potentials

    monkeypatch.setattr(potentials, "find_spec", lambda _: None)
    assert low_energy("chgnet", "cpu", 1) is None


@pytest.mark.slow
def test_energies_tell_good_crystals_from_bad(tmp_path):
    energy = low_energy("chgnet", "cpu", 1)
    assert energy is not None
    ground = salt(11, 17)
    wrong = Crystal(1.8 * (np.ones((3, 3)) - np.eye(3)), [[0, 0, 0], [0.5] * 3], np.array([5, 7]))
    keys = energy.keys([ground, wrong, ground], lambda: False)
    assert keys == {ground.digest}, "NaCl lies on the hull; BN as rock salt lies above 1 eV/atom"
    judged = Judge(proposing(ground, wrong), [], 2, energy)(tmp_path)
    assert (judged.low_energy, judged.joint) == (1, 1)
    assert judged.energy.startswith("chgnet-0.3.0")
