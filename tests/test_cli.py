"""The command line: exit codes, one clear message per fault, nothing begun on bad input."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest

from heliodor import cli
from heliodor.core.campaign import load_campaign, parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger
from heliodor.core.records import Candidate, Origin
from heliodor.core.settings import load_settings
from heliodor.flows.build import remember
from heliodor.flows.write import writer


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Calls the command line in this process; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HELIODOR_LEDGER_URL", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["heliodor", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return int(caught.value.code or 0), output.out, output.err

    return call


def campaign(path: Path, **changes: object) -> Path:
    content = {
        "name": "c",
        "space": {"elements": ["Li", "Ti", "O"]},
        "generator": {"kind": "substitution"},
        **changes,
    }
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def test_help_is_quick():
    before = os.times()
    subprocess.run([sys.executable, "-m", "heliodor.cli", "--help"], check=True, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 3, "the limit is one second on a quiet machine"


def test_version(run):
    assert run("--version") == (0, "0.1.0\n", "")


def test_new_then_run_needs_no_edit(run, tmp_path):
    code, out, _ = run("new", "mine.yaml", "--chemsys", "Sr-Ti-O")
    assert code == 0
    assert "heliodor run mine.yaml" in out
    assert "[O, Sr, Ti]" in (tmp_path / "mine.yaml").read_text()
    code, _, err = run("new", "mine.yaml")
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize("name", ["my camp.yaml", "a: b.yaml", ".yaml", "ü.yaml", f"{'x' * 90}.yaml"])
def test_new_gives_a_valid_name_whatever_the_file_is_called(run, tmp_path, name):
    code, _, err = run("new", name)
    assert code == 0, err
    assert load_campaign(tmp_path / name).name
    command = (tmp_path / name).read_text().splitlines()[0].partition("heliodor run ")[2]
    assert shlex.split(command) == [name]


@pytest.mark.parametrize("generator", ["diffusion", "substitution", "random", "files"])
def test_new_writes_what_can_be_loaded(run, tmp_path, generator):
    assert run("new", "c.yaml", "--generator", generator)[0] == 0
    loaded = load_campaign(tmp_path / "c.yaml")
    assert loaded.generator.kind == generator
    # The diffusion model alone needs no part of chemistry to be named.
    assert bool(loaded.space.elements) == (generator != "diffusion")


def test_every_key_that_new_comments_out_is_a_key(run, tmp_path):
    """Each commented key of the generator, put in, gives a valid campaign."""
    run("new", "c.yaml")
    text = (tmp_path / "c.yaml").read_text()
    block = text[text.index("generator:") : text.index("screen:")]
    keys = [line for line in block.splitlines() if line.startswith("  # ")]
    assert len(keys) >= 8
    for line in keys:
        (tmp_path / "k.yaml").write_text(text.replace(line, line.replace("  # ", "  ", 1)))
        load_campaign(tmp_path / "k.yaml")


def test_schema_is_json(run):
    _, out, _ = run("schema")
    assert json.loads(out)["title"] == "Campaign"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generator": {"kind": "substitutions"}}, "generator.kind: got 'substitutions'"),
        ({"space": {"elements": ["Li", "Zz"]}}, "no such element: 'Zz'"),
        ({"budget": {"candidates": 0}}, "budget.candidates: got 0"),
        ({"space": {"elements": ["Li", "O", "Ne"]}}, "no atomic volume is known for Ne"),
        (
            {"space": {"elements": ["Li", "Be", "B", "C", "N", "O", "F", "Na"]}},
            "no prototype of 'aflow'",
        ),
        ({"generator": {"kind": "files", "paths": ["none.cif"]}}, "none.cif"),
        ({"reference": {"kind": "file", "path": "none.parquet"}}, "none.parquet"),
        ({"generator": {"kind": "plugin", "name": "none"}}, "no plugin 'none'; known:"),
    ],
)
def test_bad_campaigns_are_refused_before_work(run, tmp_path, changes, said):
    file = campaign(tmp_path / "c.yaml", **changes)
    code, _, err = run("run", file, "--out", "out")
    assert code == 2, err
    assert said in err
    assert not (tmp_path / "out" / "report.html").exists()


def test_no_key_and_no_snapshot(run, tmp_path, monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))
    file = campaign(tmp_path / "c.yaml", reference={"kind": "mp"})
    code, _, err = run("run", file)
    assert code == 3
    assert "MP_API_KEY" in err


@pytest.mark.parametrize(
    ("package", "extra", "changes"),
    [
        ("prefect", "flows", {}),
        ("chgnet", "chgnet", {}),
        pytest.param("sevenn", "sevennet", {"relaxer": {"kind": "sevennet"}}, marks=pytest.mark.slow),
        pytest.param("atomate2", "vasp", {}, marks=pytest.mark.slow),
        pytest.param("torch", "diffusion", {"generator": {"kind": "diffusion"}}, marks=pytest.mark.slow),
        pytest.param("pyxtal", "random", {"generator": {"kind": "random"}}, marks=pytest.mark.slow),
    ],
)
def test_a_missing_extra_is_named(tmp_path, package, extra, changes):
    """In a process of its own, where the package cannot be found."""
    file = campaign(tmp_path / "c.yaml", **changes)
    hide = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] == "{package}" else find(name, *a)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{package}":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hide())
sys.argv = ["heliodor", "run", {str(file)!r}, "--out", {str(tmp_path / "out")!r}]
from heliodor.cli import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", hide],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=240,
    )
    assert result.returncode == 3, result.stderr
    assert f"pip install 'heliodor[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("x")
    file = campaign(tmp_path / "c.yaml")
    code, _, err = run("run", file, "--out", tmp_path / "file" / "out")
    assert code == 4
    assert "cannot make the folder" in err


def test_a_ledger_of_a_newer_version(run, tmp_path):
    import sqlalchemy as sa

    file = campaign(tmp_path / "c.yaml")
    database = Database(f"sqlite:///{tmp_path / 'out' / 'ledger.sqlite'}")
    with database.write() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    code, _, err = run("run", file, "--out", "out")
    assert code == 4
    assert "newer version" in err


def test_other_science_under_the_same_name(run, tmp_path):
    out = tmp_path / "out"
    loaded = parse_campaign(json.loads(campaign(tmp_path / "c.yaml").read_text()))
    Ledger(Database(f"sqlite:///{out / 'ledger.sqlite'}"), loaded)
    remember(loaded, out)
    file = campaign(tmp_path / "c.yaml", seed=4)
    code, _, err = run("run", file, "--out", "out")
    assert code == 2
    assert "seed: 0, now 4" in err


def test_status_of_a_campaign_that_has_not_begun(run, tmp_path):
    code, _, err = run("status", tmp_path)
    assert code == 2
    assert "no campaign in" in err
    loaded = parse_campaign(json.loads(campaign(tmp_path / "c.yaml").read_text()))
    Ledger(Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}"), loaded)
    remember(loaded, tmp_path)
    code, out, _ = run("status", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["stages"]["generate"]["passed"] == 0


@pytest.mark.parametrize("damage", [b'{"a":', b"\xff\xfe", b"[]", b""])
def test_a_damaged_campaign_file_in_the_folder(run, tmp_path, damage):
    (tmp_path / "campaign.json").write_bytes(damage)
    code, _, err = run("status", tmp_path)
    assert code == 2
    assert "campaign.json" in err


GENERATE = ("generate", "--generator", "substitution", "--chemsys", "Sr-Ti-O", "-n", 6, "--seed", 2)


def test_generate_writes_what_ase_reads(run, tmp_path):
    code, out, _ = run(*GENERATE, "--out", "g.extxyz")
    assert code == 0, out
    frames = ase.io.read(tmp_path / "g.extxyz", ":")
    assert len(frames) == 6
    assert all({"Sr", "Ti", "O"} == set(frame.symbols) for frame in frames)


@pytest.mark.parametrize("name", ["g.json", "g.cif", "g.zip", "folder"])
def test_every_format_is_read_back_by_our_own_reader(run, tmp_path, name):
    from heliodor.core.records import Candidate, Conditions
    from heliodor.generators.files import FilesGenerator

    assert run(*GENERATE, "--out", name)[0] == 0
    stream = FilesGenerator([str(tmp_path / name)]).generate(99, seed=0, conditions=Conditions())
    read = list(stream)
    assert len(read) == 6
    assert all(isinstance(item, Candidate) for item in read)


def test_a_folder_with_other_files_takes_no_crystals(run, tmp_path):
    assert run(*GENERATE, "--out", "folder")[0] == 0
    code, _, err = run(*GENERATE, "--out", "folder")
    assert code == 2
    assert "folder is not empty" in err


def test_json_of_a_stopped_generate_is_whole(tmp_path):
    def stopped():
        with writer(tmp_path / "g.json") as write:
            crystal = Crystal(4.2 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17])
            write(Candidate(crystal, Origin("g", "1", 0, 0)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(json.loads((tmp_path / "g.json").read_text())) == 1


def test_the_same_seed_gives_the_same_file(run, tmp_path):
    for name in ("a.extxyz", "b.extxyz"):
        assert run(*GENERATE, "--out", name)[0] == 0
    assert (tmp_path / "a.extxyz").read_text() == (tmp_path / "b.extxyz").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--chemsys", "Li-Qq", "--out", "x.json"), "no such element: 'Qq'"),
        (("--out", "x.json", "--generator", "random"), "where to search?"),
        (
            ("--chemsys", "Li-O", "--out", "x.doc", "--generator", "substitution"),
            "cannot write '.doc'",
        ),
        (("--chemsys", "Li-O", "--generator", "diffuse", "--out", "x.json"), "generator.kind"),
        (("--formula", "Li2(", "--out", "x.json"), "not a chemical formula"),
        (("--chemsys", "Li-O", "--out", "x.json", "-n", 0), "-n"),
    ],
)
def test_generate_refuses(run, arguments, said):
    code, _, err = run("generate", *arguments)
    assert code == 2
    assert said in err


def test_generate_to_a_full_disk(run, tmp_path):
    (tmp_path / "g.extxyz").symlink_to("/dev/full")
    code, _, err = run(*GENERATE, "--out", "g.extxyz")
    assert code == 4
    assert "No space left" in err


def test_hull_of_a_composition(run):
    code, out, _ = run("hull", "LiFePO4=-2.5", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["energy_above_hull"] >= 0
    assert found["decomposition_energy"] <= found["energy_above_hull"]


def test_hull_of_a_system_lists_stable_phases(run):
    _, out, _ = run("hull", "--chemsys", "Mg-O", "--json")
    assert "MgO" in {row["formula"] for row in json.loads(out)}


@pytest.mark.parametrize("item", ["LiFePO4", "LiFeQQ=-1", "MgO=nan", "MgO=low", "none.csv"])
def test_hull_refuses(run, item):
    assert run("hull", item)[0] == 2


def test_hull_says_which_energy_is_none(run):
    assert "MgO: formation energy 'low'" in run("hull", "MgO=low")[2]


def test_hull_of_a_table(run, tmp_path):
    table = pd.DataFrame({"formula": ["MgO", "Li2O"], "formation_energy_per_atom": [-3.0, -2.0]})
    table.to_csv(tmp_path / "t.csv")
    code, out, _ = run("hull", "t.csv", "--json")
    assert code == 0
    assert len(json.loads(out)) == 2


def test_reference_info(run):
    code, out, _ = run("reference", "info", "--json")
    info = json.loads(out)
    assert code == 0
    assert info["n_phases"] == 26_438
    assert "CC BY 4.0" in info["attribution"]


def test_doctor_names_what_to_do(run, monkeypatch):
    monkeypatch.setenv("HELIODOR_LEDGER_URL", "postgresql://me:s3cret@127.0.0.1:1/x")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    code, out, err = run("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert code == 3
    assert found["ledger"]["level"] == "fail"
    assert "s3cret" not in out + err
    assert found["embedded reference"]["level"] == "ok"
    assert "diffusion weights" in found
    assert found["safetensors"]["level"] == "ok"


def test_bad_settings_name_the_variable(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HELIODOR_WORKERS", "0")
    code, _, err = run("run", campaign(tmp_path / "c.yaml"))
    assert code == 2
    assert "HELIODOR_WORKERS" in err
    monkeypatch.delenv("HELIODOR_WORKERS")
    assert load_settings().workers >= 1


def test_usage_errors(run):
    assert run("screen")[0] == 2
    assert run("nonsense")[0] == 2
    code, _, err = run("screen", "none.cif", "--out", "o")
    assert code == 2
    assert "no such file or folder: none.cif" in err
