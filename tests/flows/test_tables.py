import json

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from rich.console import Console
from typer.testing import CliRunner

from heliodor.cli import app
from heliodor.core.convert import from_atoms
from heliodor.core.errors import InputError
from heliodor.flows.tables import read_crystals
from heliodor.generators.diffusion.rows import check_columns
from heliodor.validators.tables import read_table

QUIET = Console(quiet=True)
SALTS = ["LiF", "LiCl", "NaF", "NaCl", "NaBr", "KF", "KCl", "KBr", "MgO", "CaO", "SrO", "BaO"]
METALS = ["Cu", "Ag", "Au", "Ni", "Pd", "Pt", "Al", "Pb"]


def _run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), standalone_mode=True)


def _table(path, *, broken=True):
    atoms = [bulk(s, "rocksalt", a=5.0) for s in SALTS] + [bulk(m) for m in METALS]
    atoms.append(bulk("NaCl", "rocksalt", a=5.1))
    crystals = [from_atoms(a) for a in atoms]
    rows = pd.DataFrame(
        {
            "material_id": [f"m-{i}" for i in range(len(crystals))],
            "my_label": np.arange(len(crystals)) * 1.5,
            "energy": [1.0] * (len(crystals) - 1) + [0.5],
            "atomic_numbers": [c.atomic_numbers for c in crystals],
            "frac_coords": [c.frac_coords.ravel() for c in crystals],
            "lattice": [c.lattice.ravel() for c in crystals],
        }
    )
    if broken:
        lattice, frac = rows.lattice.tolist(), rows.frac_coords.tolist()
        lattice[1], frac[2] = np.full(9, np.nan), np.zeros(2)
        rows = rows.assign(lattice=lattice, frac_coords=frac)
    rows.to_parquet(path)
    return rows


def test_columns_stay_aligned_and_broken_rows_are_named(tmp_path):
    rows = _table(tmp_path / "t.parquet")
    table = read_crystals([tmp_path / "t.parquet"], QUIET)
    assert (table.n_in, len(table), sum(table.left_out.values())) == (21, 19, 2)
    assert len(table.examples) == 2
    assert "m-1" in table.examples[0]
    kept = rows.drop(index=[1, 2])
    assert table.column("my_label") == kept.my_label.tolist()
    for crystal, numbers in zip(table.crystals, kept.atomic_numbers, strict=True):
        assert crystal.atomic_numbers.tolist() == numbers.tolist()
    with pytest.raises(InputError, match="no column 'gap'"):
        table.column("gap")


def test_dedupe_keeps_the_lowest_and_every_column(tmp_path):
    _table(tmp_path / "t.parquet")
    out = tmp_path / "out.parquet"
    result = _run("dedupe", tmp_path / "t.parquet", "--out", out, "--order-by", "energy")
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(out)
    assert "m-20" in set(found.material_id)  # NaCl of lower energy, last in the file
    assert "m-3" not in set(found.material_id)
    assert len(found) == 18
    assert (found.my_label == found.material_id.str[2:].astype(int) * 1.5).all()
    assert (found.cluster == found.material_id).all()
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["in"], summary["kept"], sum(summary["left_out"].values())) == (21, 18, 2)
    assert summary["largest_cluster"] == {"name": "m-20", "crystals": 2}
    assert len(read_table(out).phases) == 18  # what `reference build` reads
    check_columns(found, "out")  # what `train` reads


def test_dedupe_marks_instead_of_dropping(tmp_path):
    _table(tmp_path / "t.parquet", broken=False)
    out = tmp_path / "out.parquet"
    options = ("--structure-threshold", "0.05", "--mark", "--json")
    result = _run("dedupe", tmp_path / "t.parquet", "--out", out, *options)
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(out)
    assert len(found) == 21
    assert found.kept.sum() == 2  # rock salt and fcc, whatever the elements
    assert set(found.cluster) == {"m-0", "m-12"}
    assert json.loads(result.stdout)["kept"] == 2


def test_split_keeps_its_promise_and_says_so(tmp_path):
    _table(tmp_path / "t.parquet")
    out = tmp_path / "parts"
    options = ("--composition-threshold", "0.15", "--test", "0.2", "--validation", "0.2", "--json")
    result = _run("split", tmp_path / "t.parquet", "--out", out, *options)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    frames = {p: pd.read_parquet(out / f"{p}.parquet") for p in ("train", "validation", "test")}
    assert {p: len(f) for p, f in frames.items()} == summary["parts"]
    assert sum(summary["parts"].values()) == 19
    assert summary["promise_kept"]
    assert summary["nearest_to_train"]["test"]["composition"] >= 0.15
    groups = [set(frame.cluster) for frame in frames.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]


@pytest.mark.parametrize(
    ("options", "held"),
    [
        (["--by", "chemsys", "--hold-out", "Na-Cl"], {"m-3", "m-20"}),
        (["--by", "element", "--hold-out", "Na"], {"m-2", "m-3", "m-4", "m-20"}),
        (["--by", "formula", "--same", "--hold-out", "NaCl"], {"m-3", "m-20"}),
        (["--by", "prototype", "--hold-out", "225 A:1"], {f"m-{i}" for i in range(12, 20)}),
    ],
)
def test_split_by_groups(tmp_path, options, held):
    _table(tmp_path / "t.parquet", broken=False)
    result = _run("split", tmp_path / "t.parquet", "--out", tmp_path / "s", *options)
    assert result.exit_code == 0, result.output
    assert set(pd.read_parquet(tmp_path / "s" / "test.parquet").material_id) == held


def test_where_all_hangs_together_a_gap_is_cut(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for shift in np.linspace(0, 0.5, 60):  # one structure drifting into another
        atoms = bulk("CsCl", "cesiumchloride", a=4.0)
        atoms.cell[2, 2] *= 1 + shift
        atoms.rattle(0.01, seed=int(rng.integers(1000)))
        images.append(atoms)
    write(tmp_path / "chain.extxyz", images)
    command = ("split", tmp_path / "chain.extxyz", "--out", tmp_path / "s")
    whole = _run(*command, "--structure-threshold", "0.08")
    assert isinstance(whole.exception, InputError)
    assert "holds 60 of 60" in str(whole.exception)
    cut = _run(*command, "--structure-threshold", "0.08", "--gap", "--json", "--format", "extxyz")
    assert cut.exit_code == 0, cut.output
    summary = json.loads(cut.stdout)
    assert summary["nearest_to_train"]["test"]["structure"] >= 0.08
    assert summary["left_out_at_gap"]["train"] > 0
    total = sum(summary["parts"].values()) + sum(summary["left_out_at_gap"].values())
    assert total == 60
    assert len(read_crystals([tmp_path / "s" / "test.extxyz"], QUIET)) == summary["parts"]["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dedupe", "T", "--out", "T"], "is read from"),
        (["dedupe", "T", "--out", "x.csv"], "cannot write '.csv'"),
        (["dedupe", "T", "--out", "x.parquet", "--order-by", "nothing"], "no column 'nothing'"),
        (["dedupe", "T", "--out", "x.parquet", "--order-by", "material_id"], "does not hold numbers"),
        (["dedupe", "T", "--out", "x.parquet", "--structure-threshold", "-1"], "is -1.0"),
        (["dedupe", "T", "--out", "x.parquet", "--same", "--structure-threshold", "1"], "--same"),
        (["dedupe", "nowhere", "--out", "x.parquet"], "no such file"),
        (["split", "T", "--out", "x"], "what must stay together"),
        (["split", "T", "--out", "x", "--same", "--hold-out", "Na"], "give it too"),
        (["split", "T", "--out", "x", "--by", "chemsys", "--gap"], "--gap goes with"),
        (["split", "T", "--out", "x", "--by", "element", "--same"], "--by element goes"),
        (["split", "T", "--out", "x", "--by", "formula", "--hold-out", "XeO9"], "XeO9"),
        (["split", "T", "--out", "x", "--same", "--test", "0.9", "--validation", "0.3"], "nothing is"),
    ],
)
def test_bad_input_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    _table(tmp_path / "t.parquet", broken=False)
    result = _run(*["t.parquet" if a == "T" else a for a in arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_a_file_without_crystals_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "no.parquet")
    with pytest.raises(InputError, match="no column lattice"):
        read_crystals([tmp_path / "no.parquet"], QUIET)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError):
        read_crystals([tmp_path / "cut.parquet"], QUIET)
