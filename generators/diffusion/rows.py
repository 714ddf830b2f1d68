"""Rows of a table made into symmetrised primitive Niggli cells with their templates."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.crystal import Crystal
from ...core.errors import InputError
from .lattice import channels_of
from .symmetry import Template, find_template, right_handed

if TYPE_CHECKING:
    import pandas as pd

CLOSEST = 0.5  # angstrom, between atoms; H2 has 0.74
_PRIMITIVE_SYMPREC = 0.01  # angstrom

NEEDED = {
    "material_id": "text",
    "atomic_numbers": "n integers",
    "frac_coords": "3n numbers, row by row",
    "lattice": "9 numbers, the rows a, b, c in angstrom",
}
OCCUPANCIES = ("occupancy", "occupancies")
_NOT_LABELS = {"n_atoms", "spacegroup"}

Row = tuple[object, object, object, object]  # atomic numbers, coordinates, cell, occupancies or None


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet table of crystals; its rows are judged by `pack`.

    Raises:
        InputError: not readable as Parquet, or columns are missing.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read {path} as a Parquet table: {error}",
            hint="give a Parquet file with the columns " + ", ".join(NEEDED),
        ) from error
    check_columns(table, str(path))
    return table


def check_columns(table: pd.DataFrame, what: str) -> None:
    """Refuses a table without the columns of a crystal.

    Raises:
        InputError: naming what is missing.
    """
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise InputError(
            f"{what}: no column {', '.join(missing)}",
            hint="needed: " + "; ".join(f"{name} ({form})" for name, form in NEEDED.items()),
        )


def digest_of(table: pd.DataFrame) -> str:
    """SHA-256 (hex) of the columns that `pack` reads."""
    digest = hashlib.sha256()
    for name in (*NEEDED, *(c for c in OCCUPANCIES if c in table.columns), *label_columns(table)):
        digest.update(name.encode())
        for value in table[name]:
            array = np.asarray(value)
            number = array.dtype.kind in "biuf"
            content = array.astype(np.float64).tobytes() if number else repr(array.tolist()).encode()
            digest.update(content)
            digest.update(b"|")
    return digest.hexdigest()


def label_columns(table: pd.DataFrame) -> list[str]:
    """The numeric columns that are properties, sorted."""
    numeric = table.select_dtypes("number").columns
    return sorted(str(c) for c in numeric if c not in _NOT_LABELS and c not in NEEDED)


class UnusableError(ValueError):
    """A row that is left out; the message is the reason it is counted under."""


class Entry(NamedTuple):
    """One crystal made ready."""

    crystal: Crystal
    template: Template
    channels: NDArray[np.float64]


def reduced(crystal: Crystal) -> Crystal:
    """The primitive cell, Niggli-reduced; what spglib cannot reduce stays."""
    import spglib

    crystal = right_handed(crystal)
    lattice: Any
    frac: Any
    numbers: Any
    lattice, frac, numbers = crystal.lattice, crystal.frac_coords, crystal.atomic_numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its change of error handling
        with suppress(spglib.error.SpglibError):
            cell = (lattice, frac, numbers)
            lattice, frac, numbers = spglib.find_primitive(cell, symprec=_PRIMITIVE_SYMPREC) or cell
        with suppress(spglib.error.SpglibError):
            short = spglib.niggli_reduce(lattice)
            if short is not None:
                frac = frac @ np.linalg.inv(np.rint(short @ np.linalg.inv(lattice)))
                lattice = short
    return Crystal(lattice, frac, np.asarray(numbers, dtype=np.int64))


def _crystal_of(row: Row) -> Crystal:
    """Checks a row of the table.

    Raises:
        UnusableError: with the reason.
    """
    if any(value is None or np.ndim(value) == 0 for value in row[:3]):  # type: ignore[arg-type]
        raise UnusableError("missing value")
    try:
        numbers, frac, lattice = (
            np.asarray(value, dtype=np.float64).ravel() for value in _flat(row[:3])
        )
        occupancy = np.ones(1) if row[3] is None else np.asarray(row[3], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UnusableError("not numbers") from error
    if len(numbers) == 0 or len(frac) != 3 * len(numbers) or len(lattice) != 9:
        raise UnusableError("wrong length")
    if not all(np.isfinite(values).all() for values in (numbers, frac, lattice)):
        raise UnusableError("not finite")
    if (numbers != np.rint(numbers)).any() or (np.abs(occupancy - 1) > 1e-6).any():
        raise UnusableError("partial occupancy")
    if numbers.min() < 1 or numbers.max() > 118:
        raise UnusableError("unknown element")
    crystal = Crystal(lattice.reshape(3, 3), frac.reshape(-1, 3), numbers.astype(np.int64))
    if crystal.volume < 1e-3 * len(crystal):
        raise UnusableError("flat cell")
    return crystal


def _flat(values: Sequence[object]) -> Iterator[object]:
    """Arrays of arrays, as Parquet gives nested lists, made plain."""
    for value in values:
        array = np.asarray(value)
        yield (
            np.concatenate(list(array))
            if array.dtype == object and array.ndim == 1 and len(array)
            else array
        )


def _entry_of(row: Row, max_atoms: int) -> Entry | str:
    """One row made ready, or the reason it is left out."""
    try:
        crystal = reduced(_crystal_of(row))
        if len(crystal) > max_atoms:
            return f"more than {max_atoms} atoms"
        if _closest(crystal) < CLOSEST:
            return "overlapping atoms"
        template, symmetric = find_template(crystal)
        return Entry(symmetric, template, channels_of(symmetric.lattice, len(symmetric)))
    except UnusableError as reason:
        return str(reason)
    except ValueError:  # of channels_of and find_template, for a cell that is all but flat
        return "flat cell"


def _closest(crystal: Crystal) -> float:
    """Shortest distance between atoms of a Niggli cell, images among them, in angstrom."""
    images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    gaps = crystal.frac_coords[:, None] - crystal.frac_coords
    far = np.linalg.norm((gaps[:, :, None] + images) @ crystal.lattice, axis=-1)
    atoms = np.arange(len(crystal))
    far[atoms, atoms, len(images) // 2] = np.inf  # an atom and itself
    return float(far.min())


def _block_of(job: tuple[list[Row], int]) -> list[Entry | str]:
    rows, max_atoms = job
    return [_entry_of(row, max_atoms) for row in rows]


def entries_of(
    rows: list[Row], max_atoms: int, workers: int, progress: Callable[[int, int], None] | None
) -> list[Entry | str]:
    """All rows made ready, in their order."""
    jobs = [(rows[i : i + 200], max_atoms) for i in range(0, len(rows), 200)]
    entries: list[Entry | str] = []

    def collect(blocks: Iterator[list[Entry | str]]) -> None:
        for block in blocks:
            entries.extend(block)
            if progress:
                progress(len(entries), len(rows))

    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            collect(pool.map(_block_of, jobs))
    else:
        collect(map(_block_of, jobs))
    return entries
