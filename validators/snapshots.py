"""Snapshots of the Materials Project: immutable files of phases of one chemical system."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..core.convert import ConversionError, from_structure
from ..core.errors import ReferenceUnavailableError, StorageError
from ..core.protocols import Phase
from .entries import elemental_minima, formation_from_elements
from .tables import write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pymatgen.entries.computed_entries import ComputedStructureEntry

log = logging.getLogger("heliodor.validators")

THERMO_TYPE = "GGA_GGA+U"
ATTRIBUTION = "Materials Project (A. Jain et al., APL Mater. 1, 011002 (2013), CC BY 4.0)"

_RUN_TYPE = re.compile(r"-(GGA(\+U)?|R2SCAN)$")


@dataclass(frozen=True)
class Snapshot:
    """A file of phases of one chemical system, as it was in one database version."""

    path: Path
    elements: frozenset[str]
    database_version: str
    date: str


def find_snapshot(
    folder: Path, elements: Iterable[str], database_version: str | None = None
) -> Snapshot | None:
    """The newest snapshot that covers the elements; of one date, the smallest."""
    wanted = frozenset(elements)
    found = [s for path in sorted(folder.glob("*.parquet")) if (s := _describe(path)) is not None]
    fitting = [
        s for s in found if wanted <= s.elements and database_version in (None, s.database_version)
    ]
    return max(fitting, key=lambda s: (s.date, -len(s.elements), s.path.name), default=None)


def _describe(path: Path) -> Snapshot | None:
    """What a file in the cache is, by its metadata; None (and a warning) where it is no snapshot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = json.loads((pq.read_schema(path).metadata or {})[b"heliodor"])
        if about["thermo_type"] != THERMO_TYPE:
            return None
        return Snapshot(
            path, frozenset(about["elements"]), str(about["database_version"]), str(about["date"])
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("%s is no snapshot of the Materials Project and is ignored: %s", path, error)
        return None


def write_snapshot(
    folder: Path, elements: tuple[str, ...], version: str, entries: Sequence[ComputedStructureEntry]
) -> Snapshot:
    """Write the entries as a snapshot: complete under its name, or not there.

    Raises:
        ReferenceUnavailableError: no entry is an ordered structure. StorageError: the disk refuses.
    """
    phases, left_out = _phases(entries)
    if not phases:
        raise ReferenceUnavailableError("the Materials Project returned no ordered structures")
    date = datetime.now(UTC).isoformat()
    about = {
        "elements": elements,
        "database_version": version,
        "date": date,
        "thermo_type": THERMO_TYPE,
    }
    metadata = {"heliodor": json.dumps(about), "attribution": ATTRIBUTION, "left_out": left_out}
    stamp = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]
    path = folder / f"{'-'.join(elements)}_{version}_{stamp}.parquet"
    part = folder / f".{path.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_table(part, phases, metadata)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            f"{folder}: the snapshot cannot be written ({error.strerror})",
            hint="free some space, or set HELIODOR_CACHE to another folder",
        ) from error
    return Snapshot(path, frozenset(elements), version, date)


def _phases(entries: Iterable[ComputedStructureEntry]) -> tuple[list[Phase], str]:
    """Phases by rising (id, energy), and a note on what was left out.

    Formation energies are those of a phase diagram of the entries: corrected energies against the
    lowest entry of each element.
    """
    entries = sorted(entries, key=lambda e: (_material_id(e), e.energy_per_atom))
    references = elemental_minima(entries)
    phases: list[Phase] = []
    disordered = without = 0
    for entry in entries:
        try:
            crystal = from_structure(entry.structure)
        except ConversionError:
            disordered += 1
            continue
        known = all(e.symbol in references for e in entry.composition)
        without += not known
        energy = formation_from_elements(entry, references) if known else None
        phases.append(Phase(_material_id(entry), crystal.reduced_composition, energy, None, crystal))
    notes = [f"; {disordered} left out: partial occupancies"] if disordered else []
    notes += [f"; {without} without an energy: no elemental entry"] if without else []
    return phases, "".join(notes)


def _material_id(entry: ComputedStructureEntry) -> str:
    """The material's id as text; the client's ids are objects, entry ids such as "mp-149-GGA"."""
    return _RUN_TYPE.sub("", str(entry.data.get("material_id") or entry.entry_id))
