"""Pseudopotentials: PBE by content, one family per chemical system, sets that are there or not."""

from __future__ import annotations

import gzip
import json
from importlib import metadata
from pathlib import Path

import pytest

from heliodor.core.errors import InputError, MissingError
from heliodor.engines import pseudopotential_sets
from heliodor.engines.pseudopotential_sets import DEBIAN, open_set
from heliodor.engines.pseudopotentials import read_header

TABLE = json.loads(
    Path(pseudopotential_sets.__file__).with_name("data").joinpath("cutoffs.json").read_text()
)
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="no abinit-data (Debian: apt-get install abinit-data)"
)


def psp8(folder: Path, name: str, z: int, pspxc: int, pspcod: int = 8) -> Path:
    path = folder / name
    path.write_text(
        f"Header\n {z}.0000  4.0000  171101  zatom,zion,pspd\n"
        f" {pspcod} {pspxc} 1 4 600 0  pspcod,pspxc,lmax,lloc,mmax,r2well\n"
    )
    return path


def paw_xml(folder: Path, name: str, symbol: str, functional: str = 'type="GGA" name="PBE"') -> Path:
    path = folder / name
    path.write_text(
        '<?xml  version="1.0"?>\n<paw_dataset version="0.7">\n'
        f'<atom symbol="{symbol}" Z="14.00" core="10.00" valence="4.00"/>\n'
        f"<xc_functional {functional}/>\n"
    )
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))


def test_functional_is_read_from_the_content(tmp_path):
    assert read_header(psp8(tmp_path, "Si.LDA.psp8", 14, 11)).functional == "PBE"
    assert read_header(psp8(tmp_path, "Si.PBE.psp8", 14, -1012)).functional == "LDA, pspxc -1012"
    assert read_header(psp8(tmp_path, "Si.sol", 14, -116133)).functional == "PBEsol, pspxc -116133"
    header = read_header(psp8(tmp_path, "Si.libxc", 14, -101130, pspcod=7))
    assert (header.element, header.family, header.functional) == ("Si", "PAW", "PBE")
    header = read_header(paw_xml(tmp_path, "Si.xml", "Si"))
    assert (header.element, header.family, header.functional, header.valence) == ("Si", "PAW", "PBE", 4)
    lda = read_header(paw_xml(tmp_path, "Si.PBE.xml", " Si", 'type="LDA" name="PW"'))
    assert (lda.element, lda.functional) == ("Si", "LDA PW")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a readme\n", "not a pseudopotential"),
        ("", "not a pseudopotential"),
        ("x\n 14.0 4.0 1\n nonsense\n", "not a pseudopotential"),
        ("x\n 0.5 4.0 1\n 8 11 0\n", "no element"),
        ("x\n 14.0 4.0 1\n 9 11 0\n", "pspcod 9"),
        ('<paw_setup>\n<atom symbol="Xx"/>\n<xc_functional type="GGA" name="PBE"/>', "no element"),
        ("<paw_setup>\n", "without its functional"),
    ],
)
def test_what_is_no_pseudopotential(tmp_path, text, says):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_header(tmp_path / "file")


def test_a_folder_of_ones_own(tmp_path):
    psp8(tmp_path, "Si.psp8", 14, 11)
    (tmp_path / "README.md").write_text("what they are\n")
    [silicon] = open_set(str(tmp_path)).choose(["Si"]).values()
    assert (silicon.name, silicon.measured, silicon.cutoff) == ("Si.psp8", False, 50)


def test_an_lda_file_is_refused_with_a_sentence(tmp_path):
    psp8(tmp_path, "Si.PBE.psp8", 14, 7)
    psp8(tmp_path, "O.psp8", 8, 11)
    own = open_set(str(tmp_path))
    assert own.unsupported(["Si", "O"]) == {"Si": f"Si.PBE.psp8 in {tmp_path} is LDA, pspxc 7, not PBE"}
    with pytest.raises(InputError, match=r"Si: Si\.PBE\.psp8 .* is LDA"):
        own.choose(["O", "Si"])
    psp8(tmp_path, "Si.good.psp8", 14, 11)
    assert open_set(str(tmp_path)).choose(["Si"])["Si"].name == "Si.good.psp8"


def test_families_are_not_mixed(tmp_path):
    psp8(tmp_path, "Mg.psp8", 12, 11)
    psp8(tmp_path, "O.psp8", 8, 11)
    paw_xml(tmp_path, "O.xml", "O")
    paw_xml(tmp_path, "Na.xml", "Na")
    own = open_set(str(tmp_path))
    assert {p.family for p in own.choose(["Mg", "O"]).values()} == {"norm-conserving"}
    assert {p.family for p in own.choose(["Na", "O"]).values()} == {"PAW"}
    assert own.choose(["O"])["O"].family == "norm-conserving"
    [(element, why)] = own.unsupported(["Na", "Mg", "O"]).items()
    assert element == "Na"
    assert "ABINIT does not mix families" in why
    with pytest.raises(InputError, match="does not mix"):
        own.choose(["Na", "Mg", "O"])
    assert own.unsupported(["Po", "Mg"]) == {"Po": f"no PBE pseudopotential in {tmp_path}"}


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match=r"dft\.pseudopotentials: no folder /nowhere"):
        open_set("/nowhere")
    with pytest.raises(InputError, match="holds no pseudopotential"):
        open_set(str(tmp_path))
    psp8(tmp_path, "a.psp8", 14, 11)
    psp8(tmp_path, "b.psp8", 14, 11)
    with pytest.raises(InputError, match=r"two norm-conserving files for Si .*a\.psp8 and b\.psp8"):
        open_set(str(tmp_path))


def test_nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudopotential_sets, "_gpaw_folder", lambda: None)
    monkeypatch.setattr(pseudopotential_sets, "DEBIAN", tmp_path / "none")
    with pytest.raises(MissingError, match="apt-get install abinit-data"):
        open_set("auto")
    with pytest.raises(MissingError, match=r"heliodor\[gpaw-data\]"):
        open_set("gpaw-data")


def test_gpaw_data_is_unpacked_once(tmp_path, monkeypatch):
    packed = tmp_path / "setups"
    packed.mkdir()
    for name, source in (
        ("O.PBE", paw_xml(tmp_path, "O", "O")),
        ("Mg.2.PBE", paw_xml(tmp_path, "Mg", "Mg")),
        ("O.LDA", paw_xml(tmp_path, "OL", "O", 'type="LDA" name="PW"')),
    ):
        (packed / f"{name}.gz").write_bytes(gzip.compress(source.read_bytes()))
    version = metadata.version
    monkeypatch.setattr(pseudopotential_sets, "_gpaw_folder", lambda: packed)
    monkeypatch.setattr(metadata, "version", lambda p: "1.2.1" if p == "gpaw-data" else version(p))
    found = open_set("auto")
    assert found.name == "gpaw-data-1.2.1"
    assert list(found.choose(["O"])) == ["O"]
    assert list(found.unsupported(["Mg", "O"])) == ["Mg"]
    folder = tmp_path / "cache" / "pseudopotentials" / "gpaw-data-1.2.1"
    assert [path.name for path in folder.iterdir()] == ["O.PBE.xml"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half made
    (packed / "O.PBE.gz").unlink()
    assert open_set("gpaw-data").choose(["O"])


@needs_debian
def test_abinit_data_holds_what_the_table_says():
    found = open_set("abinit-data")
    assert found.refused == {}  # each file that we chose is PBE
    listed = sum(len(members) for members in found.found.values())
    assert listed == len(TABLE["abinit-data"])
    assert len({e for members in found.found.values() for e in members}) >= 25
    magnesia = found.choose(["Mg", "O"])
    assert [p.measured for p in magnesia.values()] == [True, True]
    assert {p.family for p in found.choose(["Na", "Cl"]).values()} == {"PAW"}
    assert "Po" in found.unsupported(["Po"])


@needs_debian
def test_a_changed_file_is_checked_again_and_loses_its_cutoff(tmp_path, monkeypatch):
    for name in TABLE["abinit-data"][:12]:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((DEBIAN / name).read_bytes())
    monkeypatch.setattr(pseudopotential_sets, "DEBIAN", tmp_path)
    monkeypatch.setattr(pseudopotential_sets, "_gpaw_folder", lambda: None)
    before = open_set("auto").choose(["Si"])["Si"]
    assert before.measured
    other = tmp_path / "other"
    other.mkdir()
    changed = other / "Si.psp8"
    changed.write_bytes(before.path.read_bytes() + b"\n")
    after = open_set(str(other)).choose(["Si"])["Si"]
    assert not after.measured
    assert after.cutoff > before.cutoff
    assert after.sha256 != before.sha256


def test_cutoffs_come_from_tests_that_converged():
    for test in TABLE["cutoffs"].values():
        assert abs(test["difference_meV"]) < 5
        assert abs(test["total_meV"]) < 50
        assert 8 <= test["cutoff"] <= 48
