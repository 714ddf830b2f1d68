"""What a potential made of known phases, on disk: each is relaxed once, whoever asks."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from ..core.crystal import Crystal
from ..core.errors import StorageError
from ..core.records import Failure, Reason, Relaxed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")

_TABLE = """create table if not exists computed (
    crystal text, model text, settings text, result text, relaxed blob,
    primary key (crystal, model, settings)) without rowid"""
_QUESTION = """select crystal, result, relaxed from computed
    where model = ? and settings in (?, ?) and crystal in """
_WAIT = 60.0  # seconds for another process that writes
_ASKED = 500  # keys in one question


class PhaseEnergies:
    """Relaxations of known phases in a SQLite file, by (crystal, potential, settings).

    Each result is written as it comes, so a kill loses none. A failure counts only under the limits it
    was met with: with more time or memory the phase is tried again. Safe to use from several threads
    and processes.

    Args:
        path: the file; made where there is none.
        model: the potential. settings: what decides a minimum (thresholds, steps), as text.
        limits: what decides whether one is reached at all (time, memory, size), as text.

    Raises:
        StorageError: the file cannot be made, or is no such file.
    """

    def __init__(self, path: Path, model: str, settings: str, limits: str = "") -> None:
        self.path, self.model, self.settings = path, model, settings
        self._limited = f"{settings} {limits}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent}: cannot be made ({error.strerror})") from error
        self._do(lambda db: db.execute(_TABLE))

    def get(self, crystals: Sequence[str]) -> dict[str, Relaxed | Failure]:
        """What is known of crystals, by their keys."""
        found: dict[str, Relaxed | Failure] = {}
        for begin in range(0, len(crystals), _ASKED):
            keys = crystals[begin : begin + _ASKED]
            given = (self.model, self.settings, self._limited, *keys)
            question = _QUESTION + f"({', '.join('?' * len(keys))})"
            for key, result, relaxed in self._do(partial(_ask, question=question, given=given)):
                if key not in found or relaxed is not None:  # a minimum found under other limits
                    found[key] = self._read(key, result, relaxed)
        return found

    def put(self, result: Relaxed | Failure) -> None:
        """Keep a result; of two processes that worked on the same phase the first is kept."""
        if isinstance(result, Failure):
            settings, packed = self._limited, None
            text = json.dumps({"reason": result.reason.value, "detail": result.detail})
        else:
            settings, packed = self.settings, result.crystal.to_bytes()
            text = json.dumps({name: getattr(result, name) for name in _NUMBERS})
        row = (result.key, self.model, settings, text, packed)
        self._do(lambda db: db.execute("insert or ignore into computed values (?, ?, ?, ?, ?)", row))

    def _read(self, key: str, result: str, relaxed: bytes | None) -> Relaxed | Failure:
        data = json.loads(result)
        if relaxed is None:
            return Failure(key, Reason(data["reason"]), data["detail"])
        return Relaxed(key=key, crystal=Crystal.from_bytes(relaxed), model=self.model, **data)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT)) as db, db:
                return work(db)
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path}: {error}", hint="free the disk; if the file is damaged, delete it"
            ) from error


_NUMBERS = ("energy", "max_force", "max_stress", "steps", "converged", "seconds")


def _ask(
    db: sqlite3.Connection, question: str, given: tuple[str, ...]
) -> list[tuple[str, str, bytes | None]]:
    return db.execute(question, given).fetchall()
