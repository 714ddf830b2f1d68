"""The Materials Project by its API, kept as immutable snapshots.

Chemical systems are asked for with all their subsystems and one thermo type, for pooled entries of
several thermo types give absurd hulls. What came back is written once, with the version of the database,
and read ever after: no key, no network, the same hull.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS, chemsys, parse_elements
from ..core.errors import ReferenceUnavailableError
from ..core.protocols import Phase, ReferenceInfo
from ..core.records import Reason, Verdict
from .mp_supply import MAX_ELEMENTS, MpSupply
from .novelty import StructureNovelty
from .snapshots import ATTRIBUTION, Snapshot, System
from .store_build import open_store
from .system_phases import SystemPhases

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ..core.crystal import Crystal
    from .matching import MatcherSettings
    from .phases import Composition


class MpReference:
    """Phases of the chemical systems of one snapshot.

    Args:
        snapshot: the file. cache: folder of stores. settings: tolerances of the matcher.

    Raises:
        InputError: the snapshot is damaged. StorageError: the store cannot be written.
    """

    def __init__(self, snapshot: Snapshot, cache: Path, settings: MatcherSettings | None = None) -> None:
        self.snapshot = snapshot
        self.known = open_store(snapshot.path, cache)
        self._novelty = StructureNovelty(self.known, settings)
        version = snapshot.database_version
        self.info = ReferenceInfo(
            name=f"Materials Project {version} {snapshot.scope}",
            digest=self.known.info.digest,
            n_phases=len(self.known),
            coverage=f"{len(self.known):,} phases: all of {snapshot.scope} in the Materials Project "
            f"{version}, {snapshot.thermo_type}{self.known.info.metadata.get('left_out', '')}",
            attribution=ATTRIBUTION,
            date=snapshot.date,
            version=version,
            hull="R2SCAN" if snapshot.thermo_type == "R2SCAN" else "GGA_GGA+U",
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`.

        Raises:
            ReferenceUnavailableError: the snapshot does not cover that chemical system.
        """
        wanted = parse_elements(elements)
        if outside := self._outside(wanted):
            raise ReferenceUnavailableError(
                outside, hint="name all elements of the campaign when the reference is made"
            )
        return self.known.entries(wanted)

    def element_energies(self, elements: Iterable[str]) -> dict[int, float]:
        """See `reference_hull.KnowsElements`."""
        there = self.snapshot.elements
        return {ATOMIC_NUMBERS[symbol]: there[symbol] for symbol in elements if symbol in there}

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition."""
        return self.known.like(composition)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty by structure: one verdict per crystal; none for elements outside the snapshot."""
        verdicts = self._novelty.check(batch)
        outside = [self._outside(crystal.elements) for crystal in batch]
        return [
            Verdict(v.key, v.check, None, Reason.NO_REFERENCE, detail=reason) if reason else v
            for v, reason in zip(verdicts, outside, strict=True)
        ]

    def _outside(self, elements: Sequence[str]) -> str:
        """Why the reference cannot say anything about these elements; empty where it can."""
        if self.snapshot.covers(elements):
            return ""
        return f"{self.info.name} does not cover {chemsys(elements)}"


class MpOnDemand:
    """Phases of the chemical systems that crystals need, fetched when they first come.

    For campaigns of more than 9 elements or of all, and for files of crystals from anywhere. What was
    fetched serves every later run; a system that cannot be had is said at its crystals.

    Args:
        supply: whence snapshots come. cache: folder of stores. settings: tolerances of the matcher.

    Raises:
        ReferenceUnavailableError: neither a snapshot nor a server that answers.
    """

    def __init__(self, supply: MpSupply, cache: Path, settings: MatcherSettings | None = None) -> None:
        supply.pin(())
        self._supply, self._cache, self._settings = supply, cache, settings
        self._lock = threading.RLock()
        self._parts: dict[Path, MpReference] = {}
        self._ids: set[str] = set()
        self._systems: dict[System, MpReference] = {}

    @property
    def info(self) -> ReferenceInfo:
        """What it is; the number of phases is of what was needed so far."""
        version, hull = self._supply.version or "", self._supply.thermo_type
        with self._lock:
            n, dates = len(self._ids), [part.info.date for part in self._parts.values()]
        return ReferenceInfo(
            name=f"Materials Project {version}",
            digest=f"materials-project-{version}-{hull}",
            n_phases=n,
            coverage=f"each crystal's chemical system and its subsystems in the Materials Project "
            f"{version}, {hull}",
            attribution=ATTRIBUTION,
            date=max(dates, default=""),
            version=version,
            hull=hull,
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`.

        Raises:
            ReferenceUnavailableError: the system cannot be had; says why.
        """
        system = frozenset(parse_elements(elements))
        return self._part(system).entries(system)

    def element_energies(self, elements: Iterable[str]) -> dict[int, float]:
        """See `reference_hull.KnowsElements`."""
        system = frozenset(elements)
        return self._part(system).element_energies(system)

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition.

        Raises:
            ReferenceUnavailableError: the chemical system cannot be had; says why.
        """
        return self._part(frozenset(SYMBOLS[z] for z, _ in composition)).like(composition)

    def known_in(self, elements: Iterable[str]) -> SystemPhases:
        """The phases of a chemical system and its subsystems, whatever else came with them.

        Raises:
            ReferenceUnavailableError: the system cannot be had; says why.
        """
        system = frozenset(elements)
        return SystemPhases(self._part(system).known, system)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty by structure: one verdict per crystal; none where its system cannot be had."""
        systems = [frozenset(crystal.elements) for crystal in batch]
        lacking = self._need(systems)
        verdicts: dict[int, Verdict] = {}
        members: dict[int, list[int]] = {}  # by part, the crystals that it judges
        for i, system in enumerate(systems):
            if system in lacking:
                verdicts[i] = Verdict(
                    batch[i].digest, "novelty", None, Reason.NO_REFERENCE, detail=lacking[system].message
                )
            else:
                members.setdefault(id(self._systems[system]), []).append(i)
        for rows in members.values():
            part = self._systems[systems[rows[0]]]
            verdicts.update(zip(rows, part.match([batch[i] for i in rows]), strict=True))
        return [verdicts[i] for i in range(len(batch))]

    def _part(self, system: System) -> MpReference:
        for error in self._need([system]).values():
            raise error
        return self._systems[system]

    def _need(self, systems: Iterable[System]) -> dict[System, ReferenceUnavailableError]:
        """Have the phases of chemical systems; those that cannot be had, and why."""
        with self._lock:
            new = {system for system in systems if system not in self._systems}
            found, lacking = self._supply.provide(new) if new else ({}, {})
            for system, snapshot in found.items():
                if snapshot.path not in self._parts:
                    part = MpReference(snapshot, self._cache, self._settings)
                    self._parts[snapshot.path] = part
                    self._ids.update(map(part.known.material_id, range(len(part.known))))
                self._systems[system] = self._parts[snapshot.path]
        return lacking


def materials_project(
    supply: MpSupply,
    elements: Iterable[str],
    cache: Path,
    settings: MatcherSettings | None = None,
) -> MpReference | MpOnDemand:
    """The Materials Project for a search in a chemical system.

    Up to 9 elements are one query, made now. More than 9, or none (anything may come), are served on
    demand: each crystal's own chemical system when it first comes.

    Raises:
        ReferenceUnavailableError: not in the cache, and not to be fetched; says why.
        StorageError: the snapshot cannot be written.
    """
    system = frozenset(elements)
    if not 1 <= len(system) <= MAX_ELEMENTS:
        return MpOnDemand(supply, cache, settings)
    found, lacking = supply.provide([system])
    for error in lacking.values():
        raise error
    return MpReference(found[system], cache, settings)
