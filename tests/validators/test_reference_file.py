"""Tables of structures and references from the user's files."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Composition, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.protocols import Reference
from heliodor.core.records import Failure, Reason, Relaxed
from heliodor.validators.energies import elemental_energies
from heliodor.validators.reference_file import FileReference
from heliodor.validators.stability import Stability
from heliodor.validators.tables import read_table

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def rock_salt(metal, anion, a):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


MGO, NACL = rock_salt(12, 8, 4.25), rock_salt(11, 17, 5.69)
MG = Crystal(
    [[3.2, 0, 0], [-1.6, 2.7713, 0], [0, 0, 5.2]], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [12, 12]
)
O2 = Crystal(8 * np.eye(3), [[0, 0, 0], [0.154, 0, 0]], [8, 8])


def row(name, crystal, energy):
    return {
        "material_id": name,
        "formation_energy_per_atom": energy,
        "atomic_numbers": crystal.atomic_numbers,
        "frac_coords": crystal.frac_coords.ravel(),
        "lattice": crystal.lattice.ravel(),
    }


def write_parquet(path, rows):
    pd.DataFrame(rows).to_parquet(path)
    return path


def entry(name, crystal, energy, run_type="GGA", **data):
    return ComputedStructureEntry(
        to_structure(crystal), energy, entry_id=name, parameters={"run_type": run_type}, data=data
    )


def write_entries(path, entries):
    text = json.dumps([e if isinstance(e, dict) else e.as_dict() for e in entries]).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def corrected(entries):
    compatibility = MaterialsProject2020Compatibility(check_potcar=False)
    return compatibility.process_entries(entries, on_error="raise")


@pytest.fixture
def table(tmp_path):
    rows = [row("a-1", MGO, -3.05), row("a-2", NACL, -2.1), row("a-3", rock_salt(12, 8, 9.0), None)]
    return write_parquet(tmp_path / "own.parquet", rows)


def test_a_parquet_table_is_a_reference(table):
    reference = FileReference(table)
    assert isinstance(reference, Reference)
    assert [p.material_id for p in reference.entries(["Mg", "O", "Cl"])] == ["a-1"]
    assert [p.material_id for p in reference.like(((8, 1), (12, 1)))] == ["a-1", "a-3"]
    assert reference.entries("Li-Fe") == ()
    assert "1 without an energy" in reference.info.coverage
    assert reference.info.n_phases == 3
    assert len(reference.info.digest) == 64


def test_novelty_is_judged_by_structure(table):
    distorted = rock_salt(12, 8, 4.30)
    caesium_chloride = Crystal(2.66 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])
    other = rock_salt(20, 8, 4.8)
    known, polymorph, novel = FileReference(table).match([distorted, caesium_chloride, other])
    assert (known.passed, known.match, known.reason) == (False, "a-1", Reason.KNOWN)
    assert polymorph.passed is True
    assert novel.passed is True


def test_the_digest_follows_the_content(table, tmp_path):
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(table.read_bytes())
    assert read_table(copy).digest == read_table(table).digest
    write_parquet(copy, [row("a-1", MGO, -3.04)])
    assert read_table(copy).digest != read_table(table).digest


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS pointer"),
        ("x.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS pointer"),
        ("x.parquet", b"", "no readable Parquet"),
        ("x.parquet", b"PAR1 nothing else", "no readable Parquet"),
        ("x.json", b"[{", "not readable as JSON"),
        ("x.json", b"{}", "expected a list"),
        ("x.json", b"[]", "no usable structure"),
        ("x.json", b'[{"energy": 1}]', "item 0 is no ComputedStructureEntry"),
        ("x.json.gz", gzip.compress(b"[]", mtime=0)[:-6], "not readable as JSON"),
        ("x.csv", b"a,b", r"allowed: \.parquet"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_table(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        FileReference(tmp_path / "none.parquet")


def test_columns_of_another_kind_are_refused(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [row("a", MGO, -3.0) | {"lattice": "4.25"}])
    with pytest.raises(InputError, match="column lattice holds .*string, expected a list"):
        read_table(path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_table_is_refused(table, kept):
    content = table.read_bytes()
    table.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="truncated"):
        read_table(table)


def test_missing_columns_are_named(tmp_path):
    rows = [{k: v for k, v in row("a", MGO, -3.0).items() if k not in ("lattice", "frac_coords")}]
    with pytest.raises(InputError, match="missing columns frac_coords, lattice"):
        read_table(write_parquet(tmp_path / "t.parquet", rows))


def test_rows_without_a_crystal_are_counted_and_nan_energies_kept(tmp_path):
    bad = row("b", MGO, -1.0) | {"frac_coords": np.zeros(5)}
    rows = [row("a", MGO, float("nan")), bad, row("c", NACL, -2.1)]
    table = read_table(write_parquet(tmp_path / "t.parquet", rows))
    assert [p.material_id for p in table.phases] == ["a", "c"]
    assert table.phases[0].formation_energy_per_atom is None
    assert "1 rows left out" in table.coverage
    with pytest.raises(InputError, match="no usable structure"):
        read_table(write_parquet(tmp_path / "bad.parquet", [bad]))


def test_an_infinite_energy_is_refused(tmp_path):
    with pytest.raises(InputError, match="row 0"):
        read_table(write_parquet(tmp_path / "t.parquet", [row("a", MGO, float("-inf"))]))


# --- ComputedStructureEntries --------------------------------------------------------------------


def test_formation_energies_given_in_the_entries_are_used(tmp_path):
    entries = [entry("e1", MGO, -12.0, formation_energy_per_atom=-3.05)]
    table = read_table(write_entries(tmp_path / "e.json.gz", entries))
    assert table.phases[0].formation_energy_per_atom == -3.05
    assert "as given" in table.coverage


def test_formation_energies_from_the_elements_in_the_file(tmp_path):
    entries = corrected([entry("o", MGO, -12.0), entry("mg", MG, -3.2), entry("ox", O2, -9.9)])
    table = read_table(write_entries(tmp_path / "e.json", entries))
    oxide = next(p for p in table.phases if p.material_id == "o")
    assert oxide.formation_energy_per_atom == pytest.approx((-12.0 - 0.687 + 1.6 + 4.95) / 2)
    assert "elements in the file" in table.coverage


def test_formation_energies_from_the_materials_projects_elements(tmp_path):
    entries = corrected([entry("o", MGO, -12.0), entry("mg", MG, -3.2)])
    table = read_table(write_entries(tmp_path / "e.json", entries))
    expected = (-12.0 - 0.687 - elemental_energies()[12] - elemental_energies()[8]) / 2
    assert table.phases[0].formation_energy_per_atom == pytest.approx(expected)
    assert "Materials Project's elements" in table.coverage


def test_uncorrected_oxides_are_refused(tmp_path):
    path = write_entries(tmp_path / "e.json", [entry("o", MGO, -12.0)])
    with pytest.raises(InputError, match="no MP2020 corrections"):
        read_table(path)


def test_another_level_of_theory_is_refused(tmp_path):
    path = write_entries(tmp_path / "e.json", [entry("o", NACL, -12.0, run_type="R2SCAN")])
    with pytest.raises(InputError, match=r"R2SCAN.*GGA\+U"):
        read_table(path)


def test_undeclared_energies_without_elements_are_refused(tmp_path):
    path = write_entries(tmp_path / "e.json", [entry("o", NACL, -12.0, run_type=None)])
    with pytest.raises(InputError, match="no entry of the pure element for Cl, Na"):
        read_table(path)


def test_partial_occupancies_are_counted(tmp_path):
    alloy = Structure([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    disordered = ComputedStructureEntry(
        alloy, -7.0, composition=Composition("FeNi"), parameters={"run_type": "GGA"}
    )
    table = read_table(write_entries(tmp_path / "e.json", [disordered, entry("n", NACL, -7.0)]))
    assert table.skipped == {"partial occupancies": 1}
    assert "1 rows left out: partial occupancies" in table.coverage


# --- against the hull ----------------------------------------------------------------------------


def relaxed(crystal, energy, model="chgnet-0.3.0"):
    return Relaxed("key-1", crystal, energy, 0.01, 0.001, 5, converged=True, model=model)


def total(crystal, formation):
    reference = sum(elemental_energies()[z] for z in crystal.atomic_numbers.tolist())
    return formation * len(crystal) + reference


def test_stability_names_everything_the_number_depends_on(table):
    point = Stability(FileReference(table)).judge(relaxed(MGO, total(MGO, -3.0)))
    assert point.key == "key-1"
    assert point.energy_above_hull == pytest.approx(0.05)
    assert point.decomposition_energy == pytest.approx(0.05)
    assert point.formation_energy_per_atom == pytest.approx(-3.0)
    assert point.decomposition == (("MgO", "a-1", pytest.approx(1.0)),)
    assert point.level == "chgnet-0.3.0"
    assert "MP2020" in point.corrections
    assert "own.parquet" in point.reference
    assert "3 phases" in point.coverage


def test_a_new_stable_crystal_lies_on_the_hull(table):
    point = Stability(FileReference(table)).judge(relaxed(MGO, total(MGO, -3.2)))
    assert point.energy_above_hull == 0
    assert point.decomposition_energy == pytest.approx(-0.15)


def test_what_cannot_be_judged_is_a_failure_with_the_key(table):
    stability = Stability(FileReference(table))
    polonium = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])
    for crystal, energy, reason in [
        (polonium, -3.0, Reason.NO_REFERENCE),
        (MGO, float("nan"), Reason.ENERGY),
    ]:
        failure = stability.judge(relaxed(crystal, energy))
        assert isinstance(failure, Failure)
        assert (failure.key, failure.reason) == ("key-1", reason)


def test_an_unknown_potential_is_refused_before_any_work(table):
    with pytest.raises(InputError, match="mattersim"):
        Stability(FileReference(table), model="mattersim-1m")
