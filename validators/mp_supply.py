"""Where snapshots of the Materials Project come from: the cache, else the server, of one version."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ..core.elements import chemsys
from ..core.errors import ReferenceUnavailableError
from .snapshots import (
    Snapshot,
    System,
    find_snapshots,
    lacking_elements,
    subsystems,
    write_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ..core.choices.references import ThermoType
    from .mp_client import Document

MAX_ELEMENTS = 9
"""Of one chemical system: a query names all subsystems, and more than 511 do not fit into an address."""

_MAX_NAMES = 2**MAX_ELEMENTS - 1


class Server(Protocol):
    """Whom to ask: `mp_client.MpClient`."""

    def version(self) -> str:
        """The version of the database that is served now."""
        ...

    def fetch(
        self, systems: set[str], thermo_type: ThermoType, version: str | None = None
    ) -> tuple[str, list[Document]]:
        """Version of the database, and all documents of the chemical systems in it."""
        ...


class MpSupply:
    """Snapshots of one version of the database and one thermo type.

    Safe to use from several threads: one fetches, the others wait for it.

    Args:
        folder: where snapshots are kept. thermo_type: of the hull.
        server: whom to ask for what is not in the folder; None: nobody (offline, or without a key).
        database_version: the one to use; None: see `pin`.
    """

    def __init__(
        self,
        folder: Path,
        thermo_type: ThermoType,
        server: Server | None,
        database_version: str | None = None,
    ) -> None:
        self.thermo_type: ThermoType = thermo_type
        self.version = database_version
        self._folder, self._server = folder, server
        self._lock = threading.Lock()
        self._lacking: dict[System, ReferenceUnavailableError] = {}  # never to be had, and why

    def pin(self, systems: Sequence[System]) -> None:
        """Settle on a version for good.

        The one that was named; else the newest in the cache that has all of `systems`; else the one that
        is served now; else, where nobody can be asked, the newest in the cache.

        Args:
            systems: that will be needed; empty: not known yet.

        Raises:
            ReferenceUnavailableError: nothing in the cache and nobody to ask, or no answer.
        """
        if self.version is not None:
            if not systems and not find_snapshots(self._folder, self.thermo_type, self.version):
                self._require_served(self.version)
            return
        cached = find_snapshots(self._folder, self.thermo_type)
        for version in dict.fromkeys(s.database_version for s in cached):
            there = [s for s in cached if s.database_version == version]
            if systems and all(any(s.covers(system) for s in there) for system in systems):
                self.version = version
                return
        if self._server is not None:
            self.version = self._server.version()
        elif cached:
            self.version = cached[0].database_version
        else:
            raise self._nobody(systems)

    def update(self) -> str:
        """Settle on the version that is served now; returns it.

        Raises:
            ReferenceUnavailableError: nobody to ask, or no answer.
        """
        if self._server is None:
            raise self._nobody(())
        self.version = self._server.version()
        return self.version

    def provide(
        self, systems: Iterable[System]
    ) -> tuple[dict[System, Snapshot], dict[System, ReferenceUnavailableError]]:
        """A snapshot for each of some chemical systems, and why others are not to be had.

        What is not in the cache is fetched, up to 511 systems and subsystems in one query. After a query
        without an answer the others are not tried.

        Raises:
            ReferenceUnavailableError: no version could be settled on, see `pin`.
            StorageError: a snapshot cannot be written.
        """
        wanted = sorted(set(systems), key=sorted)
        with self._lock:
            self.pin(wanted)
            cached = find_snapshots(self._folder, self.thermo_type, self.version)
            found = {s: there for s in wanted if (there := _covering(cached, s)) is not None}
            missing = [s for s in wanted if s not in found and s not in self._lacking]
            for system in [s for s in missing if len(s) > MAX_ELEMENTS]:
                self._lacking[system] = _too_large(system)
                missing.remove(system)
            lacking = {}
            try:
                for group in groups(missing):
                    found |= self._fetch(group)
            except ReferenceUnavailableError as error:
                lacking = dict.fromkeys(missing, error)
        lacking |= {s: self._lacking[s] for s in wanted if s in self._lacking}
        return found, {s: error for s, error in lacking.items() if s not in found}

    def _fetch(self, group: Sequence[System]) -> dict[System, Snapshot]:
        """Ask for chemical systems and write what came; none of those that lack an element."""
        if self._server is None:
            raise self._nobody(group)
        version, documents = self._server.fetch(subsystems(group), self.thermo_type, self.version)
        lacking = lacking_elements(group, documents)
        good = [system for system in group if not system & lacking]
        for system in set(group) - set(good):
            self._lacking[system] = ReferenceUnavailableError(
                f"the Materials Project {version} has no {self.thermo_type} energy of the element "
                f"{', '.join(sorted(system & lacking))}, so that compounds in {chemsys(system)} have no "
                "formation energy",
                hint="leave the element out, or use another reference",
            )
        if not good:
            return {}
        names = subsystems(good)
        kept = [d for d in documents if chemsys(e.symbol for e in d.entries[0].composition) in names]
        snapshot = write_snapshot(self._folder, good, version, self.thermo_type, kept)
        return dict.fromkeys(good, snapshot)

    def _require_served(self, version: str) -> None:
        if self._server is None:
            raise self._nobody(())
        if (served := self._server.version()) != version:
            raise ReferenceUnavailableError(
                f"there is no snapshot of version {version} in {self._folder}, and the Materials "
                f"Project serves version {served}",
                hint="a new campaign without database_version takes the present one",
            )

    def _nobody(self, systems: Sequence[System]) -> ReferenceUnavailableError:
        of_version = f" of version {self.version}" if self.version else ""
        what = ", ".join(chemsys(system) for system in systems[:3]) or "anything"
        return ReferenceUnavailableError(
            f"no {self.thermo_type} snapshot{of_version} covers {what} in {self._folder}, and there is "
            "no key to fetch one",
            hint="set MP_API_KEY (https://next-gen.materialsproject.org/api), or use the embedded table",
        )


def groups(systems: Sequence[System]) -> Iterator[list[System]]:
    """Chemical systems in groups whose names, with those of all subsystems, fit into one query."""
    group: list[System] = []
    names: set[str] = set()
    for system in systems:
        more = subsystems([system])
        if group and len(names | more) > _MAX_NAMES:
            yield group
            group, names = [], set()
        group.append(system)
        names |= more
    if group:
        yield group


def _covering(snapshots: Sequence[Snapshot], system: System) -> Snapshot | None:
    return next((s for s in snapshots if s.covers(system)), None)


def _too_large(system: System) -> ReferenceUnavailableError:
    return ReferenceUnavailableError(
        f"{chemsys(system)} has {len(system)} elements; the Materials Project answers for at most "
        f"{MAX_ELEMENTS}",
        hint="use the embedded reference, or a smaller chemical system",
    )
