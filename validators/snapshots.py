"""Snapshots of the Materials Project: immutable files of the phases of some chemical systems."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ..core.convert import ConversionError, from_structure
from ..core.elements import chemsys
from ..core.errors import ReferenceUnavailableError, StorageError
from ..core.protocols import Phase
from .entries import elemental_minima, formation_from_elements
from .tables import write_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from ..core.choices.references import ThermoType
    from .mp_client import Document

log = logging.getLogger("heliodor.validators")

ATTRIBUTION = "Materials Project (A. Jain et al., APL Mater. 1, 011002 (2013), CC BY 4.0)"

System = frozenset[str]
"""The symbols of a chemical system."""


@dataclass(frozen=True)
class Snapshot:
    """A file of phases, as they were in one version of the database, on one hull.

    Args:
        systems: chemical systems whose phases are all there, those of their subsystems too.
        date: when it was fetched, ISO 8601.
        elements: energy of each element's lowest entry, eV/atom, that the formation energies are taken
            against; empty in snapshots of earlier versions of Heliodor.
    """

    path: Path
    systems: tuple[System, ...]
    database_version: str
    thermo_type: str
    date: str
    elements: Mapping[str, float] = field(default_factory=dict)

    def covers(self, system: Iterable[str]) -> bool:
        """Whether all phases of a chemical system are there."""
        wanted = frozenset(system)
        return any(wanted <= there for there in self.systems)

    @property
    def scope(self) -> str:
        """Its chemical systems, for a person."""
        names = [chemsys(system) for system in self.systems]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def subsystems(systems: Iterable[System]) -> set[str]:
    """The names of chemical systems and all their subsystems, such as Mg, Mg-O, O."""
    return {
        "-".join(part)
        for system in systems
        for size in range(1, len(system) + 1)
        for part in combinations(sorted(system), size)
    }


def find_snapshots(
    folder: Path, thermo_type: ThermoType, database_version: str | None = None
) -> list[Snapshot]:
    """The snapshots in a folder, newest first; of one date, the smallest first."""
    found = [s for path in sorted(folder.glob("*.parquet")) if (s := _describe(path)) is not None]
    fitting = [
        s
        for s in found
        if s.thermo_type == thermo_type and database_version in (None, s.database_version)
    ]
    smallest = sorted(fitting, key=lambda s: (sum(map(len, s.systems)), s.path.name))
    return sorted(smallest, key=lambda s: s.date, reverse=True)


def _describe(path: Path) -> Snapshot | None:
    """What a file in the cache is, by its metadata; None (and a warning) where it is no snapshot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[b"heliodor"])
        systems = about["systems"] if "systems" in about else [about["elements"]]  # as it was once
        return Snapshot(
            path,
            tuple(frozenset(system) for system in systems),
            str(about["database_version"]),
            str(about["thermo_type"]),
            str(about["date"]),
            about.get("element_energies", {}),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("%s is no snapshot of the Materials Project and is ignored: %s", path, error)
        return None


def write_snapshot(
    folder: Path,
    systems: Collection[System],
    version: str,
    thermo_type: ThermoType,
    documents: Sequence[Document],
) -> Snapshot:
    """Write the documents as a snapshot: complete under its name, or not there.

    Args:
        systems: whose phases they all are; each element of them has an entry.

    Raises:
        ReferenceUnavailableError: no entry is an ordered structure. StorageError: the disk refuses.
    """
    elements = elemental_minima(entry for document in documents for entry in document.entries)
    phases, left_out = _phases(documents, elements)
    if not phases:
        raise ReferenceUnavailableError("the Materials Project returned no ordered structures")
    date = datetime.now(UTC).isoformat()
    named = sorted(sorted(system) for system in systems)
    about = {
        "systems": named,
        "database_version": version,
        "date": date,
        "thermo_type": thermo_type,
        "element_energies": elements,
    }
    metadata = {"heliodor": json.dumps(about), "attribution": ATTRIBUTION, "left_out": left_out}
    stamp = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]
    first = "-".join(named[0])
    name = first if len(systems) == 1 else f"{first}_and_{len(systems) - 1}"
    path = folder / (re.sub(r"[^\w.+-]", "", f"{name}_{thermo_type}_{version}_{stamp}") + ".parquet")
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
    return Snapshot(path, tuple(map(frozenset, named)), version, thermo_type, date, elements)


def lacking_elements(systems: Iterable[System], documents: Iterable[Document]) -> set[str]:
    """Elements of the systems of which there is no entry: their compounds have no formation energy."""
    there = elemental_minima(entry for document in documents for entry in document.entries)
    return {element for system in systems for element in system} - set(there)


def _phases(documents: Iterable[Document], references: Mapping[str, float]) -> tuple[list[Phase], str]:
    """Phases by rising (id, energy), and a note on what was left out.

    Formation energies are those of a phase diagram of the entries: corrected energies against the
    lowest entry of each element.
    """
    named = [(d.material_id, entry) for d in documents for entry in d.entries]
    named.sort(key=lambda pair: (pair[0], pair[1].energy_per_atom))
    phases: list[Phase] = []
    unusable = 0
    for name, entry in named:
        try:
            crystal = from_structure(entry.structure)
        except ConversionError:
            unusable += 1
            continue
        energy = formation_from_elements(entry, references)
        phases.append(Phase(name, crystal.reduced_composition, energy, None, crystal))
    return phases, f"; {unusable} left out: no ordered structure" if unusable else ""
