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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError
from ..core.protocols import Phase
from .table_parquet import parquet_phases, structure_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("heliodor.validators")

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
            schema = structure_schema(path)
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
        phases = self._parquet() if self._is_parquet else self._json()
        for n, phase in enumerate(phases, 1):  # noqa: B007
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
        broken = 0
        self.skipped = {}
        for phase in parquet_phases(self.path):
            if phase is None:
                broken += 1
            else:
                yield phase
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
