"""`heliodor screen` as a user runs it: a folder with everything that can be wrong, a row for each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from heliodor.core.convert import to_atoms, to_structure
from heliodor.core.crystal import Crystal

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def rock_salt(a: float, cation: int, anion: int) -> Crystal:
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good, repeated, known, broken and hopeless crystals."""
    nacl = rock_salt(5.64, 11, 17)
    folder = tmp_path / "mixed"
    folder.mkdir()

    def cif(name: str, structure: Structure) -> None:
        (folder / name).write_text(str(CifWriter(structure)))

    cif("a_good.cif", to_structure(nacl))
    wider = to_structure(nacl)
    wider.apply_strain(0.02)
    cif("b_same.cif", wider)
    cif("c_disordered.cif", Structure(Lattice.cubic(3.8), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]))
    text = str(CifWriter(to_structure(nacl)))
    (folder / "d_truncated.cif").write_text(text[: len(text) // 2])
    (folder / "e_pointer.cif").write_text(LFS)
    (folder / "f_empty.cif").write_text("")
    nan = to_atoms(nacl)
    nan.positions[0] = np.nan
    ase.io.write(folder / "g_nan.extxyz", nan)
    close = Crystal(nacl.lattice, [[0, 0, 0], [0.05, 0.05, 0.05]], [11, 17])
    ase.io.write(folder / "h_overlap.extxyz", to_atoms(close))
    big = to_structure(rock_salt(6.29, 19, 17))
    big.make_supercell([6, 6, 7])
    cif("i_504_atoms.cif", big)
    ase.io.write(folder / "j_curium.extxyz", to_atoms(rock_salt(5.0, 96, 7)))
    ase.io.write(folder / "l_unbalanced.extxyz", to_atoms(rock_salt(5.9, 38, 17)))
    (folder / "k.extxyz").write_bytes(bytes(range(256)))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_input_has_its_row(heliodor, mixed, tmp_path):
    result = heliodor("screen", mixed, "--relaxer", "chgnet", "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    table = pd.read_parquet(tmp_path / "out" / "crystals.parquet")
    rows = {Path(str(row.source).split("#")[0]).name[0]: row for row in table.itertuples()}
    assert sorted(rows) == list("abcdefghijkl")

    assert rows["a"].valid
    assert rows["a"].unique
    assert not rows["a"].novel
    assert rows["a"].known_as == "mp-22862"
    assert rows["a"].converged
    assert rows["a"].formation_energy_per_atom == pytest.approx(-2.11, abs=0.05)
    assert rows["a"].energy_above_hull == pytest.approx(0, abs=0.05)
    assert rows["b"].reason == "duplicate"
    assert rows["b"].duplicate_of == rows["a"].key
    assert rows["b"].energy_above_hull == pytest.approx(rows["a"].energy_above_hull, abs=1e-3)
    expected = {
        "c": "partial_occupancy",
        "d": "unreadable",
        "e": "unreadable",
        "f": "unreadable",
        "g": "not_finite",
        "h": "atoms_too_close",
        "j": "element_unknown_to_potential",
        "k": "unreadable",
    }
    assert {name: rows[name].reason for name in expected} == expected
    assert "LFS" in rows["e"].detail
    assert rows["i"].reason == "too_many_atoms"
    # Charges do not balance: not valid, and judged all the same.
    assert rows["l"].reason == "not_charge_neutral"
    assert not rows["l"].valid
    assert rows["l"].novel
    assert rows["l"].energy_above_hull > 0
    assert not table["sun"].any()

    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert json.loads(result.stdout)["n"] == summary["n"] == 12
    assert summary["valid"] == int(table["valid"].sum())
    assert summary["unique"] == int((table["valid"] & table["unique"].fillna(False)).sum())
    assert summary["sun_0.1"] == 0
    assert summary["rates"]["valid"]["low"] < summary["valid"] / 12 < summary["rates"]["valid"]["high"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_a_potential(heliodor, mixed, tmp_path):
    result = heliodor(
        "screen", mixed, "--potential", "none", "--protocol", "mattergen", "--disorder", "order",
        "--no-scores", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    table = pd.read_parquet(tmp_path / "out" / "crystals.parquet")
    assert len(table) == 12
    assert table["energy_above_hull"].isna().all()
    assert table["sun"].fillna(False).sum() == 0
    ordered = table[table["source"].str.contains("c_disordered")].iloc[0]
    assert ordered["formula"] == "CuAu"
    assert "no charges: one order of many" in ordered["source"]
    assert "rmsd_from_relaxation" not in table

    protocol = json.loads((tmp_path / "out" / "protocol.json").read_text())
    values = {m["name"]: m for m in protocol["metrics"]}
    assert values["frac_unique_structures"]["n"] == table["key"].notna().sum() == 8
    # b is a again; everything else differs.
    assert values["frac_unique_structures"]["count"] == 7
    assert "avg_structure_validity" in result.stdout
    assert "fingerprints" in result.stdout, "the difference is said"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "frac_novel_systems" in page

    again = heliodor(
        "screen", mixed, "--potential", "none", "--disorder", "order", "--no-scores", "--protocol",
        "mattergen", "--out", tmp_path / "out",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "crystals.parquet"), table)


@pytest.mark.slow
def test_nothing_to_read(heliodor, tmp_path):
    (tmp_path / "empty").mkdir()
    result = heliodor("screen", tmp_path / "empty", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "nothing to read" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "empty" / "a.cif").write_text("")
    (tmp_path / "empty" / "b.zip").write_bytes(b"PK\x03\x04 broken")
    result = heliodor("screen", tmp_path / "empty", "--relaxer", "none", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "nothing was judged" in result.stderr
    table = pd.read_parquet(tmp_path / "out" / "crystals.parquet")
    assert table["reason"].tolist() == ["unreadable", "unreadable"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["n"] == 2


@pytest.mark.slow
def test_misuse_is_said_at_once(heliodor, mixed, tmp_path):
    for options, said in [
        (["--potential", "chgnt"], "known: chgnet"),
        (["--potential", "none", "--potential", "chgnet"], "goes with no other"),
        (["--protocol", "matergen"], "mattergen"),
    ]:
        result = heliodor("screen", mixed, *options, "--out", tmp_path / "out")
        assert result.returncode == 2, options
        assert said in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of it is waiting for starts
def test_killed_in_the_middle_it_ends_with_the_same_rows(
    heliodor, environment, recorded, mixed, tmp_path
):
    inputs = tmp_path / "many"
    inputs.mkdir()
    for i, (cation, anion, a) in enumerate(product((3, 11, 19, 37, 12), (9, 17, 35, 8), range(50, 57))):
        cell = to_structure(rock_salt(a / 10, cation, anion))
        (inputs / f"{i:03d}.cif").write_text(str(CifWriter(cell)) if i % 10 else "data_cut")
    shutil.copytree(mixed, inputs / "mixed")
    options = ["screen", str(inputs), "--potential", "none", "--no-scores", "--out"]
    whole = heliodor(*options, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    expected = pd.read_parquet(tmp_path / "whole" / "crystals.parquet")
    assert len(expected) == 152

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "heliodor.cli", *options, str(killed)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    while recorded(killed, "screen") < 25:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "crystals.parquet").exists()
    assert 25 <= recorded(killed, "screen") < 152
    ended = heliodor(*options, killed)
    assert ended.returncode == 0, ended.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(killed / "crystals.parquet"), expected)
