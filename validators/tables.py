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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

log = logging.getLogger("heliodor.validators")

REQUIRED = ("material_id", "formation_energy_per_atom", "atomic_numbers", "frac_coords", "lattice")

_LFS_POINTER = b"version https://git-lfs"


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
        parts = [f"{len(self.phases):,} phases; formation energies: {self.energies}"]
        if without:
            parts.append(f"{without:,} without an energy (known for novelty, not on the hull)")
        parts += [f"{n:,} rows left out: {reason}" for reason, n in self.skipped.items()]
        return "; ".join(parts)


def read_table(path: Path) -> StructureTable:
    """Read a table of structures (.parquet, .json, .json.gz).

    Raises:
        InputError: no such file, a Git-LFS pointer, a damaged or foreign file, missing columns, no rows,
            or energies that cannot be placed on the Materials Project's scheme.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})", hint="check the path of the table"
        ) from error
    if content.startswith(_LFS_POINTER):
        raise InputError(
            f"{path}: is a Git-LFS pointer, not the data", hint="run 'git lfs pull' where it was cloned"
        )
    digest = hashlib.sha256(content).hexdigest()
    name = path.name.lower()
    if name.endswith(".parquet"):
        table = _from_parquet(path, content, digest)
    elif name.endswith((".json", ".json.gz")):
        from .entries import phases_from_entries

        phases, energies, skipped = phases_from_entries(path, _load_json(path, content))
        table = StructureTable(phases, digest, energies, skipped)
    else:
        raise InputError(f"{path}: unknown kind of table; allowed: .parquet, .json, .json.gz")
    if not table.phases:
        raise InputError(f"{path}: holds no usable structure ({table.coverage})")
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


def _from_parquet(path: Path, content: bytes, digest: str) -> StructureTable:
    table = open_parquet(path, content)
    missing = [c for c in REQUIRED if c not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"found: {', '.join(table.column_names) or 'none'}"
        )
    columns = [table.column(name).to_pylist() for name in REQUIRED]
    groups = table.column("spacegroup").to_pylist() if "spacegroup" in table.column_names else None
    phases, broken = [], 0
    for i, (material_id, energy, numbers, frac, lattice) in enumerate(zip(*columns, strict=True)):
        try:
            crystal = Crystal(
                np.array(lattice, dtype=np.float64).reshape(3, 3),
                np.array(frac, dtype=np.float64).reshape(-1, 3),
                np.array(numbers, dtype=np.int64),
            )
            value = None if energy is None or math.isnan(energy) else float(energy)
        except (ValueError, TypeError) as error:
            log.debug("%s: row %d: %s", path.name, i, error)
            broken += 1
            continue
        if value is not None and not math.isfinite(value):
            raise InputError(f"{path}: row {i} ({material_id}): formation_energy_per_atom is {value}")
        group = groups[i] if groups else None
        phases.append(Phase(str(material_id), crystal.reduced_composition, value, group, crystal))
    skipped = {"no crystal can be made of them": broken} if broken else {}
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    return StructureTable(tuple(phases), digest, "as given in the file", skipped, metadata)


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
        raise InputError(
            f"{path}: no readable Parquet file ({len(content):,} bytes): {str(error).splitlines()[0]}",
            hint="the file may be truncated; copy or download it again",
        ) from error


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
