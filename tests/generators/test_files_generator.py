"""Crystals from files: every format, archives and folders, and whatever can be wrong with them."""

from __future__ import annotations

import gzip
import io
import json
import os
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from heliodor.core.convert import from_structure
from heliodor.core.errors import InputError
from heliodor.core.protocols import Generator
from heliodor.core.records import Candidate, Conditions, Failure, Reason
from heliodor.generators.files import FilesGenerator

ANY = Conditions()


def test_names_that_are_no_utf8_become_text(tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.cif")).write_text(cif(salt()))
    (item,) = FilesGenerator([str(tmp_path)]).generate(9, seed=0, conditions=ANY)
    assert isinstance(item, Candidate)
    assert item.origin.source.endswith(r"/bad\xff.cif")
    item.origin.source.encode()


def test_provenance_follows_the_content(tmp_path):
    def digest():
        return FilesGenerator([str(tmp_path)]).provenance["inputs"]

    (tmp_path / "a.cif").write_text(cif(salt()))
    (tmp_path / "notes.txt").write_text("not read")
    begun = digest()
    (tmp_path / "notes.txt").write_text("still not read")
    assert digest() == begun
    (tmp_path / "b.cif").write_text(cif(salt("K")))
    grown = digest()
    assert grown != begun
    (tmp_path / "b.cif").unlink()
    assert digest() == begun
    (tmp_path / "a.cif").write_text(cif(salt("K")))
    assert digest() not in (begun, grown)


def salt(a="Na", b="Cl", length=5.64):
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def cif(structure):
    return str(CifWriter(structure))


def read(*paths, n=1000, start=0):
    return list(FilesGenerator([str(p) for p in paths]).generate(n, seed=0, conditions=ANY, start=start))


def formulas(items):
    return [i.crystal.formula if isinstance(i, Candidate) else i.reason for i in items]


def sources(items):
    return [i.origin.source for i in items]


def test_is_a_generator():
    assert isinstance(FilesGenerator(["x"]), Generator)


def test_cif_with_several_blocks_of_one_name(tmp_path):
    path = tmp_path / "many.cif"
    blocks = [cif(salt()), cif(salt("K", "Br", 6.6)), cif(salt("Mg", "O", 4.21))]
    path.write_text(
        "data_global\n_journal_year 2020\n" + "\n".join(b.replace("data_NaCl", "data_x") for b in blocks)
    )
    items = read(path)
    assert formulas(items) == ["NaCl", "KBr", "MgO"]
    assert sources(items) == [f"{path}#{i}" for i in range(3)]
    assert items[0].crystal.volume == pytest.approx(5.64**3, rel=1e-6)
    assert len(items[0].crystal) == 8


def test_poscar_names(tmp_path):
    for name in ("POSCAR", "CONTCAR_7", "a.vasp", "b.poscar"):
        (tmp_path / name).write_text(Poscar(salt()).get_str())
    assert formulas(read(tmp_path)) == ["NaCl"] * 4
    assert sources(read(tmp_path / "POSCAR")) == [str(tmp_path / "POSCAR")]


def test_poscar_without_symbols_is_not_made_up(tmp_path):
    lines = Poscar(salt()).get_str().splitlines()
    del lines[5]
    lines = [line.rsplit(None, 1)[0] if line.endswith(("Na", "Cl")) else line for line in lines]
    (tmp_path / "POSCAR").write_text("\n".join(lines))
    (tmp_path / "good.cif").write_text(cif(salt()))
    assert formulas(read(tmp_path)) == [Reason.UNREADABLE, "NaCl"]


def test_extxyz_frames(tmp_path):
    path = tmp_path / "frames.extxyz"
    write(path, [bulk("Cu"), bulk("NaCl", "rocksalt", 5.64), bulk("Si")], format="extxyz")
    text = path.read_text()
    items = read(path)
    assert formulas(items) == ["Cu", "NaCl", "Si"]
    np.testing.assert_allclose(items[1].crystal.lattice, bulk("NaCl", "rocksalt", 5.64).cell.array)
    path.write_text("2\nmolecule without a cell\nH 0 0 0\nH 0 0 0.74\n" + text + "3\ncut off\nH 0 0 0\n")
    items = read(path)
    assert formulas(items) == [Reason.UNREADABLE, "Cu", "NaCl", "Si", Reason.UNREADABLE]
    assert "periodic" in items[0].detail
    assert "cut off" in items[-1].detail


def test_hostile_xyz_counts(tmp_path):
    (tmp_path / "a.xyz").write_text("999999999999\nx\n")
    (tmp_path / "b.cif").write_text(cif(salt()))
    assert formulas(read(tmp_path)) == [Reason.UNREADABLE, "NaCl"]


def test_json_forms(tmp_path):
    entry = ComputedStructureEntry(salt("K", "Br", 6.6), -12.0).as_dict()
    (tmp_path / "one.json").write_text(json.dumps(salt().as_dict()))
    (tmp_path / "list.json").write_text(json.dumps([salt().as_dict(), entry]))
    (tmp_path / "entry.json.gz").write_bytes(gzip.compress(json.dumps(entry).encode()))
    (tmp_path / "molecule.json").write_text(
        json.dumps(Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]).as_dict())
    )
    assert formulas(read(tmp_path / "one.json")) == ["NaCl"]
    assert formulas(read(tmp_path / "list.json")) == ["NaCl", "KBr"]
    assert formulas(read(tmp_path / "entry.json.gz")) == ["KBr"]
    assert formulas(read(tmp_path / "molecule.json")) == [Reason.UNREADABLE]


def test_table(tmp_path):
    crystal = from_structure(salt())
    row = {
        "material_id": "mp-22862",
        "atomic_numbers": crystal.atomic_numbers.tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        "lattice": crystal.lattice.ravel().tolist(),
    }
    bad = {**row, "material_id": "bad", "frac_coords": [0.0, 0.0]}
    nan = {**row, "material_id": "nan", "frac_coords": [float("nan")] * 24}
    path = tmp_path / "t.parquet"
    pd.DataFrame([row, bad, nan]).to_parquet(path)
    items = read(path)
    assert formulas(items) == ["NaCl", Reason.UNREADABLE, "NaCl"]
    assert sources(items) == [f"{path}#mp-22862", f"{path}#bad", f"{path}#nan"]
    assert items[0].crystal == crystal
    assert np.isnan(items[2].crystal.frac_coords).all()  # for the validity check to reject
    pd.DataFrame([{"formula": "NaCl"}]).to_parquet(path)
    (item,) = read(path)
    assert "no column lattice" in item.detail


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_zip_of_cifs(tmp_path):
    members = {f"gen_{i}.cif": cif(salt(length=5 + i / 10)) for i in range(3)}
    members |= {
        "notes.txt": "x",
        "__MACOSX/._gen_0.cif": b"\0",
        "../../evil.cif": cif(salt("K", "Cl", 6.3)),
    }
    path = make_zip(tmp_path / "generated_crystals_cif.zip", members)
    items = read(path)
    assert formulas(items) == ["KCl", "NaCl", "NaCl", "NaCl"]
    assert sources(items)[1] == f"{path}/gen_0.cif"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing was unpacked
    assert not (tmp_path.parent.parent / "evil.cif").exists()


def test_zip_bomb_is_refused(tmp_path):
    members = {
        "bomb.cif": b" " * 20_000_000,
        "good.cif": cif(salt()),
        "z.json.gz": gzip.compress(b" " * 20_000_000),
    }
    items = read(make_zip(tmp_path / "x.zip", members))
    assert formulas(items) == [Reason.UNREADABLE, "NaCl", Reason.UNREADABLE]
    assert "times its size" in items[0].detail
    assert "times its size" in items[2].detail


def test_folder_is_sorted_and_passes_over_others(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.cif").write_text(cif(salt("K", "Br", 6.6)))
    (tmp_path / "b" / "1.cif").write_text(cif(salt("Mg", "O", 4.21)))
    (tmp_path / "z.cif").write_text(cif(salt()))
    (tmp_path / "readme.md").write_text("words")
    (tmp_path / ".hidden.cif").write_text("junk")
    make_zip(tmp_path / "b" / "a.zip", {"POSCAR": Poscar(salt("Li", "F", 4.03)).get_str()})
    items = read(tmp_path)
    assert formulas(items) == ["NaCl", "MgO", "KBr", "LiF"]
    assert read(tmp_path) == items


DAMAGED = {
    "empty.cif": (b"", Reason.UNREADABLE, "empty"),
    "lfs.cif": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        Reason.UNREADABLE,
        "Git LFS",
    ),
    "garbage.cif": (bytes(range(256)) * 20, Reason.UNREADABLE, "binary"),
    "words.cif": (b"no crystal here", Reason.UNREADABLE, "data block"),
    "truncated.cif": (cif(salt()).encode()[:330], Reason.UNREADABLE, ""),
    "empty.parquet": (b"PAR1", Reason.UNREADABLE, ""),
    "broken.zip": (b"PK\x03\x04 broken", Reason.UNREADABLE, "archive"),
    "cut.json": (b'{"sites": [', Reason.UNREADABLE, ""),
    "bad.json.gz": (b"\x1f\x8b\x08 no", Reason.UNREADABLE, ""),
    "words.vasp": (b"nothing\n1.0\n", Reason.UNREADABLE, ""),
    "disordered.cif": (
        cif(Structure(Lattice.cubic(4), [{"Mg": 0.5, "Ca": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])).encode(),
        Reason.DISORDERED,
        "partial",
    ),
    "vacancy.cif": (
        cif(Structure(Lattice.cubic(4), [{"Mg": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])).encode(),
        Reason.DISORDERED,
        "partial",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_failure_and_the_rest_goes_on(tmp_path, name, recwarn):
    content, reason, said = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "zzz.cif").write_text(cif(salt()))
    bad, good = read(tmp_path)
    assert isinstance(bad, Failure)
    assert bad.reason is reason
    assert said in bad.detail
    assert 0 < len(bad.detail) < 300
    assert bad.origin.source == str(tmp_path / name)
    assert isinstance(good, Candidate)
    assert good.origin.index == 1
    assert not recwarn.list


def test_unusual_numbers_are_left_to_the_validity_check(tmp_path):
    text = Poscar(salt()).get_str().replace("0.5000000000000000", "nan", 1).replace("0.5 ", "nan ", 1)
    (tmp_path / "POSCAR").write_text(text)
    (item,) = read(tmp_path)
    assert isinstance(item, Candidate)
    assert np.isnan(item.crystal.frac_coords).any()


@pytest.mark.parametrize("start", [1, 6])
def test_resuming_anywhere(tmp_path, start, monkeypatch):
    write(tmp_path / "a.extxyz", [bulk("Cu", a=3.5 + i / 10) for i in range(4)], format="extxyz")
    (tmp_path / "b.cif").write_text(cif(salt()) + "\n" + cif(salt("K", "Br", 6.6)))
    (tmp_path / "c.cif").write_bytes(b"")
    (tmp_path / "d.json").write_text(json.dumps([salt().as_dict()]))
    everything = read(tmp_path)
    assert len(everything) == 8
    assert [i.origin.index for i in everything] == list(range(8))
    assert read(tmp_path, start=start) == everything[start:]
    assert read(tmp_path, start=start, n=2) == everything[start : start + 2]


def test_skipped_entries_are_not_parsed(tmp_path, monkeypatch):
    from heliodor.generators import readers

    for i in range(6):
        (tmp_path / f"{i}.cif").write_text(cif(salt(length=5 + i / 10)))
    parsed = []
    original = readers._parse_cif
    monkeypatch.setattr(readers, "_parse_cif", lambda block: parsed.append(1) or original(block))
    generator = FilesGenerator([str(tmp_path)])
    assert len(list(generator.generate(2, seed=0, conditions=ANY, start=4))) == 2
    assert len(parsed) == 2


def test_misuse_is_said_at_the_call(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for paths, said in [
        ([], "no files"),
        ([str(tmp_path / "nothing")], "no file or folder"),
        ([str(tmp_path / "notes.txt")], "unknown type"),
        ([str(tmp_path)], "nothing to read"),
    ]:
        with pytest.raises(InputError, match=said):
            FilesGenerator(paths).generate(1, seed=0, conditions=ANY)


GOOD = cif(salt()).encode()


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, len(GOOD)), at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_no_damage_raises(tmp_path_factory, cut, at, byte):
    folder = tmp_path_factory.mktemp("d")
    damaged = bytearray(GOOD)
    damaged[at] = byte
    (folder / "a.cif").write_bytes(bytes(damaged[:cut]))
    (folder / "b.cif").write_bytes(GOOD)
    items = read(folder)
    assert isinstance(items[-1], Candidate)
    assert all(isinstance(i, Candidate | Failure) for i in items)


def test_archive_in_memory_matches_folder(tmp_path):
    structures = [salt(length=5 + i / 10) for i in range(3)]
    folder = tmp_path / "f"
    folder.mkdir()
    for i, s in enumerate(structures):
        (folder / f"{i}.cif").write_text(cif(s))
    path = make_zip(tmp_path / "f.zip", {f"{i}.cif": cif(s) for i, s in enumerate(structures)})
    assert [i.key for i in read(folder)] == [i.key for i in read(path)]
    buffer = io.StringIO()
    write(buffer, [bulk("Si"), bulk("Ge")], format="extxyz")
    path = make_zip(tmp_path / "x.zip", {"generated_crystals.extxyz": buffer.getvalue()})
    assert formulas(read(path)) == ["Si", "Ge"]
    assert sources(read(path)) == [f"{path}/generated_crystals.extxyz#{i}" for i in range(2)]


POSCAR = Poscar(salt()).get_str().encode()
JSON = json.dumps([salt().as_dict(), salt("K", "Br", 6.6).as_dict()]).encode()
XYZ = b'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nNa 0 0 0\nCl 2 2 2\n'
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "delete", "repeat", "insert"]),
        st.floats(0, 1, exclude_max=True),  # where, as a share of the file
        st.one_of(
            st.binary(min_size=1, max_size=6), st.sampled_from([b"nan", b"1e308", b"-", b"0", b"\n"])
        ),
    ),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, changes) -> bytes:
    for how, where, what in changes:
        at = int(where * len(content))
        tail = content[at + len(what) :]
        middle = {"replace": what, "delete": b"", "repeat": content[at : at + 40] * 3, "insert": what}[
            how
        ]
        content = content[:at] + middle + (content[at:] if how == "insert" else tail)
    return content


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), name=st.sampled_from(["a.cif", "a.vasp", "a.json", "a.extxyz"]), changes=MUTATIONS
)
def test_no_mutation_ends_the_run_or_makes_a_crystal_of_impossible_size(
    tmp_path_factory, data, name, changes
):
    folder = tmp_path_factory.mktemp("m")
    original = {"a.cif": GOOD, "a.vasp": POSCAR, "a.json": JSON, "a.extxyz": XYZ}[name]
    (folder / name).write_bytes(mutate(original, changes))
    (folder / "b.cif").write_bytes(GOOD)
    items = read(folder)
    assert isinstance(items[-1], Candidate)
    assert 1 <= len(items) <= 10
    for item in items:
        assert item.origin.source
        assert isinstance(item, Candidate) or (item.detail and item.reason)


def test_same_names_have_distinct_sources(tmp_path):
    path = tmp_path / "twice.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # "Duplicate name"
        archive.writestr("a.cif", cif(salt()))
        archive.writestr("a.cif", cif(salt("K", "Br", 6.6)))
        archive.writestr("inner.zip", b"PK")
    items = read(path)
    assert formulas(items) == ["NaCl", "KBr", Reason.UNREADABLE]
    assert sources(items)[:2] == [f"{path}/a.cif", f"{path}/a.cif (2)"]
    assert "archive inside" in items[2].detail
    both = list(FilesGenerator([str(path), str(path)]).generate(10, seed=0, conditions=ANY))
    assert len({i.origin.source for i in both}) == 6


def test_encrypted_members_say_so(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"a.cif": cif(salt())})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # local and central headers
        content[content.index(signature) + offset] |= 1
    path.write_bytes(bytes(content))
    (item,) = read(path)
    assert "encrypted" in item.detail


def test_cells_too_large_to_parse_in_time_are_refused_at_once(tmp_path):
    lines = [f"Na{i} Na {i / 3000:.6f} {i % 50 / 50:.2f} {i % 7 / 7:.3f}" for i in range(3000)]
    header = cif(salt()).partition("loop_")[0].replace("Fm-3m", "P 1")
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"]
    text = "\n".join([header, "loop_", *(f"_atom_site_{c}" for c in columns), *lines])
    (tmp_path / "large.cif").write_text(text)
    (item,) = read(tmp_path / "large.cif")
    assert item.reason is Reason.TOO_MANY_ATOMS


def test_disorder_is_ordered_on_request(tmp_path):
    spinel = Structure.from_spacegroup(
        "Fd-3m",
        Lattice.cubic(8.2),
        ["Li", {"Mn": 0.75, "Ni": 0.25}, "O"],
        [[0.125] * 3, [0.5] * 3, [0.2625] * 3],
    )
    odd = Structure(Lattice.cubic(4), [{"Mg": 0.45, "Ca": 0.55}, "O"], [[0, 0, 0], [0.5] * 3])
    alloy = Structure(Lattice.cubic(3.8), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    for name, structure in [("a", alloy), ("b", spinel), ("c", odd)]:
        (tmp_path / f"{name}.cif").write_text(cif(structure))
    rejected = read(tmp_path)
    assert formulas(rejected) == [Reason.DISORDERED] * 3
    ordered = FilesGenerator([str(tmp_path)], "order")
    items = list(ordered.generate(10, seed=0, conditions=ANY))
    assert formulas(items)[:2] == ["CuAu", "Li8Mn3NiO16"]
    assert "one order of many" in items[0].origin.source
    assert "lowest Ewald energy" in items[1].origin.source
    assert len(items[1].crystal) == 56
    again = FilesGenerator([str(tmp_path)], "order").generate(10, seed=0, conditions=ANY)
    assert [i.key for i in again] == [i.key for i in items]
    assert isinstance(items[2], Candidate) or "not ordered" in items[2].detail


def test_reading_goes_on_without_listing_again(tmp_path, monkeypatch):
    from heliodor.generators import files

    for i in range(6):
        (tmp_path / f"{i}.cif").write_text(cif(salt(length=5 + i / 10)))
    opened = []
    original = files._open_file
    monkeypatch.setattr(files, "_open_file", lambda path: opened.append(path) or original(path))
    generator = FilesGenerator([str(tmp_path)])
    keys = [i.key for s in (0, 2, 4) for i in generator.generate(2, seed=0, conditions=ANY, start=s)]
    assert len(opened) == 6
    assert keys == [i.key for i in read(tmp_path)]
    back = list(generator.generate(2, seed=0, conditions=ANY, start=1))
    assert [i.key for i in back] == keys[1:3]
