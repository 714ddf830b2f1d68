"""The Materials Project by its API, kept as immutable snapshots.

One query per chemical system: `get_entries_in_chemsys` with thermo type GGA_GGA+U alone, for pooled
entries of several thermo types give absurd hulls. What came back is written once, with the database
version, and read ever after: no key, no network, the same hull.
"""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..core.elements import parse_elements
from ..core.errors import (
    HeliodorError,
    InputError,
    ReferenceUnavailableError,
    missing_extra,
)
from ..core.protocols import Phase, ReferenceInfo
from ..core.records import Reason, Verdict
from .novelty import StructureNovelty
from .snapshots import ATTRIBUTION, THERMO_TYPE, Snapshot, find_snapshot, write_snapshot
from .store_build import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pydantic import SecretStr
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from ..core.crystal import Crystal
    from .matching import MatcherSettings
    from .phases import Composition

log = logging.getLogger("heliodor.validators")

MAX_ELEMENTS = 9
"""The server refuses more: the query lists all 511 subsystems."""


class MpReference:
    """Phases of one chemical system and its subsystems from the Materials Project.

    The newest cached snapshot that covers the elements is used (of `database_version`, if given); only
    where there is none is the server asked, and for that a key is needed.

    Args:
        api_key: Materials Project key; not needed where a snapshot covers the elements.
        cache: folder of snapshots (`cache/mp`).
        elements: the chemical system, at most 9 elements.
        database_version: for example "2025.09.25"; empty: the newest.
        settings: tolerances of the matcher.
        connect: opens a client from the key; by default mp-api's `MPRester`.

    Raises:
        InputError: no such element, or more than 9.
        ReferenceUnavailableError: no snapshot and no key, the key refused, the server busy or away.
        MissingError: mp-api is not installed.
        StorageError: the snapshot cannot be written.
    """

    def __init__(
        self,
        api_key: SecretStr | None,
        cache: Path,
        elements: Iterable[str],
        database_version: str | None = None,
        settings: MatcherSettings | None = None,
        *,
        connect: Callable[[str], AbstractContextManager[Any]] | None = None,
    ) -> None:
        wanted = parse_elements(elements)
        if len(wanted) > MAX_ELEMENTS:
            raise InputError(
                f"elements: got {len(wanted)}; the Materials Project answers for at most {MAX_ELEMENTS}",
                hint="use the embedded reference, or a smaller chemical system",
            )
        folder = cache / "mp"
        snapshot = find_snapshot(folder, wanted, database_version)
        if snapshot is None:
            snapshot = _fetch(api_key, folder, wanted, database_version, connect or _mp_rester)
        self.elements = snapshot.elements
        self.known = open_store(snapshot.path, cache)
        self._novelty = StructureNovelty(self.known, settings)
        chemsys = "-".join(sorted(self.elements))
        self.info = ReferenceInfo(
            name=f"Materials Project {snapshot.database_version} {chemsys}",
            digest=self.known.info.digest,
            n_phases=len(self.known),
            coverage=f"{len(self.known):,} phases: all of {chemsys} in the Materials Project "
            f"{snapshot.database_version}, {THERMO_TYPE}{self.known.info.metadata.get('left_out', '')}",
            attribution=ATTRIBUTION,
            date=snapshot.date,
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`.

        Raises:
            ReferenceUnavailableError: an element lies outside the snapshot's chemical system.
        """
        wanted = parse_elements(elements)
        if outside := self._outside(wanted):
            raise ReferenceUnavailableError(
                outside, hint="name all elements of the campaign when the reference is made"
            )
        return self.known.entries(wanted)

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

    def _outside(self, elements: Iterable[str]) -> str:
        """Why the reference cannot say anything about these elements; empty where it can."""
        foreign = sorted(set(elements) - self.elements)
        return f"{self.info.name} does not cover {', '.join(foreign)}" if foreign else ""


def _mp_rester(key: str) -> AbstractContextManager[Any]:
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise missing_extra("mp-api", "mp") from error
    client: AbstractContextManager[Any] = MPRester(key, mute_progress_bars=True)
    return client


def _fetch(
    api_key: SecretStr | None,
    folder: Path,
    elements: tuple[str, ...],
    database_version: str | None,
    connect: Callable[[str], AbstractContextManager[Any]],
) -> Snapshot:
    """Ask the server for a chemical system and write the snapshot."""
    chemsys = "-".join(elements)
    if api_key is None:
        of_version = f" of version {database_version}" if database_version else ""
        raise ReferenceUnavailableError(
            f"no snapshot{of_version} covers {chemsys} in {folder}, and there is no key to fetch one",
            hint="set MP_API_KEY (https://next-gen.materialsproject.org/api), or use the embedded table",
        )
    key = api_key.get_secret_value()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with connect(key) as client:
                version, entries = _query(client, elements, database_version)
    except HeliodorError:
        raise
    except Exception as error:  # requests, mp-api, its S3 path: many types; none may show the key
        raise _unavailable(error, chemsys, key) from None
    if not entries:
        raise ReferenceUnavailableError(
            f"the Materials Project returned no entries for {chemsys}", hint="try again later"
        )
    log.info("Materials Project %s: %d entries of %s", version, len(entries), chemsys)
    return write_snapshot(folder, elements, version, entries)


def _query(
    client: Any, elements: tuple[str, ...], database_version: str | None
) -> tuple[str, list[ComputedStructureEntry]]:
    """Version of the database, and the entries of a chemical system in it."""
    version = str(client.db_version)
    if database_version not in (None, version):
        raise ReferenceUnavailableError(
            f"the Materials Project serves version {version}, not {database_version}, and no snapshot "
            f"of that version covers {'-'.join(elements)}",
            hint="leave database_version out to use the present one",
        )
    criteria = {"thermo_types": [THERMO_TYPE]}
    return version, client.get_entries_in_chemsys(list(elements), additional_criteria=criteria)


def _unavailable(error: Exception, chemsys: str, key: str) -> ReferenceUnavailableError:
    """What went wrong and what to do, without the key."""
    text = re.sub(r"\s+", " ", str(error).replace(key, "***") if key else str(error))[:300]
    code = re.search(r"\b(401|403|429|502|503|504)\b", text)
    status = code.group() if code else None
    lowered = f"{type(error).__name__} {text}".lower()
    if status in ("401", "403") or "api key" in lowered:
        reason, hint = "refused the key", "check MP_API_KEY; keys have 32 characters"
    elif status == "429":
        reason, hint = "is asked too often (429)", "wait some minutes, then run the same command again"
    elif status in ("502", "503", "504"):
        reason, hint = f"is overloaded ({status})", "wait, then run the same command again"
    elif "timeout" in lowered or "timed out" in lowered:
        reason, hint = "did not answer in time", "run the same command again"
    elif "connection" in lowered or "resolve" in lowered:
        reason, hint = "cannot be reached", "check the network; the embedded reference works offline"
    else:
        reason, hint = (
            "could not answer",
            "run the same command again; the embedded reference works offline",
        )
    return ReferenceUnavailableError(
        f"the Materials Project {reason} for {chemsys}: {type(error).__name__}: {text}", hint=hint
    )
