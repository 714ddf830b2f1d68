"""Packing of tables: what is kept, what is left out and why, the cache."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.generators.diffusion import data
from heliodor.generators.diffusion.data import Packed, concatenate, pack, packed, read_table, reduced
from heliodor.generators.diffusion.lattice import channels_of


def _row(name, structure, **labels):
    crystal = structure if isinstance(structure, Crystal) else from_structure(structure)
    return {
        "material_id": name,
        "atomic_numbers": crystal.atomic_numbers.astype(np.int16),
        "frac_coords": crystal.frac_coords.ravel(),
        "lattice": crystal.lattice.ravel(),
        "n_atoms": len(crystal),
        "spacegroup": 1,
        **labels,
    }


ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
SPINEL = Structure.from_spacegroup(
    "Fd-3m", Lattice.cubic(8.083), ["Mg", "Al", "O"], [[0] * 3, [0.625] * 3, [0.3874] * 3]
)
MAGNESIUM = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(3.21, 5.21), ["Mg"], [[1 / 3, 2 / 3, 0.25]]
)


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            _row("a", ROCK_SALT, band_gap=5.0, bulk_modulus=24.0),
            _row("b", RUTILE, band_gap=1.8, bulk_modulus=np.nan),
            _row("c", SPINEL, band_gap=np.inf, bulk_modulus=200.0),
            _row("d", MAGNESIUM, band_gap=None, bulk_modulus=36.0),
        ]
    )


def test_pack_reduces_symmetrises_and_pads(table):
    p = pack(table, max_atoms=16)
    assert p.ids.tolist() == ["a", "b", "c", "d"]
    assert p.n.tolist() == [2, 6, 14, 2]  # primitive
    assert p.spacegroup.tolist() == [225, 136, 227, 194]
    assert p.numbers.shape == (4, 16)
    assert p.max_atoms == 16
    assert (p.numbers[0, 2:] == 0).all()
    assert (p.orbit[0, 2:] == -1).all()
    assert sorted(p.numbers[0, :2].tolist()) == [11, 17]
    assert (p.frac.dtype, p.free.dtype, p.rotation.dtype) == (np.float32, np.float32, np.int8)
    # a primitive fcc cell: a = 5.64 / sqrt 2, angles of 60 degrees, volume a^3 / 4
    volume = np.exp(p.channels[0, :3].sum()) * 2
    assert volume == pytest.approx(5.64**3 / 4, rel=1e-5)
    assert np.exp(p.channels[0, 0]) * 2 ** (1 / 3) == pytest.approx(5.64 / np.sqrt(2), rel=1e-5)


def test_labels_are_the_numeric_columns_with_nan_where_unknown(table):
    p = pack(table)
    assert sorted(p.labels) == ["band_gap", "bulk_modulus"]  # not n_atoms, not spacegroup
    assert p.labels["band_gap"][:2].tolist() == pytest.approx([5.0, 1.8])
    assert np.isnan(p.labels["band_gap"][2:]).all()
    assert np.isnan(p.labels["bulk_modulus"]).tolist() == [False, True, False, False]


def test_packed_arrays_hold_the_crystal_and_its_template(table):
    p = pack(table)
    for i, structure in enumerate((ROCK_SALT, RUTILE, SPINEL, MAGNESIUM)):
        n = int(p.n[i])
        lower = np.zeros((3, 3))
        diagonal = np.exp(p.channels[i, :3].astype(float)) * n ** (1 / 3)
        lower[0, 0], lower[1, 1], lower[2, 2] = diagonal
        lower[1, 0], lower[2, 0] = p.channels[i, 3:5] * diagonal[0]
        lower[2, 1] = p.channels[i, 5] * diagonal[1]
        crystal = Crystal(lower, p.frac[i, :n], p.numbers[i, :n].astype(np.int64))
        assert channels_of(lower, n) == pytest.approx(p.channels[i], abs=1e-5)
        assert StructureMatcher(scale=False).fit(to_structure(crystal), structure)
        template = p.template(i)
        again = template.coordinates(crystal.frac_coords[template.representatives])
        gap = again - crystal.frac_coords
        assert np.abs(gap - np.rint(gap)).max() < 1e-6
        assert np.allclose(template.free @ template.free, template.free, atol=1e-12)
        assert np.allclose(template.metric @ template.metric, template.metric, atol=1e-12)


def test_reduced_is_the_same_crystal_whatever_the_cell():
    supercell = SPINEL.copy()
    supercell.make_supercell([[1, 1, 0], [0, 1, 0], [0, 1, -1]])  # left-handed too
    small = reduced(from_structure(supercell))
    assert len(small) == 14
    lengths = np.linalg.norm(small.lattice, axis=1)
    assert lengths == pytest.approx([8.083 / np.sqrt(2)] * 3, rel=1e-4)
    assert StructureMatcher(scale=False).fit(to_structure(small), SPINEL)


def _changed(name, **changes):
    return {**_row(name, MAGNESIUM), **changes}


def test_bad_rows_are_counted_by_reason_and_never_fatal(table):
    x = MAGNESIUM.frac_coords.ravel()
    bad = [
        _changed("nan", frac_coords=np.where(np.arange(6) == 2, np.nan, x)),
        _changed("inf", lattice=np.full(9, np.inf)),
        _changed("none", frac_coords=None),
        _changed("scalar", lattice=np.nan),
        _changed("short", frac_coords=x[:5]),
        _changed("empty", atomic_numbers=np.array([], dtype=int), frac_coords=np.array([])),
        _changed("text", atomic_numbers=np.array(["Mg", "Mg"])),
        _changed("element", atomic_numbers=np.array([12, 119])),
        _changed("zero", atomic_numbers=np.array([12, 0])),
        _changed("partial", atomic_numbers=np.array([12, 12.5])),
        _changed("flat", lattice=np.array([1.0, 0, 0, 0, 1, 0, 1, 1, 0])),
        _changed("overlap", frac_coords=np.array([0, 0, 0, 0.01, 0, 0])),
        _changed("tight", lattice=np.diag([0.3, 9, 9]).ravel()),
    ]
    p = pack(pd.concat([table, pd.DataFrame(bad)], ignore_index=True), max_atoms=6)
    assert p.ids.tolist() == ["a", "b", "d"]
    assert p.skipped == {
        "more than 6 atoms": 1,
        "not finite": 2,
        "missing value": 2,
        "wrong length": 2,
        "not numbers": 1,
        "unknown element": 2,
        "partial occupancy": 1,
        "flat cell": 1,
        "overlapping atoms": 2,
    }


def test_occupancies_mark_disorder(table):
    occupancies = [np.ones(8), np.ones(6), np.full(56, 0.5), None]
    p = pack(table.assign(occupancies=occupancies))
    assert p.ids.tolist() == ["a", "b", "d"]
    assert p.skipped == {"partial occupancy": 1}


def test_missing_columns_and_useless_tables_are_input_errors(table, tmp_path):
    with pytest.raises(InputError, match=r"no column frac_coords, lattice") as error:
        pack(table.drop(columns=["lattice", "frac_coords"]))
    assert "9 numbers" in str(error.value)
    path = tmp_path / "t.parquet"
    table.drop(columns="material_id").to_parquet(path)
    with pytest.raises(InputError, match="material_id"):
        read_table(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="Parquet"):
        read_table(path)
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "absent.parquet")
    with pytest.raises(InputError, match=r"none of 4 crystals .*more than 1 atoms \(4\)"):
        pack(table, max_atoms=1)
    with pytest.raises(InputError, match="empty table"):
        pack(table.iloc[:0])
    with pytest.raises(InputError, match="max_atoms"):
        pack(table, max_atoms=0)


def test_digest_is_of_the_content(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet")
    digest = pack(table).digest
    assert pack(read_table(tmp_path / "t.parquet")).digest == digest
    assert pack(table.assign(n_atoms=0, note="x")).digest == digest  # not read
    assert pack(table[table.columns[::-1]]).digest == digest
    assert pack(table.assign(bulk_modulus=1.0)).digest != digest
    assert pack(table.iloc[::-1]).digest != digest
    lattice = [x + 1e-9 for x in table["lattice"]]
    assert pack(table.assign(lattice=lattice)).digest != digest


def test_workers_and_progress_change_nothing(table):
    small = table.iloc[[3]]
    many = pd.concat([table, *[small.assign(material_id=f"{i}") for i in range(200)]], ignore_index=True)
    seen = []
    one = pack(many, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(200, 204), (204, 204)]
    two = pack(many, workers=2)
    for name in data._ARRAYS:
        assert (getattr(one, name) == getattr(two, name)).all(), name
    assert one.digest == two.digest


def test_save_load(table, tmp_path):
    p = pack(table, max_atoms=6)
    path = tmp_path / "p.npz"
    p.save(path)
    q = Packed.load(path)
    for name in data._ARRAYS:
        assert (getattr(p, name) == getattr(q, name)).all(), name
        assert getattr(p, name).dtype == getattr(q, name).dtype
    assert (q.digest, q.skipped) == (p.digest, {"more than 6 atoms": 1})
    for name in p.labels:
        assert np.array_equal(p.labels[name], q.labels[name], equal_nan=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="packed crystals"):
        Packed.load(path)


def test_cache_is_used_and_mended(table, tmp_path, monkeypatch):
    source, cache = tmp_path / "t.parquet", tmp_path / "cache"
    table.to_parquet(source)
    first = packed(source, max_atoms=14, cache=cache)
    (file,) = cache.iterdir()  # no partial file is left
    with monkeypatch.context() as patch:
        patch.setattr(data, "pack", lambda *a, **k: pytest.fail("the cache was not used"))
        assert packed([source], max_atoms=14, cache=cache).digest == first.digest
    file.write_bytes(b"damaged")
    assert (packed(source, max_atoms=14, cache=cache).key == first.key).all()
    assert len(Packed.load(file)) == 4
    packed(source, max_atoms=6, cache=cache)
    packed([source, source], max_atoms=6, cache=cache)
    assert len(list(cache.iterdir())) == 3


def test_concatenate(table):
    a, b = pack(table, max_atoms=6), pack(table.drop(columns="band_gap"), max_atoms=14)
    both = concatenate([a, b])
    assert len(both) == 7
    assert both.max_atoms == 14
    assert (both.orbit[0, 2:] == -1).all()
    assert np.isnan(both.labels["band_gap"][3:]).all()
    assert both.labels["bulk_modulus"][0] == both.labels["bulk_modulus"][3] == 24
    assert both.template(1).key == b.template(1).key
    assert both.skipped == {"more than 6 atoms": 1}
    assert both.digest not in {a.digest, b.digest}


def test_held_out_is_five_percent_by_id(table):
    p = pack(table)
    ids = np.array([f"mp-{i}" for i in range(20000)])
    many = Packed(
        **{**{name: getattr(p, name) for name in data._ARRAYS}, "ids": ids}, labels={}, digest=""
    )
    share = many.held_out.mean()
    assert abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 20000)
    value = int(hashlib.sha256(b"mp-7").hexdigest()[:8], 16) / 2**32
    assert bool(many.held_out[7]) == (value < 0.05)


@pytest.mark.shared
def test_materials_project_rows(mp_table):
    rows = mp_table.sample(150, random_state=4)
    p = pack(rows)
    assert set(p.skipped) <= {"more than 20 atoms"}
    known = dict(zip(rows["material_id"], rows["spacegroup"], strict=True))
    agree = np.mean([known[i] == group for i, group in zip(p.ids, p.spacegroup, strict=True)])
    assert agree > 0.95  # spglib at the same tolerance, on another cell of the crystal
    original = rows.set_index("material_id")
    matcher = StructureMatcher(scale=False)
    for i in range(0, len(p), 10):
        n, row = int(p.n[i]), original.loc[p.ids[i]]
        lattice = Lattice(np.reshape(row["lattice"], (3, 3)))
        structure = Structure(lattice, row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3)))
        mine = reduced(from_structure(structure))
        assert len(mine) == n
        cell_volume = np.exp(p.channels[i, :3].sum()) * n
        assert cell_volume == pytest.approx(mine.volume, rel=0.02)
        template = p.template(i)
        frac = template.coordinates(p.frac[i, :n][template.representatives].astype(float))
        made = Structure(Lattice(mine.lattice), p.numbers[i, :n].astype(int), frac)
        assert matcher.fit(made, structure), p.ids[i]
