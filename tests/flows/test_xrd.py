import csv
import json

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from heliodor.cli import app
from heliodor.core.convert import from_atoms
from heliodor.core.errors import InputError
from heliodor.flows.pattern_file import read_pattern
from heliodor.validators.powder import profile, reflections

CUKA = 1.54184


def _run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def crystals(tmp_path):
    path = tmp_path / "metals.extxyz"
    write(path, [bulk("Cu"), bulk("Al"), bulk("Fe"), bulk("Si")])
    return path


@pytest.fixture
def scan(tmp_path):
    """Aluminium, swollen by 0.8 % in each direction, its zero off by 0.05 degrees."""
    found = reflections(from_atoms(bulk("Al")), CUKA, 100)
    angles = found.two_theta(found.strain(np.array([0.008])))
    grid = np.arange(20, 90, 0.02)
    counts = profile(grid, angles + 0.05, found.intensities(angles), 0.15, 0.5)
    counts = np.random.default_rng(0).poisson(2000 * counts / counts.max() + 100)
    path = tmp_path / "scan.xy"
    path.write_text("".join(f"{x:.2f} {y}\n" for x, y in zip(grid, counts, strict=True)))
    return path


def _rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_patterns_are_simulated_and_drawn(crystals, tmp_path):
    result = _run("xrd", crystals, "--out", tmp_path / "x", "--two-theta", "20:80", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["candidates"] == 4
    silicon = [row for row in _rows(tmp_path / "x" / "peaks.csv") if row["formula"] == "Si"]
    assert [float(row["two_theta"]) for row in silicon[:3]] == pytest.approx(
        [28.47, 47.35, 56.18], abs=0.02
    )
    assert (silicon[0]["h"], silicon[0]["k"], silicon[0]["l"]) == ("1", "1", "1")
    assert float(silicon[0]["intensity"]) == 100
    assert (tmp_path / "x" / "patterns.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "x" / "patterns.svg").read_text()
    angles, _ = read_pattern(tmp_path / "x" / "profiles" / "0003_Si.csv")  # reads back
    assert angles[[0, -1]] == pytest.approx([20, 80])


def test_the_right_crystal_is_first(crystals, scan, tmp_path):
    result = _run("xrd", crystals, "--pattern", scan, "--out", tmp_path / "x")
    assert result.exit_code == 0, result.output
    rows = _rows(tmp_path / "x" / "matches.csv")
    assert rows[0]["formula"] == "Al"
    assert float(rows[0]["similarity"]) > 0.99
    assert float(rows[1]["similarity"]) < 0.7
    assert float(rows[0]["largest_strain_percent"]) == pytest.approx(0.8, abs=0.02)
    assert float(rows[0]["zero_shift"]) == pytest.approx(0.05, abs=0.01)
    assert rows[0]["unexplained_peaks"] == rows[0]["missing_peaks"] == "0"
    best = read(tmp_path / "x" / "best.cif")
    assert best.cell.lengths()[0] == pytest.approx(4.05 * 1.008, abs=0.002)
    assert (tmp_path / "x" / "match.png").is_file()
    assert {"measured", "background", "calculated"} < set(_rows(tmp_path / "x" / "best_profile.csv")[0])
    assert "Al" in result.stdout


def test_broken_candidates_are_named_and_passed_over(scan, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "al.cif", bulk("Al"))
    (folder / "no.cif").write_text("data_x\n_cell_length_a 3\n")
    heavy = bulk("Al")
    heavy.numbers[:] = 100
    write(folder / "fm.extxyz", heavy)
    result = _run("xrd", folder, "--pattern", scan, "--out", tmp_path / "x", "--json")
    assert result.exit_code == 0, result.output
    failed = json.loads(result.stdout)["failed"]
    assert len(failed) == 2
    assert any("form factor of Fm" in item["why"] for item in failed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# head\n10 5\n10.5 7\n", [(10, 5), (10.5, 7)]),
        ("two_theta,intensity\n10.0,5\n10.5,7e2\n", [(10, 5), (10.5, 700)]),
        ("10,0;5\n10,5;7\n", [(10, 5), (10.5, 7)]),
        ("a b c\n\n10\t5\t0.1\n! remark\n10.5\t7\t0.1\n\n", [(10, 5), (10.5, 7)]),
        ("\ufeff10 5\r\n11 6\r\n", [(10, 5), (11, 6)]),
    ],
)
def test_pattern_files_of_all_kinds(tmp_path, text, expected):
    path = tmp_path / "p.xy"
    path.write_text(text, encoding="utf-8", newline="")
    assert list(zip(*(c.tolist() for c in read_pattern(path)), strict=True)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no numbers\nat all\n", "no rows of two numbers"),
        (b"", "no rows of two numbers"),
        (b"10 5\n11 six\n12 7\n", "line 2: expected angle and intensity, got '11 six'"),
        (b"10\n11\n", "no rows of two numbers"),
        (b"RAW1.01\0\0", "binary data"),
        (b"10 5\n12 5\n11 5\n", "angles must rise"),
        (b"10 5\n200 5\n", "is no angle two theta"),
    ],
)
def test_bad_patterns_are_refused_before_any_work(crystals, tmp_path, content, message):
    path = tmp_path / "p.xy"
    path.write_bytes(content)
    result = _run("xrd", crystals, "--pattern", path, "--out", tmp_path / "x")
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--radiation", "CuKx"], "known: CuKa"),
        (["--two-theta", "80:20"], "expected 0 < low < high"),
        (["--two-theta", "wide"], "not LOW:HIGH"),
        (["--fwhm", "0"], "--fwhm is 0"),
        (["--max-strain", "0.5"], "--max-strain is 0.5"),
        (["--pattern", "nowhere.xy"], "no such file"),
        (["--two-theta", "5:10"], "no reflection of any candidate"),
    ],
)
def test_bad_options_are_refused(crystals, tmp_path, options, message):
    result = _run("xrd", crystals, "--out", tmp_path / "x", *options)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_no_candidates_at_all(scan, tmp_path):
    (tmp_path / "empty").mkdir()
    result = _run("xrd", tmp_path / "empty", "--pattern", scan, "--out", tmp_path / "x")
    assert isinstance(result.exception, InputError)
    assert "nothing to read in" in str(result.exception)
