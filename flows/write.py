"""Writing proposed crystals one by one, in the format that the file's name says."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.convert import to_atoms, to_structure
from ..core.errors import InputError, StorageError
from ..core.records import Candidate

Write = Callable[[Candidate], None]


@contextmanager
def writer(out: Path) -> Iterator[Write]:
    """A function that appends one crystal to `out`, in the format that its name says."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        match out.suffix:
            case ".extxyz" | ".xyz":
                with out.open("w", encoding="utf-8") as file:
                    yield lambda c: _append_extxyz(file, c)
            case ".cif":
                with out.open("w", encoding="utf-8") as file:
                    yield lambda c: _append_text(file, _cif(c))
            case ".json":
                with out.open("w", encoding="utf-8") as file:
                    file.write("[")
                    try:
                        yield _json_appender(file)
                    finally:  # what was written before a Ctrl-C stays readable
                        file.write("\n]\n")
            case ".zip":
                with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                    yield lambda c: archive.writestr(_file_name(c), _cif(c))
            case "":
                out.mkdir(exist_ok=True)
                if any(out.iterdir()):
                    raise InputError(f"{out} is not empty: its files would be taken for new crystals")
                yield lambda c: _to_file(out / _file_name(c), _cif(c))
            case other:
                raise InputError(
                    f"cannot write '{other}' files; .extxyz, .json, .cif, .zip, or a folder name"
                )
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error


def _append_text(file: Any, text: str) -> None:
    file.write(text)
    file.flush()  # a crash loses nothing that was proposed


def _append_extxyz(file: Any, candidate: Candidate) -> None:
    from ase.io.extxyz import write_extxyz

    atoms = to_atoms(candidate.crystal)
    atoms.info = {
        "key": candidate.key,
        "source": candidate.origin.source,
        "index": candidate.origin.index,
    }
    write_extxyz(file, [atoms])
    file.flush()


def _json_appender(file: Any) -> Write:
    first = True

    def append(candidate: Candidate) -> None:
        nonlocal first
        structure = to_structure(candidate.crystal)
        structure.properties = {"key": candidate.key, "source": candidate.origin.source}
        _append_text(file, ("\n" if first else ",\n") + json.dumps(structure.as_dict()))
        first = False

    return append


def _cif(candidate: Candidate) -> str:
    from pymatgen.io.cif import CifWriter

    head = f"# {candidate.origin.generator}: {candidate.origin.source}\n"
    return head + str(CifWriter(to_structure(candidate.crystal)))


def _file_name(candidate: Candidate) -> str:
    return f"{candidate.origin.index:06d}_{candidate.crystal.formula}.cif"


def _to_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
