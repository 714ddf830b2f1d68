"""Read and write tables of structures with energies: Parquet, or JSON of ComputedStructureEntries.

Columns of the Parquet form: `material_id`; `atomic_numbers` (n), `frac_coords` (3n, row-major) and
`lattice` (9; rows are the vectors a, b, c, in angstrom); `formation_energy_per_atom` (eV/atom on the
Materials Project's GGA/GGA+U scheme; null where unknown); `spacegroup` (number) if known. Others are
ignored.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.protocols import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

log = logging.getLogger("heliodor.validators")

REQUIRED = ("material_id", "formation_energy_per_atom", "atomic_numbers", "frac_coords", "lattice")

_LFS_POINTER = b"version https://git-lfs"
_ROWS = 1000  # of a Parquet file, read at once


@dataclass(frozen=True)
class StructureTable:
    """What a file holds.

    Args:
        phases: each with its crystal; without a formation energy where the file has none.
        digest: SHA-256 (hex) of the file.
        energies: where the formation energies come from, in words.
        skipped: rows left out, by reason.
        metadata: key-value metadata of a Parquet file.
    """

    phases: tuple[Phase, ...]
    digest: str
    energies: str
    skipped: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def coverage(self) -> str:
        """One line for a person: how many phases, what for, what was left out."""
        without = sum(p.formation_energy_per_atom is None for p in self.phases)
        return coverage(len(self.phases), without, self.energies, self.skipped)


def coverage(n: int, without: int, energies: str, skipped: Mapping[str, int]) -> str:
    """One line for a person.

    Args:
        n: phases. without: those among them that have no energy. energies, skipped: see
            `StructureTable`.
    """
    parts = [f"{n:,} phases; formation energies: {energies}"]
    if without:
        parts.append(f"{without:,} without an energy (known for novelty, not on the hull)")
    parts += [f"{n:,} rows left out: {reason}" for reason, n in skipped.items()]
    return "; ".join(parts)


class StructureFile:
    """A table of structures (.parquet, .json, .json.gz), read piece by piece.

    Args:
        path: the file.

    Raises:
        InputError: no such file, a Git-LFS pointer, a damaged or foreign file, missing columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = _digest(path)
        self.energies = "as given in the file"
        self.skipped: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self._is_parquet = path.name.lower().endswith(".parquet")
        if self._is_parquet:
            schema = _schema(path)
            self.metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        elif not path.name.lower().endswith((".json", ".json.gz")):
            raise InputError(f"{path}: unknown kind of table; allowed: .parquet, .json, .json.gz")

    def phases(self) -> Iterator[Phase]:
        """Phases with their crystals; `skipped` and `energies` are known when they have ended.

        Parquet is read in batches; JSON is parsed as a whole.

        Raises:
            InputError: no usable structure, a damaged file, or energies that are not finite or cannot
                be placed on the Materials Project's scheme.
        """
        n = 0
        for n, phase in enumerate(self._parquet() if self._is_parquet else self._json(), 1):  # noqa: B007
            yield phase
        if n == 0:
            found = coverage(0, 0, self.energies, self.skipped)
            raise InputError(f"{self.path}: holds no usable structure ({found})")

    def _json(self) -> Sequence[Phase]:
        from .entries import phases_from_entries

        content = _load_json(self.path, self.path.read_bytes())
        phases, self.energies, skipped = phases_from_entries(self.path, content)
        self.skipped = dict(skipped)
        return phases

    def _parquet(self) -> Iterator[Phase]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        broken = first = 0
        self.skipped = {}
        try:
            with pq.ParquetFile(self.path) as file:
                names = [n for n in (*REQUIRED, "spacegroup") if n in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                    for phase in _phases(self.path, batch, first):
                        if phase is None:
                            broken += 1
                        else:
                            yield phase
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error
        if broken:
            self.skipped = {"no crystal can be made of them": broken}


def read_table(path: Path) -> StructureTable:
    """Read a whole table of structures into memory (.parquet, .json, .json.gz).

    Raises:
        InputError: no such file, a Git-LFS pointer, a damaged or foreign file, missing columns, no rows,
            or energies that cannot be placed on the Materials Project's scheme.
    """
    file = StructureFile(path)
    phases = tuple(file.phases())
    table = StructureTable(phases, file.digest, file.energies, file.skipped, file.metadata)
    log.info("%s: %s", path.name, table.coverage)
    return table


def write_table(path: Path, phases: Sequence[Phase], metadata: Mapping[str, str]) -> None:
    """Write phases with crystals as Parquet (zstd), with key-value metadata.

    Raises:
        ValueError: a phase has no crystal.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    crystals = [p.crystal for p in phases]
    if any(c is None for c in crystals):
        raise ValueError("every phase of a structure table needs its crystal")
    present = [c for c in crystals if c is not None]
    table = pa.table(
        {
            "material_id": pa.array([p.material_id for p in phases], pa.string()),
            "formula": pa.array([c.formula for c in present], pa.string()),
            "spacegroup": pa.array([p.spacegroup for p in phases], pa.int16()),
            "formation_energy_per_atom": pa.array(
                [p.formation_energy_per_atom for p in phases], pa.float64()
            ),
            "atomic_numbers": pa.array(
                [c.atomic_numbers.astype(np.uint8) for c in present], pa.list_(pa.uint8())
            ),
            "frac_coords": pa.array([c.frac_coords.ravel() for c in present], pa.list_(pa.float64())),
            "lattice": pa.array([c.lattice.ravel() for c in present], pa.list_(pa.float64())),
        }
    )
    pq.write_table(table.replace_schema_metadata(dict(metadata)), path, compression="zstd")


def _digest(path: Path) -> str:
    """SHA-256 (hex) of the content."""
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(
                    f"{path}: is a Git-LFS pointer, not the data",
                    hint="run 'git lfs pull' where it was cloned",
                )
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})", hint="check the path of the table"
        ) from error


def _schema(path: Path) -> pa.Schema:
    """Schema of a Parquet file that has the columns of structures."""
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


def _load_json(path: Path, content: bytes) -> list[dict[str, Any]]:
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        data = json.loads(raw)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path}: not readable as JSON: {error}", hint="the file may be truncated; copy it again"
        ) from error
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise InputError(f"{path}: expected a list of ComputedStructureEntry.as_dict()")
    return data
