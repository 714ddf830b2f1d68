"""Asking the Materials Project: one query for some chemical systems, checked to be all of the answer.

Everything that touches mp-api is here. Its own retries are switched off, for they know neither 503 nor a
limit to Retry-After; `mp_patience` does that.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.elements import chemsys
from ..core.errors import ReferenceUnavailableError, missing_extra
from .mp_faults import ForeignAnswerError, PartialAnswerError, StatusError, retry_after
from .mp_patience import Patience, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pydantic import SecretStr
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from ..core.choices.references import ThermoType

log = logging.getLogger("heliodor.validators")

_FIELDS = ["material_id", "thermo_type", "entries"]
_SMALL = {"chemsys": "H", "_limit": 1, "_fields": "material_id"}

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """What the Materials Project says of one material on one hull.

    Args:
        material_id: as the server gives it: "mp-149", or the newer style.
        thermo_type: which hull. entries: with structures and corrected energies.
    """

    material_id: str
    thermo_type: str
    entries: tuple[ComputedStructureEntry, ...]


class MpClient:
    """The server of the Materials Project, through mp-api.

    The address is mp-api's, or that in `MP_API_ENDPOINT`.

    Args:
        key: of the user. patience: how long to bear with the server.
    """

    def __init__(self, key: SecretStr, patience: Patience | None = None) -> None:
        self._key = key
        self._patience = patience or Patience()

    def version(self) -> str:
        """The version of the database that is served now, for example "2025.09.25".

        Raises:
            ReferenceUnavailableError: no answer, or the key is refused; says why.
            MissingError: mp-api is not installed.
        """

        def ask() -> str:
            with self._session() as session:
                session.get(_address("materials/thermo/"), params=_SMALL)  # needs the key
                return _version(session)

        return self._ask(ask, "the version of its database")

    def fetch(
        self, systems: Collection[str], thermo_type: ThermoType, version: str | None = None
    ) -> tuple[str, list[Document]]:
        """The version of the database, and all documents of some chemical systems in it.

        Args:
            systems: such as "Mg-O"; subsystems are named too. At most about 511: more do not fit into
                the address of a query. thermo_type: of the hull. version: refuse any other.

        Raises:
            ReferenceUnavailableError: no answer, a partial or a foreign one; says why.
            MissingError: mp-api is not installed.
        """

        def ask() -> tuple[str, list[Document]]:
            with self._session() as session:
                begun = _version(session)
                if version not in (None, begun):
                    return begun, []
                documents = self._documents(session, systems, thermo_type)
                ended = _version(session)
            if begun != ended:
                raise PartialAnswerError(f"the database changed from {begun} to {ended} meanwhile")
            return begun, documents

        what = max(systems, key=lambda system: (len(system), system))
        what += f" and {len(systems) - 1} other systems" if len(systems) > 1 else ""
        found, documents = self._ask(ask, what)
        if version not in (None, found):
            raise ReferenceUnavailableError(
                f"the Materials Project serves version {found}, not {version}, for {what}",
                hint="a new campaign without database_version takes the present one",
            )
        log.info("Materials Project %s, %s: %d phases of %s", found, thermo_type, len(documents), what)
        return found, documents

    def _ask(self, ask: Callable[[], T], what: str) -> T:
        try:
            import mp_api.client  # noqa: F401
        except ImportError as error:
            raise missing_extra("mp-api", "mp") from error
        return patiently(ask, what, self._patience, self._key.get_secret_value())

    def _documents(
        self, session: Any, systems: Collection[str], thermo_type: ThermoType
    ) -> list[Document]:
        """All documents of the systems; counted, and each looked at."""
        from mp_api.client import MPRester

        key = self._key.get_secret_value()
        with MPRester(key, _endpoint(), session=session, mute_progress_bars=True) as client:
            thermo = client.materials.thermo
            found = thermo.search(
                chemsys=sorted(systems), thermo_types=[thermo_type], all_fields=False, fields=_FIELDS
            )
            count = thermo.count(
                {
                    "chemsys": ",".join(sorted(systems)),
                    # as its `search` spells it: the server's documents say r2SCAN
                    "thermo_types": thermo_type.replace("R2SCAN", "r2SCAN"),
                    "_limit": 1,
                    "_fields": "material_id",
                }
            )
        documents = [
            Document(str(d.material_id), str(d.thermo_type.value), tuple(d.entries.values()))
            for d in found
        ]
        require_whole(documents, count, systems, thermo_type)
        return documents

    def _session(self) -> Any:
        """A session that never asks again by itself, always has time limits, and tells bad statuses."""
        import requests

        session = requests.Session()
        session.headers["x-api-key"] = self._key.get_secret_value()
        session.hooks["response"].append(_refuse_status)
        send, limits = session.send, (self._patience.connect, self._patience.read)
        session.send = lambda request, **given: send(request, **{**given, "timeout": limits})  # type: ignore[method-assign]
        return session


def require_whole(
    documents: Sequence[Document], count: int, systems: Collection[str], thermo_type: ThermoType
) -> None:
    """Refuse an answer that is not all of what was asked, or something else.

    Raises:
        PartialAnswerError: fewer or more documents than the server counts, none, or one twice.
        ForeignAnswerError: another thermo type, or a chemical system that was not asked for.
    """
    if len(documents) != count:
        raise PartialAnswerError(f"{len(documents)} of {count} documents came")
    if not documents:
        raise PartialAnswerError("no documents came")
    if twice := [name for name, n in Counter(d.material_id for d in documents).items() if n > 1]:
        raise PartialAnswerError(f"{len(twice)} documents came twice, the first is {twice[0]}")
    for document in documents:
        if not document.entries:
            raise PartialAnswerError(f"{document.material_id} came without an energy")
        if document.thermo_type.upper() != thermo_type:
            raise ForeignAnswerError(
                f"{document.material_id} is of thermo type {document.thermo_type}, not {thermo_type}"
            )
        for entry in document.entries:
            _require_entry(document.material_id, entry, systems, thermo_type)


def _require_entry(
    name: str, entry: ComputedStructureEntry, systems: Collection[str], thermo_type: ThermoType
) -> None:
    system = chemsys(e.symbol for e in entry.composition)
    if system not in systems:
        raise ForeignAnswerError(f"{name} is of the chemical system {system}")
    run_type = str(entry.parameters.get("run_type") or "")
    if run_type and ("SCAN" in run_type.upper()) != (thermo_type == "R2SCAN"):
        raise ForeignAnswerError(f"{name} has an energy of run type {run_type}, not {thermo_type}")


def _endpoint() -> str | None:
    return os.environ.get("MP_API_ENDPOINT") or None


def _address(path: str) -> str:
    from mp_api.client.core.utils import validate_endpoint

    return str(validate_endpoint(_endpoint())) + path


def _version(session: Any) -> str:
    """The version of the database, asked anew: the client asks once in the life of a process."""
    said = session.get(_address("heartbeat")).json()
    if not isinstance(said, dict) or not said.get("db_version"):
        raise PartialAnswerError("the server does not say the version of its database")
    return str(said["db_version"])


def _refuse_status(response: Any, *_: Any, **__: Any) -> None:
    if response.status_code >= 400:
        wait = retry_after(response.headers.get("Retry-After"))
        raise StatusError(response.status_code, wait, response.text[:200])
