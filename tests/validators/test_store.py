"""Stores of known phases on disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.errors import StorageError
from heliodor.core.protocols import Phase
from heliodor.validators import store_build
from heliodor.validators.arrays import ArrayWriter, open_arrays
from heliodor.validators.fingerprint import amd
from heliodor.validators.geometry import length_unit
from heliodor.validators.matching import prepare
from heliodor.validators.novelty import StructureNovelty
from heliodor.validators.phases import Phases
from heliodor.validators.reference_file import FileReference
from heliodor.validators.store_build import open_store
from heliodor.validators.tables import read_table, write_table

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def salt(metal, anion, a):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


THIN = Crystal(np.diag([1e-6, 1e5, 1e5]), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])
CRYSTALS = [
    salt(12, 8, 4.25),
    THIN,
    salt(11, 17, 5.69),
    Crystal(2.66 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8]),
    Crystal(3.2 * np.eye(3), [[0, 0, 0]], [12]),
    salt(92, 8, 5.0),
]
PHASES = [
    Phase(f"id-{i}{'x' * i}", c.reduced_composition, None if i == 3 else -0.5 * i, i or None, c)
    for i, c in enumerate(CRYSTALS)
]


def write(path, phases=PHASES):
    write_table(path, phases, {"origin": "by hand"})
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "table.parquet")


def folder_of(cache):
    return next((cache / "phases").iterdir())


def test_everything_comes_back(table, tmp_path):
    store = open_store(table, tmp_path / "cache")
    assert len(store) == len(PHASES)
    for row, phase in enumerate(PHASES):
        found = store.phase(row, crystal=True)
        assert found.crystal.digest == phase.crystal.digest
        assert (found.material_id, found.composition, found.spacegroup) == (
            phase.material_id,
            phase.composition,
            phase.spacegroup,
        )
        assert found.formation_energy_per_atom == phase.formation_energy_per_atom
        assert store.phase(row).crystal is None
    assert store.info.metadata["origin"] == "by hand"
    assert store.info.coverage == read_table(table).coverage


def test_what_is_compared_is_what_would_be_computed(table, tmp_path):
    store = open_store(table, tmp_path / "cache")
    known = store.comparable(np.arange(6), np.arange(6))
    lattices, starts, sizes, states, frac, numbers, _ = known.store
    for row in (0, 2, 3, 4, 5):
        expected, n = prepare(CRYSTALS[row]), sizes[row]
        assert n == len(expected)
        assert (lattices[row] == expected.lattice).all()
        assert (frac[starts[row] : starts[row] + n] == expected.frac_coords).all()
        assert (numbers[starts[row] : starts[row] + n] == expected.atomic_numbers).all()
        found = store.amd_vectors([row], slice(None))[0]
        assert found == pytest.approx(amd(CRYSTALS[row]), rel=1e-5)
        assert known.vector(row) * length_unit(CRYSTALS[row]) == pytest.approx(found, rel=1e-5)
    assert states.tolist() == [1, -1, 1, 1, 1, 1]  # what cannot be reduced is kept, and flagged
    assert np.isnan(store.amd_vectors([1], slice(None))).all()
    assert known.vector(1) is None


def test_phases_are_found_as_in_memory(table, tmp_path):
    store, memory = open_store(table, tmp_path / "cache"), Phases(PHASES)
    for crystal in (*CRYSTALS, salt(3, 9, 4.0)):
        composition = crystal.reduced_composition
        assert [p.material_id for p in store.like(composition)] == [
            p.material_id for p in memory.like(composition)
        ]
    for elements in (["Mg", "O"], ["U", "O", "Mg", "Na", "Cl"], ["Li"], ["Na", "Cl", "Fe"]):
        assert [p.material_id for p in store.entries(elements)] == [
            p.material_id for p in memory.entries(elements)
        ]


def test_each_composition_is_listed_once(table, tmp_path):
    store = open_store(table, tmp_path / "cache")
    assert store.distinct().tolist() == [0, 2, 4, 5]
    assert store.rows(CRYSTALS[0].reduced_composition) == [0, 1, 3]


def test_a_table_without_energies_has_an_empty_hull(tmp_path):
    phases = [Phase(p.material_id, p.composition, None, None, p.crystal) for p in PHASES]
    store = open_store(write(tmp_path / "t.parquet", phases), tmp_path)
    assert store.entries(["Mg", "O"]) == ()
    assert len(store.like(((8, 1), (12, 1)))) == 3


def test_a_store_is_built_once_per_content(table, tmp_path):
    cache = tmp_path / "cache"
    open_store(table, cache)
    before = (folder_of(cache) / "about.json").stat()
    again = tmp_path / "elsewhere.parquet"
    again.write_bytes(table.read_bytes())
    open_store(again, cache)
    assert (folder_of(cache) / "about.json").stat() == before
    write(again, PHASES[:2])
    assert len(open_store(again, cache)) == 2
    assert len(list((cache / "phases").iterdir())) == 2


@pytest.mark.parametrize("name", ["amd", "about.json", "frac"])
def test_a_damaged_store_is_built_again(table, tmp_path, name):
    cache = tmp_path / "cache"
    open_store(table, cache)
    path = folder_of(cache) / name
    path.write_bytes(path.read_bytes()[:-3])
    assert open_store(table, cache).crystal(5).digest == CRYSTALS[5].digest
    assert [p.name for p in (cache / "phases").iterdir()] == [path.parent.name]


def test_a_folder_that_cannot_be_written_is_an_error(table, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="HELIODOR_CACHE"):
        open_store(table, tmp_path / "cache")


def test_the_first_of_two_writers_wins(tmp_path):
    folder = tmp_path / "arrays"
    with ArrayWriter(folder) as one, ArrayWriter(folder) as other:
        one.append({"x": np.arange(3)})
        other.append({"x": np.arange(3)})
        one.publish({"by": "one"})
        other.publish({"by": "other"})
    about, arrays = open_arrays(folder)
    assert (about, arrays["x"].tolist()) == ({"by": "one"}, [0, 1, 2])
    assert list(tmp_path.iterdir()) == [folder]
    arrays["x"][0] = 7  # changes the copy of this process alone
    assert open_arrays(folder)[1]["x"].tolist() == [0, 1, 2]


def test_nothing_half_written_stays(tmp_path):
    folder = tmp_path / "arrays"
    with ArrayWriter(folder) as writer:
        writer.append({"x": np.arange(3)})
        with pytest.raises(ValueError, match="expected"):
            writer.append({"x": np.arange(3.0)})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    for name, age in (("old", 2), ("new", 0.5)):
        left = tmp_path / f".{name}.partial"
        left.mkdir()
        (left / "x").write_bytes(b"1")
        then = time.time() - age * 24 * 3600
        os.utime(left / "x", (then, then))
        os.utime(left, (then, then))
    with ArrayWriter(tmp_path / "arrays"):
        assert sorted(p.name for p in tmp_path.glob(".*.partial"))[1:] == [".new.partial"]


def test_novelty_is_the_same_from_disk_and_from_memory(table, tmp_path):
    rng = np.random.default_rng(0)
    bad = Crystal(np.full((3, 3), np.nan), [[0] * 3], [6])
    asked = [*CRYSTALS, salt(12, 8, 4.4), salt(3, 9, 4.0), bad]
    for _ in range(20):
        base = CRYSTALS[int(rng.choice([0, 2, 3, 5]))]
        asked.append(
            Crystal(
                base.lattice @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))),
                base.frac_coords + rng.uniform(-0.1, 0.1, (2, 3)),
                base.atomic_numbers,
            )
        )
    stored = StructureNovelty(open_store(table, tmp_path / "cache"))
    listed = StructureNovelty((p.material_id, p.crystal) for p in PHASES)
    expected = listed.check(asked)
    assert stored.check(asked) == expected
    assert {v.passed for v in expected} == {True, False, None}
    shared = StructureNovelty(open_store(table, tmp_path / "cache"), threads=3)
    assert shared.check(asked * 20) == expected * 20


def test_a_reference_without_a_cache_leaves_nothing(table, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    reference = FileReference(table)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert reference.match([CRYSTALS[0]])[0].match == "id-0"
    del reference
    assert list((tmp_path / "tmp").iterdir()) == []


def _open(path, cache):
    open_store(path, cache)


def _stop_before_the_last_step(path, cache, written):
    def wait(*_):
        written.touch()
        time.sleep(600)

    store_build.ArrayWriter.publish = wait  # in a process of its own, which is then killed
    open_store(path, cache)


@pytest.mark.slow
def test_a_kill_leaves_nothing_half_made_and_two_builders_do_not_meet(tmp_path):
    many = [
        Phase(f"{i}", c.reduced_composition, -1.0, None, c)
        for i in range(200)
        for c in [salt(12, 8, 4 + i / 200)]
    ]
    table, cache = write(tmp_path / "many.parquet", many), tmp_path / "cache"
    start = multiprocessing.get_context("spawn").Process
    written = tmp_path / "written"
    first = start(target=_stop_before_the_last_step, args=(table, cache, written))
    first.start()
    while not written.exists():
        assert first.is_alive()
        time.sleep(0.01)
    assert list(cache.glob("phases/.*/amd"))
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert [p.name[0] for p in (cache / "phases").iterdir()] == ["."]
    both = [start(target=_open, args=(table, cache)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    store = open_store(table, cache)
    assert len(store) == 200
    assert store.crystal(199).digest == many[199].crystal.digest


@pytest.mark.shared
def test_batches_and_threads_make_the_same_store(mp_table, tmp_path, monkeypatch):
    rows: pd.DataFrame = mp_table.head(600)
    rows.to_parquet(tmp_path / "t.parquet")
    one = open_store(tmp_path / "t.parquet", tmp_path / "one")
    monkeypatch.setattr(store_build, "_BATCH", 170)
    two = open_store(tmp_path / "t.parquet", tmp_path / "two", threads=3)
    for file in folder_of(tmp_path / "one").iterdir():
        assert file.read_bytes() == (folder_of(tmp_path / "two") / file.name).read_bytes(), file.name
    assert len(one) == len(two) == 600
