"""Crystals and their energies as the field's files: CIF, extxyz, pymatgen entries, tables."""

from __future__ import annotations

import json
import logging
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.convert import to_atoms, to_structure
from ..core.crystal import Crystal
from ..core.errors import InputError, StorageError
from .cif import check_symprec, cif_text, symmetry

__all__ = ["ExportRow", "symmetry", "write_cif", "write_entries_json", "write_extxyz", "write_table"]

logger = logging.getLogger("heliodor.report")

_NUMBERS = (
    "formation_energy_per_atom",
    "energy_above_hull",
    "decomposition_energy",
)  # eV/atom, each against `reference`
_ORIGIN = ("model", "corrections", "reference")
_COLUMNS = ("key", "slot", "formula", "n_atoms", "volume", "energy", *_NUMBERS, *_ORIGIN)
_CELL = ("lattice", "frac_coords", "atomic_numbers")


@dataclass(frozen=True)
class ExportRow:
    """One crystal to export. None where there is no such number.

    Args:
        key: content key of the candidate. slot: its position in the campaign.
        crystal: the relaxed crystal, the proposed one where nothing was relaxed.
        energy: eV for the cell, as the potential gives it: no correction added.
        formation_energy_per_atom, energy_above_hull: eV/atom. decomposition_energy: eV/atom, signed.
        model: potential or DFT level; corrections: how its energy was made comparable; reference: name
            and digest of the snapshot.
        data: further columns: numbers, strings, booleans, None, or lists and mappings of them.

    Raises:
        InputError: a number that is not finite or without its origin, or a name in `data` that is taken.
    """

    key: str
    slot: int
    formula: str
    crystal: Crystal
    energy: float | None
    formation_energy_per_atom: float | None
    energy_above_hull: float | None
    decomposition_energy: float | None
    model: str
    corrections: str
    reference: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("energy", *_NUMBERS):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"slot {self.slot} ({self.formula}): {name} is {value}")
        against_hull = any(getattr(self, name) is not None for name in _NUMBERS)
        if (self.energy is not None or against_hull) and not self.model:
            raise InputError(
                f"slot {self.slot} ({self.formula}): an energy without the name of its model"
            )
        if against_hull and not self.reference:
            raise InputError(f"slot {self.slot} ({self.formula}): a hull energy without its reference")
        if taken := sorted(set(self.data) & {*_COLUMNS, *_CELL}):
            raise InputError(f"slot {self.slot} ({self.formula}): data has its own {', '.join(taken)}")


def write_cif(rows: Sequence[ExportRow], folder: Path, symprec: float = 0.01) -> list[Path]:
    """One CIF per crystal, `LiFePO4_<12 digits of its key>.cif`: the conventional cell, symmetrised.

    The file says within which tolerance (angstrom) its space group holds, and where its energies come
    from. A crystal whose symmetry could not be found, or that does not survive being symmetrised, is
    written as it is in P1, and its file says that this is no finding. Returns the paths, one per row;
    no rows leave an empty folder.

    Raises:
        InputError: `symprec` is not positive. StorageError: the folder cannot be written.
    """
    check_symprec(symprec)
    with _storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in rows:
        name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{row.formula}_{row.key[:12]}").lstrip(".")
        text = cif_text(row.crystal, symprec, _comments(row))
        with _atomic(folder / f"{name}.cif") as partial:
            partial.write_text(text, encoding="ascii")
        paths.append(folder / f"{name}.cif")
    return paths


def write_extxyz(rows: Sequence[ExportRow], path: Path) -> int:
    """All crystals in one extended XYZ file, which `ase.io.read(path, ":")` gives back.

    The energy (eV per cell) becomes the calculator's; everything else is in `atoms.info`. None and
    empty strings are left out. No rows make an empty file. Returns how many were written.

    Raises:
        InputError: a column's name means something else in extxyz. StorageError: cannot be written.
    """
    import ase.io

    images = [_atoms(row) for row in rows]
    with _atomic(path) as partial:
        if images:
            ase.io.write(partial, images, format="extxyz")
        else:
            partial.write_text("")
    return len(images)


def write_entries_json(rows: Sequence[ExportRow], path: Path) -> int:
    """ComputedStructureEntries of pymatgen: `json.load(file, cls=monty.json.MontyDecoder)` gives a list.

    `energy` is the potential's, in eV for the cell, and `correction` is 0: what was or was not added to
    make it comparable is in `parameters["corrections"]`, the result in `data`. Rows without an energy
    cannot be entries: they are left out, and a warning counts them. Returns how many were written.

    Raises:
        InputError: there are rows, and none has an energy. StorageError: cannot be written.
    """
    from monty.json import MontyEncoder

    entries = [_entry(row, row.energy) for row in rows if row.energy is not None]
    if rows and not entries:
        raise InputError(
            f"none of the {len(rows)} crystals has an energy, and an entry needs one",
            hint="export cif, extxyz or a table; or run the campaign with a relaxer",
        )
    if len(entries) < len(rows):
        logger.warning("%d of %d crystals have no energy: left out", len(rows) - len(entries), len(rows))
    with _atomic(path) as partial:
        partial.write_text(json.dumps(entries, cls=MontyEncoder), encoding="utf-8")
    return len(entries)


def write_table(rows: Sequence[ExportRow], path: Path) -> int:
    """One line per crystal, as CSV or Parquet by the path's suffix. Returns how many.

    Lists and mappings in `data` become JSON text. Parquet has the crystals too: `lattice` (9, rows are
    a, b, c in angstrom), `frac_coords` (3n, row-major), `atomic_numbers` (n). No rows make a table
    with the columns only. Reading the CSV with pandas, give keep_default_na=False for formula and key:
    "NaN" is sodium nitride there, and else a missing value.

    Raises:
        InputError: another suffix, or a column whose values are of different types (Parquet).
        StorageError: cannot be written.
    """
    import pandas as pd

    suffix = path.suffix.lower()
    if suffix not in {".csv", ".parquet"}:
        raise InputError(f"{path}: tables are .csv or .parquet, got {path.suffix or 'no suffix'!r}")
    parquet = suffix == ".parquet"
    further = list(dict.fromkeys(name for row in rows for name in row.data))
    columns = [*_COLUMNS, *further, *(_CELL if parquet else ())]
    table = pd.DataFrame([_flat(row, cell=parquet) for row in rows], columns=columns)
    with _atomic(path) as partial:
        if parquet:
            _parquet(table, partial)
        else:
            table.to_csv(partial, index=False)
    return len(rows)


def _comments(row: ExportRow) -> list[str]:
    """Energies with where they come from, for the head of a CIF."""
    head = {"key": row.key, "slot": row.slot}
    if row.energy is not None:
        head["energy_per_atom"] = f"{row.energy / len(row.crystal)!r} eV/atom (as the model gives it)"
    head |= {
        name: f"{getattr(row, name)!r} eV/atom" for name in _NUMBERS if getattr(row, name) is not None
    }
    head |= {name: getattr(row, name) for name in _ORIGIN if getattr(row, name)}
    head |= {name: json.dumps(value, default=str) for name, value in row.data.items()}
    return [f"{name}: {value}" for name, value in head.items()]


def _atoms(row: ExportRow) -> Any:
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    reserved = {*all_properties, "Lattice", "Properties", "pbc", "virial", "uid"}
    if taken := sorted(set(row.data) & reserved):
        raise InputError(f"slot {row.slot}: {', '.join(taken)} cannot be a column of an extxyz file")
    atoms = to_atoms(row.crystal)
    if row.energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=row.energy)
    names = ("key", "slot", "formula", *_NUMBERS, *_ORIGIN)
    info = {**{name: getattr(row, name) for name in names}, **row.data}
    atoms.info = {n: _info(v) for n, v in info.items() if v is not None and v != ""}
    return atoms


def _info(value: Any) -> Any:
    """The value as ASE reads it back. Written plainly, the formula NaN would come back as a number."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    if isinstance(value, str):
        if value.isascii() and "\n" not in value and not value.startswith("_JSON"):
            # With a neighbour: after an "=" at its end ASE would read the next word into it.
            found = key_val_str_to_dict(key_val_dict_to_str({"x": value, "next": "y"}))
            if isinstance(found.get("x"), str) and found == {"x": value, "next": "y"}:
                return value
    elif not isinstance(value, (list, tuple, Mapping)):
        return value
    return "_JSON " + json.dumps(value).replace("\\", "\\\\")  # ASE's writer does not escape them


def _entry(row: ExportRow, energy: float) -> dict[str, Any]:
    """As `ComputedStructureEntry.as_dict` has it; importing the class takes seconds."""
    structure = to_structure(row.crystal)
    names = ("slot", "formula", *_NUMBERS, "reference")
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": energy,
        "composition": structure.composition.as_dict(),
        "entry_id": row.key,
        "correction": 0.0,
        "energy_adjustments": [],
        "parameters": {"model": row.model, "corrections": row.corrections},
        "data": {**{name: getattr(row, name) for name in names}, **row.data},
        "structure": structure.as_dict(),
    }


def _flat(row: ExportRow, *, cell: bool) -> dict[str, Any]:
    crystal = row.crystal
    own: dict[str, Any] = {"n_atoms": len(crystal), "volume": crystal.volume}
    own |= {name: getattr(row, name) for name in _COLUMNS if name not in own}
    for name, value in row.data.items():
        nested = isinstance(value, (list, tuple, Mapping))
        own[name] = json.dumps(value) if nested else value
    if cell:
        own |= {name: getattr(crystal, name).ravel() for name in _CELL}
    return own


def _parquet(table: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(("volume", "energy", *_NUMBERS), pa.float64())
    types |= dict.fromkeys(("key", "formula", *_ORIGIN), pa.string())
    types |= dict.fromkeys(("slot", "n_atoms"), pa.int64())
    types |= dict.fromkeys(("lattice", "frac_coords"), pa.list_(pa.float64()))
    types["atomic_numbers"] = pa.list_(pa.int64())
    columns = {}
    for name in table:
        try:
            columns[name] = pa.array(table[name], type=types.get(name), from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"column {name!r} holds values of different types: {error}") from error
    pq.write_table(pa.table(columns), path, compression="zstd")


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when all went well."""
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    with _storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # full, read-only, no permission, a folder where a file should be
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
