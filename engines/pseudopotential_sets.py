"""Where pseudopotentials come from: PyPI's gpaw-data, Debian's abinit-data, or a folder of the user's.

`data/cutoffs.json` holds our choice for each element of abinit-data, and cutoffs by file digest. A
cutoff was measured with ABINIT 9.6.2 on a cubic crystal of the element (listed there), PBE, 2x2x2
k-points, ecutsm 0.5 hartree, PAW double grid at twice the cutoff: the smallest one in a series up to 48
hartree (PAW: 36) from which on the energy difference to the crystal stretched by 12 % stays within 5
meV/atom, and the total energy, whose error cancels at a common cutoff, within 50 meV/atom of those at
the end of the series. A file of another digest, or one without a test, gets a careful default.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.errors import InputError, MissingError, StorageError
from ..core.files import partial_of
from ..core.settings import load_settings
from .pseudopotentials import Family, Header, Pseudopotential, PseudopotentialSet, read_header

DEBIAN = Path("/usr/share/abinit/psp")
"""Where Debian's package abinit-data puts its files."""

_DEFAULT_CUTOFF: dict[Family, float] = {"norm-conserving": 50.0, "PAW": 30.0}  # hartree
_GPAW_NAME = re.compile(r"([A-Z][a-z]?)\.PBE\.gz")  # not "Mg.2.PBE.gz": those are for special uses
_Found = dict[Family, dict[str, Pseudopotential]]


def open_set(name: str) -> PseudopotentialSet:
    """The set that a campaign file names.

    Args:
        name: "auto" (gpaw-data where it is installed, else abinit-data), "gpaw-data", "abinit-data", or
            a folder.

    Raises:
        MissingError: the set is not installed. InputError: the folder is not there, holds no
            pseudopotential, or two for one element.
    """
    if name == "auto":
        name = "gpaw-data" if _gpaw_folder() is not None else "abinit-data"
    if name == "gpaw-data":
        return _gpaw_data()
    if name == "abinit-data":
        return _abinit_data(DEBIAN)
    return _folder(Path(name).expanduser())


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    path = Path(__file__).with_name("data") / "cutoffs.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@lru_cache(maxsize=4)
def _abinit_data(folder: Path) -> PseudopotentialSet:
    if not folder.is_dir():
        raise MissingError(
            "no pseudopotentials are installed",
            hint="Debian: apt-get install abinit-data; elsewhere: pip install 'heliodor[gpaw-data]'",
        )
    found: _Found = {"norm-conserving": {}, "PAW": {}}
    refused: dict[str, str] = {}
    for file in _table()["abinit-data"]:
        path = folder / file
        if path.is_file():
            _take(path, file, "abinit-data", found, refused)
    return PseudopotentialSet("abinit-data", found, refused)


def _folder(folder: Path) -> PseudopotentialSet:
    if not folder.is_dir():
        raise InputError(
            f"dft.pseudopotentials: no folder {folder}", hint="auto, gpaw-data, abinit-data, or a folder"
        )
    found: _Found = {"norm-conserving": {}, "PAW": {}}
    refused: dict[str, str] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        _take(path, path.name, str(folder), found, refused)
    if not (refused or any(found.values())):
        raise InputError(f"dft.pseudopotentials: {folder} holds no pseudopotential that ABINIT reads")
    return PseudopotentialSet(str(folder), found, refused)


def _take(path: Path, name: str, where: str, found: _Found, refused: dict[str, str]) -> None:
    """Add a file to `found` by what its content says, or to `refused`; pass over what is none."""
    try:
        header = read_header(path)
    except ValueError:
        return
    if header.functional != "PBE":
        refused[header.element] = f"{name} in {where} is {header.functional}, not PBE"
        return
    members = found[header.family]
    if header.element in members:
        raise InputError(
            f"dft.pseudopotentials: two {header.family} files for {header.element} in {where}:"
            f" {members[header.element].name} and {name}",
            hint="leave one in the folder",
        )
    members[header.element] = _pseudopotential(path, name, header)


def _pseudopotential(path: Path, name: str, header: Header) -> Pseudopotential:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    test = _table()["cutoffs"].get(digest)
    return Pseudopotential(
        element=header.element,
        family=header.family,
        name=name,
        path=path.resolve(),
        sha256=digest,
        valence=header.valence,
        cutoff=_DEFAULT_CUTOFF[header.family] if test is None else float(test["cutoff"]),
        measured=test is not None,
    )


def _gpaw_folder() -> Path | None:
    """Where gpaw-data keeps its setups. The package itself is never imported."""
    spec = find_spec("gpaw_data")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).with_name("setups")
    return folder if folder.is_dir() else None


def _gpaw_data() -> PseudopotentialSet:
    packed = _gpaw_folder()
    if packed is None:
        raise MissingError(
            "the PAW datasets of gpaw-data are not installed", hint="pip install 'heliodor[gpaw-data]'"
        )
    version = metadata.version("gpaw-data")
    return _unpacked(packed, load_settings().cache / "pseudopotentials" / f"gpaw-data-{version}")


@lru_cache(maxsize=4)
def _unpacked(packed: Path, folder: Path) -> PseudopotentialSet:
    if not folder.is_dir():
        _unpack(packed, folder)
    found: _Found = {"norm-conserving": {}, "PAW": {}}
    refused: dict[str, str] = {}
    for path in sorted(folder.glob("*.xml")):
        _take(path, path.name, folder.name, found, refused)
    return PseudopotentialSet(folder.name, found, refused)


def _unpack(packed: Path, folder: Path) -> None:
    """Unzip the PBE datasets, all or none."""
    partial = partial_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in packed.iterdir():
            if match := _GPAW_NAME.fullmatch(path.name):
                text = gzip.decompress(path.read_bytes())
                (partial / f"{match[1]}.PBE.xml").write_bytes(text)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not folder.is_dir():  # else another process was first
            raise StorageError(f"cannot unpack gpaw-data into {folder}: {error}") from error
