"""Crystals of a Parquet table of structures (`tables`), read in batches."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.protocols import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

log = logging.getLogger("heliodor.validators")

REQUIRED = ("material_id", "formation_energy_per_atom", "atomic_numbers", "frac_coords", "lattice")

_ROWS = 1000  # of a Parquet file, read at once


def parquet_phases(path: Path) -> Iterator[Phase | None]:
    """The phases of a table with their crystals, row by row; None where no crystal can be made.

    Raises:
        InputError: a damaged file, or an energy that is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 0
    try:
        with pq.ParquetFile(path) as file:
            names = [n for n in (*REQUIRED, "spacegroup") if n in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                yield from _phases(path, batch, first)
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def structure_schema(path: Path) -> pa.Schema:
    """Schema of a Parquet file that has the columns of structures.

    Raises:
        InputError: not Parquet or damaged, a column is missing or of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    missing = [c for c in REQUIRED if c not in schema.names]
    if missing:
        raise InputError(
            f"{path}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"found: {', '.join(schema.names) or 'none'}"
        )
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    for name in REQUIRED[2:]:
        kind = schema.field(name).type
        if not any(fits(kind) for fits in lists):
            raise InputError(f"{path}: column {name} holds {kind}, expected a list of numbers a row")
    return schema


def _phases(path: Path, batch: pa.RecordBatch, first: int) -> Iterator[Phase | None]:
    """The phases of some rows, the first of them number `first`; None where no crystal can be made."""
    names = batch.schema.names
    columns = [_lists(batch.column(n)) for n in ("atomic_numbers", "frac_coords", "lattice")]
    groups = batch.column("spacegroup").to_pylist() if "spacegroup" in names else [None] * len(batch)
    ids, energies = (batch.column(n).to_pylist() for n in REQUIRED[:2])
    for i, (material_id, energy, group) in enumerate(zip(ids, energies, groups, strict=True)):
        numbers, frac, lattice = (values[ends[i] : ends[i + 1]] for values, ends in columns)
        try:
            crystal = Crystal(lattice.reshape(3, 3), frac.reshape(-1, 3), _whole(numbers))
            value = None if energy is None or math.isnan(energy) else float(energy)
        except (ValueError, TypeError) as error:
            log.debug("%s: row %d: %s", path.name, first + i, error)
            yield None
            continue
        if value is not None and not math.isfinite(value):
            raise InputError(
                f"{path}: row {first + i} ({material_id}): formation_energy_per_atom is {value}"
            )
        yield Phase(str(material_id), crystal.reduced_composition, value, group, crystal)


def _whole(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """Atomic numbers as integers. ValueError: one is missing (a null among numbers reads as NaN)."""
    if not np.isfinite(numbers).all():
        raise ValueError("an atomic number is missing")
    return numbers.astype(np.int64)


def _lists(column: pa.Array) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All values of a column of lists, and where each row's begin and end; a null is empty."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def open_parquet(path: Path, content: bytes) -> pa.Table:
    """A Parquet file's table.

    Raises:
        InputError: not Parquet, truncated or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(pa.BufferReader(content)).read()  # read_table would import pandas
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: no readable Parquet file: {str(error).splitlines()[0]}",
        hint="the file may be truncated; copy or download it again",
    )
