"""The table that ships with the package, and how it is made."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError, StorageError
from heliodor.core.protocols import Phase, Reference
from heliodor.core.records import Reason
from heliodor.validators.fingerprint import pack_fingerprint, species_fingerprint
from heliodor.validators.hull import Hull
from heliodor.validators.reference_embedded import EmbeddedReference, _default, build_reference
from heliodor.validators.tables import write_table

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def rock_salt(metal, anion, a):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


def row_crystal(row):
    return Crystal(row.lattice.reshape(3, 3), row.frac_coords.reshape(-1, 3), row.atomic_numbers)


@pytest.fixture(scope="module")
def embedded():
    return EmbeddedReference()


def test_it_is_a_reference_that_says_what_it_covers(embedded):
    assert isinstance(embedded, Reference)
    assert embedded.info.n_phases == 26_438
    assert "lower bounds" in embedded.info.coverage
    assert "Jain" in embedded.info.attribution
    assert "CC BY 4.0" in embedded.info.attribution


def test_it_ships_facts_and_fingerprints_but_no_structures():
    columns = pq.read_schema(_default()).names
    assert columns == [
        "material_id",
        "formula",
        "spacegroup",
        "formation_energy_per_atom",
        "e_above_hull",
        "fingerprint",
    ]
    assert _default().stat().st_size < 5_000_000


def test_known_facts(embedded):
    (salt,) = [p for p in embedded.like(((11, 1), (17, 1))) if p.material_id == "mp-22862"]
    assert salt.spacegroup == 225
    assert salt.formation_energy_per_atom == pytest.approx(-2.109608, abs=1e-6)
    assert salt.crystal is None


def test_entries_are_the_subsystems(embedded):
    phases = embedded.entries("Li-Fe-P-O")
    assert len(phases) > 40
    allowed = {3, 8, 15, 26}
    assert all({z for z, _ in p.composition} <= allowed for p in phases)
    names = {p.material_id for p in phases}
    everything = embedded.entries(["Li", "Fe", "P", "O", "Na"])
    assert names < {p.material_id for p in everything}
    with pytest.raises(InputError, match="Xx"):
        embedded.entries(["Xx"])


def test_rock_salt_is_known_and_a_strange_phase_novel(embedded):
    known, novel, broken = embedded.match(
        [
            rock_salt(11, 17, 5.7),
            rock_salt(11, 83, 6.0),
            Crystal(np.full((3, 3), np.nan), [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17]),
        ]
    )
    assert (known.passed, known.match, known.reason) == (False, "mp-22862", Reason.KNOWN)
    assert novel.passed is True
    assert broken.passed is None


def test_loading_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; from heliodor.validators.reference_embedded import EmbeddedReference; "
        "t = time.process_time(); EmbeddedReference(); "
        "print(time.process_time() - t, [m for m in ('torch', 'pymatgen') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert json.loads(heavy) == []
    assert float(seconds) < 2.0  # 0.2 s on a quiet machine


def test_building_and_reading_back(tmp_path):
    crystals = [rock_salt(12, 8, 4.25), rock_salt(11, 17, 5.69), rock_salt(12, 8, 1e-3)]
    phases = [
        Phase(f"x-{i}", c.reduced_composition, e, 225, c)
        for i, (c, e) in enumerate(zip(crystals, [-3.0, -2.1, None], strict=True))
    ]
    write_table(tmp_path / "in.parquet", phases, {})
    seen = []
    info = build_reference(
        tmp_path / "in.parquet", tmp_path / "out.parquet", progress=lambda *n: seen.append(n)
    )
    assert seen[-1] == (3, 3)
    assert info.n_phases == 3
    assert "1 without fingerprint" in info.coverage
    reference = EmbeddedReference(tmp_path / "out.parquet")
    assert [v.match for v in reference.match(crystals[:2])] == ["x-0", "x-1"]
    assert [p.material_id for p in reference.entries("Mg-O")] == ["x-0"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_places_that_cannot_be_written_are_named(tmp_path):
    crystal = rock_salt(12, 8, 4.25)
    write_table(
        tmp_path / "in.parquet", [Phase("x", crystal.reduced_composition, -3.0, 225, crystal)], {}
    )
    with pytest.raises(StorageError, match="cannot be written"):
        build_reference(tmp_path / "in.parquet", tmp_path / "no folder" / "out.parquet")


def test_a_table_of_structures_is_no_table_of_fingerprints(tmp_path):
    crystal = rock_salt(12, 8, 4.25)
    write_table(
        tmp_path / "in.parquet", [Phase("x", crystal.reduced_composition, -3.0, 225, crystal)], {}
    )
    with pytest.raises(InputError, match="no table of fingerprints"):
        EmbeddedReference(tmp_path / "in.parquet")


@pytest.mark.shared
def test_it_recognises_its_own_source(embedded, mp_table):
    sample = mp_table.sample(300, random_state=3)
    verdicts = embedded.match([row_crystal(row) for row in sample.itertuples()])
    assert np.mean([v.passed is False for v in verdicts]) >= 0.99


@pytest.mark.shared
def test_its_fingerprints_are_those_of_the_present_code(mp_table):
    shipped = pq.read_table(_default()).to_pandas().set_index("material_id").fingerprint
    for row in mp_table.sample(25, random_state=4).itertuples():
        packed = pack_fingerprint(species_fingerprint(row_crystal(row)))
        near = np.frombuffer(packed, np.uint8).astype(int) - np.frombuffer(
            shipped[row.material_id], np.uint8
        )
        assert np.abs(near).max() <= 1, row.material_id


@pytest.mark.shared
def test_its_hull_is_a_lower_bound_of_the_full_one(embedded, mp_table):
    hull = Hull(embedded._phases.all)
    sample = mp_table.sample(400, random_state=5)
    excess = [
        hull.query(row_crystal(r).reduced_composition, r.formation_energy_per_atom).energy_above_hull
        - r.e_above_hull
        for r in sample.itertuples()
    ]
    assert np.mean(np.array(excess) < 1e-3) > 0.98  # the rest: two database versions in one table


def test_time_of_a_query(embedded):
    start = time.process_time()
    for _ in range(200):
        embedded.entries("Li-Fe-P-O")
    assert time.process_time() - start < 1.0
