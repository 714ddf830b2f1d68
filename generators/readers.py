"""Formats of crystal files: each reader lists a file's entries cheaply and parses one on demand."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from ..core.convert import ConversionError, from_atoms, from_structure
from ..core.crystal import Crystal
from ..core.records import Reason

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.io.cif import CifParser

Entry = tuple[str, Callable[[], Crystal]]
"""Name of the entry inside its file ("" for the only one), and the function that parses it."""

_COLUMNS = ("lattice", "frac_coords", "atomic_numbers")
_MAX_TEXT = 256 * 2**20  # bytes of a file that is read as a whole; JSON takes ten times as much memory
_MAX_LINE = 2**16  # characters of a line of xyz
_MAX_CIF_ATOMS = 2000  # pymatgen's time is quadratic: 6 s for 2,000, 2 minutes for 10,000
_MAX_IMAGES = 20_000  # sites times symmetry operations of a CIF
_LFS = b"version https://git-lfs.github.com/spec/"


def file_kind(name: str) -> str | None:
    """Format by the file's name (without folders): cif, poscar, xyz, json, parquet, zip, or None."""
    lower = name.lower().removesuffix(".gz")
    if re.match(r"(POSCAR|CONTCAR)", name) and not lower.endswith((".json", ".zip", ".parquet", ".cif")):
        return "poscar"
    suffix = lower.rpartition(".")[2]
    known = {"cif": "cif", "vasp": "poscar", "poscar": "poscar", "xyz": "xyz", "extxyz": "xyz"}
    return {**known, "json": "json", "parquet": "parquet", "zip": "zip"}.get(suffix)


def read_entries(stream: BinaryIO, kind: str) -> Iterator[Entry]:
    """Entries of a file in their order.

    Raises:
        ConversionError: the file as a whole is no such file; it may come after some entries.
    """
    head = stream.read(len(_LFS))
    if not head:
        raise ConversionError(Reason.UNREADABLE, "the file is empty")
    if head == _LFS:
        raise ConversionError(
            Reason.UNREADABLE, "a Git LFS pointer, not the file itself; fetch it with git lfs pull"
        )
    if kind not in _READERS:
        raise ConversionError(Reason.UNREADABLE, f"no {kind} archive: damaged, or of another type")
    stream.seek(0)
    yield from _READERS[kind](stream)


def _text(stream: BinaryIO) -> str:
    data = stream.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise ConversionError(
            Reason.UNREADABLE,
            f"more than {_MAX_TEXT // 2**20} MiB in one file: split it, or use extended xyz or Parquet",
        )
    if b"\0" in data:
        raise ConversionError(Reason.UNREADABLE, "binary data where text was expected")
    return data.decode("utf-8", errors="replace")


def _numbered(parsers: list[Callable[[], Crystal]]) -> Iterator[Entry]:
    for i, parse in enumerate(parsers):
        yield (str(i) if len(parsers) > 1 else ""), parse


# --- CIF -----------------------------------------------------------------------------------------


def _read_cif(stream: BinaryIO) -> Iterator[Entry]:
    blocks = [
        b for b in _cif_blocks(_text(stream)) if re.search(r"^\s*_(cell_|atom_site_)", b, re.MULTILINE)
    ]
    if not blocks:
        raise ConversionError(Reason.UNREADABLE, "no data block with a cell or atoms")
    yield from _numbered([partial(_parse_cif, block) for block in blocks])


def _cif_blocks(text: str) -> Iterator[str]:
    """Blocks one by one; pymatgen would keep one of several with the same name."""
    block: list[str] = []
    in_text_field = False
    for line in text.splitlines():
        if line.startswith(";"):
            in_text_field = not in_text_field
        if not in_text_field and line.lower().startswith("data_"):
            yield "\n".join(block)
            block = []
        block.append(line)
    yield "\n".join(block)


def _parse_cif(block: str) -> Crystal:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parser = CifParser.from_str(block)
            _refuse_large(parser)
            structures = parser.parse_structures(primitive=False, on_error="ignore")
        except ValueError as error:  # "Invalid CIF file with no structures!": the warnings say why
            said = [str(w.message).split("\n")[0] for w in caught]
            why = [text for text in said if not text.startswith("No _symmetry")]  # that is no fault
            raise ConversionError(
                Reason.UNREADABLE, why[-1] if why else f"no atoms in the block ({error})"
            ) from error
    return from_structure(structures[0])


def _refuse_large(parser: CifParser) -> None:
    """Refuse what would take minutes, by the number of distinct positions in a grid of a hundredth.

    Raises:
        ConversionError: TOO_MANY_ATOMS.
    """
    blocks: dict[str, Any] = parser._cif.data  # type: ignore[attr-defined]  # noqa: SLF001
    for data in blocks.values():
        columns = [[_number(x) for x in data.data.get(f"_atom_site_fract_{axis}", ())] for axis in "xyz"]
        n = len(columns[0])
        operations = parser.get_symops(data)
        if n * len(operations) <= _MAX_IMAGES and len(columns[0]) == len(columns[1]) == len(columns[2]):
            sites = np.array(columns).T.reshape(-1, 3)
            images = [sites @ op.rotation_matrix.T + op.translation_vector for op in operations]
            # Shifted, so that 0, 1/8, 1/6, 1/4 and 1/3 lie well inside of their boxes.
            boxes = np.floor(np.concatenate(images) % 1 * 100 + 0.4) % 100
            n = len(np.unique(boxes, axis=0))
        if n > _MAX_CIF_ATOMS:
            raise ConversionError(
                Reason.TOO_MANY_ATOMS, f"{n} atoms or more; at most {_MAX_CIF_ATOMS} in a CIF"
            )


def _number(text: str) -> float:
    """A CIF's number without its uncertainty; NaN where it is none."""
    try:
        return float(text.split("(", maxsplit=1)[0])
    except ValueError:
        return math.nan


# --- VASP, extended xyz --------------------------------------------------------------------------


def _read_poscar(stream: BinaryIO) -> Iterator[Entry]:
    yield "", partial(_parse_poscar, _text(stream))


def _parse_poscar(text: str) -> Crystal:
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without a line of symbols pymatgen makes elements up.
        warnings.filterwarnings("error", message="Elements in POSCAR")
        return from_structure(Poscar.from_str(text, read_velocities=False).structure)


def _read_xyz(stream: BinaryIO) -> Iterator[Entry]:
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
    frame = 0
    while first := _line(text):
        if not first.strip():
            continue
        if not re.fullmatch(r"\s*\d{1,6}\s*", first):
            found = first[:40].strip()
            raise ConversionError(
                Reason.UNREADABLE, f"frame {frame}: expected a number of atoms, got {found!r}"
            )
        rest = [_line(text) for _ in range(int(first) + 1)]
        yield str(frame), partial(_parse_xyz, [first, *filter(None, rest)])
        frame += 1


def _line(text: io.TextIOWrapper) -> str:
    line = text.readline(_MAX_LINE)
    if len(line) == _MAX_LINE:
        raise ConversionError(Reason.UNREADABLE, f"a line of more than {_MAX_LINE} characters")
    return line


def _parse_xyz(frame: list[str]) -> Crystal:
    from ase.io import read

    if len(frame) < int(frame[0]) + 2:
        raise ConversionError(Reason.UNREADABLE, "the last frame is cut off")
    return from_atoms(cast("Atoms", read(io.StringIO("".join(frame)), format="extxyz")))


# --- JSON, Parquet -------------------------------------------------------------------------------


def _read_json(stream: BinaryIO) -> Iterator[Entry]:
    content = json.loads(_text(stream))
    yield from _numbered(
        [partial(_parse_json, e) for e in (content if isinstance(content, list) else [content])]
    )


def _parse_json(document: Any) -> Crystal:
    from pymatgen.core import Structure

    if isinstance(document, dict) and isinstance(document.get("structure"), dict):
        document = document["structure"]
    if not (isinstance(document, dict) and "sites" in document and "lattice" in document):
        raise ConversionError(Reason.UNREADABLE, "no pymatgen Structure or ComputedStructureEntry")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_structure(Structure.from_dict(document))


def _read_parquet(stream: BinaryIO) -> Iterator[Entry]:
    from pyarrow import parquet

    table = parquet.ParquetFile(stream)
    names = table.schema_arrow.names
    if missing := [c for c in _COLUMNS if c not in names]:
        raise ConversionError(Reason.UNREADABLE, f"the table has no column {', '.join(missing)}")
    wanted = [*_COLUMNS, *(["material_id"] if "material_id" in names else [])]
    row = 0
    for batch in table.iter_batches(batch_size=1024, columns=wanted):
        for values in batch.to_pylist():
            yield str(values.get("material_id") or row), partial(_parse_row, values)
            row += 1


def _parse_row(values: dict[str, Any]) -> Crystal:
    lattice, frac_coords, numbers = (np.array(values[c]) for c in _COLUMNS)
    return Crystal(lattice.reshape(3, 3), frac_coords.reshape(-1, 3), numbers)


_READERS: dict[str, Callable[[BinaryIO], Iterator[Entry]]] = {
    "cif": _read_cif,
    "poscar": _read_poscar,
    "xyz": _read_xyz,
    "json": _read_json,
    "parquet": _read_parquet,
}
