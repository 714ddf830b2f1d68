"""Tables of crystals in and out: whatever `heliodor screen` reads, with the columns that came along."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.convert import to_atoms
from ..core.crystal import Crystal
from ..core.errors import InputError, StorageError
from ..core.files import partial_of
from ..core.records import Candidate, Conditions, Failure
from ..generators.files import FilesGenerator
from ..validators.redundancy import scaled_amd
from .single import progress

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

SUFFIXES = (".parquet", ".extxyz", ".xyz")
_EXAMPLES = 5  # broken rows that are named
_ALL = 2**62


@dataclass(frozen=True, eq=False)
class CrystalTable:
    """Crystals that can be compared, and a row of columns for each.

    Args:
        rows: the columns as they came; `material_id` and `formation_energy_per_atom` (null) are added
            where they are missing, for `heliodor train` and `reference build` ask for them.
        crystals: (n). vectors: (n, 100) scaled AMD.
        n_in: rows read, broken ones among them.
        left_out: broken rows by reason. examples: the first few of them, with why.
    """

    rows: pa.Table
    crystals: list[Crystal]
    vectors: NDArray[np.float64]
    n_in: int
    left_out: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.crystals)

    def names(self) -> list[str]:
        """A different name for each crystal: its material id, or the row where ids repeat or lack."""
        ids = [str(value) for value in self.rows.column("material_id").to_pylist()]
        return ids if len(set(ids)) == len(ids) else [f"row {i}" for i in range(len(ids))]

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.rows.column_names:
            known = ", ".join(self.rows.column_names)
            raise InputError(f"the table has no column '{name}'; there are: {known}")
        values: list[Any] = self.rows.column(name).to_pylist()
        return values

    def take(self, positions: NDArray[np.int64], **columns: Sequence[Any]) -> pa.Table:
        """Those rows; each further column holds one value per crystal and replaces one of its name."""
        import pyarrow as pa

        rows = self.rows
        for name, values in columns.items():
            if name in rows.column_names:
                rows = rows.drop_columns([name])
            rows = rows.append_column(name, pa.array(values))
        return rows.take(pa.array(positions, pa.int64()))


@dataclass
class _Reading:
    """What was read so far."""

    crystals: list[Crystal] = field(default_factory=list)
    vectors: list[NDArray[np.float64]] = field(default_factory=list)
    n_in: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def take(self, item: Candidate | Failure) -> bool:
        """Take in a crystal that can be compared; count and name what is none."""
        self.n_in += 1
        if isinstance(item, Candidate):
            try:
                vector = scaled_amd(item.crystal)
            except ValueError as error:
                self._refuse("not computable", str(error), item.origin.source)
                return False
            self.crystals.append(item.crystal)
            self.vectors.append(vector)
            return True
        self._refuse(item.reason.value, item.detail, item.origin.source if item.origin else None)
        return False

    def _refuse(self, reason: str, detail: str, source: str | None) -> None:
        self.left_out[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{source}: {detail}")


def read_crystals(paths: Sequence[Path], console: Console) -> CrystalTable:
    """Read crystals from Parquet tables, with all columns, and from every other kind of crystal file.

    About 0.6 ms and 5 kB a crystal.

    Raises:
        InputError: a file is missing or not readable, no crystal is in any, or the columns of two tables
            do not go together.
    """
    import pyarrow as pa

    reading = _Reading()
    tables = [_read(path, reading, console) for path in paths]
    if not reading.crystals:
        raise InputError(f"no crystal that can be compared: {'; '.join(reading.examples)}")
    try:
        rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError(
            f"the columns of {', '.join(map(str, paths))} do not go together: {error}"
        ) from error
    return CrystalTable(
        rows,
        reading.crystals,
        np.array(reading.vectors),
        reading.n_in,
        dict(reading.left_out),
        reading.examples,
    )


def _read(path: Path, reading: _Reading, console: Console) -> pa.Table:
    """The usable rows of one path; their crystals go to `reading`."""
    import pyarrow as pa

    items = FilesGenerator([str(path)]).generate(_ALL, seed=0, conditions=Conditions())
    columns = _columns(path)
    usable, built, read = [], [], 0
    total = None if columns is None else columns.num_rows
    with progress(console, f"reading {path.name}", total) as step:
        for item in items:
            if reading.take(item) and isinstance(item, Candidate):
                usable.append(read)
                built.append(item)
            read += 1
            step()
    if columns is None:
        return _rows_of(built)
    if columns.num_rows != read:
        raise InputError(f"{path}: damaged after row {read} of {columns.num_rows}")
    return _completed(columns).take(pa.array(usable, pa.int64()))


def _columns(path: Path) -> pa.Table | None:
    """All columns of a Parquet table; None for every other kind of file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = path.name.lower()
    if not path.is_file() or not name.endswith((".parquet", ".parquet.gz")):
        return None
    try:
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as stream:
            return pq.ParquetFile(stream).read()
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from error


def _completed(rows: pa.Table) -> pa.Table:
    import pyarrow as pa

    if "material_id" not in rows.column_names:
        rows = rows.append_column("material_id", pa.array([str(i) for i in range(rows.num_rows)]))
    if "formation_energy_per_atom" not in rows.column_names:
        unknown = pa.nulls(rows.num_rows, pa.float64())
        rows = rows.append_column("formation_energy_per_atom", unknown)
    return rows


def _rows_of(items: Sequence[Candidate]) -> pa.Table:
    """A structure table of crystals from files that are none."""
    import pyarrow as pa

    crystals = [item.crystal for item in items]
    return pa.table(
        {
            "material_id": pa.array([item.origin.source for item in items], pa.string()),
            "formula": pa.array([c.formula for c in crystals], pa.string()),
            "n_atoms": pa.array([len(c) for c in crystals], pa.int64()),
            "formation_energy_per_atom": pa.nulls(len(crystals), pa.float64()),
            "atomic_numbers": pa.array([c.atomic_numbers for c in crystals], pa.list_(pa.int64())),
            "frac_coords": pa.array([c.frac_coords.ravel() for c in crystals], pa.list_(pa.float64())),
            "lattice": pa.array([c.lattice.ravel() for c in crystals], pa.list_(pa.float64())),
        }
    )


# --- out -----------------------------------------------------------------------------------------


def check_out(out: Path, paths: Sequence[Path]) -> None:
    """Refuse to write over what is read, and kinds of file that cannot be written.

    Raises:
        InputError: says which.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"cannot write '{out.suffix}' files; known: {', '.join(SUFFIXES)}")
    if any(out.resolve() == path.resolve() for path in paths):
        raise InputError(f"--out {out}: is read from; give another name")


def write_rows(rows: pa.Table, crystals: Sequence[Crystal], out: Path) -> None:
    """Write a table as Parquet, or its crystals as extended xyz with the scalar columns beside each.

    Raises:
        StorageError: it cannot be written; what stood there stays.
    """
    import pyarrow.parquet as pq
    from ase.io.extxyz import write_extxyz

    partial = partial_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            pq.write_table(rows, partial, compression="zstd")
        else:
            with partial.open("w", encoding="utf-8") as file:
                for crystal, info in zip(crystals, _scalars(rows), strict=True):
                    atoms = to_atoms(crystal)
                    atoms.info = info
                    write_extxyz(file, [atoms])
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error


def _scalars(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """Text and numbers of each row; what is null is left out."""
    for row in rows.to_pylist():
        yield {k: v for k, v in row.items() if isinstance(v, str | int | float) and v == v}  # noqa: PLR0124
