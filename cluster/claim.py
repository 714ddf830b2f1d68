"""Which orchestrator submits a folder: one at a time, and another one where it has died.

A claim is a file `claim.N` in the folder, made at once with its owner's name in it; of several the one
with the highest number counts. Taking over is making the next number, which one process alone can do.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.files import write_text
from ..core.owner import surely_dead

_FREE = ""


@dataclass(frozen=True)
class Claim:
    """One that we hold."""

    path: Path
    owner: str

    def holds(self) -> bool:
        """Whether it still counts: nobody took us for dead meanwhile."""
        return _newest(self.path.parent) == self.path

    def refresh(self) -> None:
        """Show that we live."""
        with suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Leave the folder to whoever comes next."""
        if self.path.parent.is_dir():
            write_text(self.path, _FREE, "the claim")


class Claims:
    """What one orchestrator claims.

    A claim of a process of this machine that is gone is taken over at once; one of another machine when
    it was not refreshed for `patience` seconds of our own clock: those of two machines are not compared.

    Args:
        owner: our name, see `core.owner`.
    """

    def __init__(self, owner: str, patience: float = 300) -> None:
        self._owner, self._patience = owner, patience
        self._seen: dict[Path, tuple[int, float]] = {}  # of others: when refreshed; since when we know

    def take(self, folder: Path) -> Claim | None:
        """Claim a folder; None where another one holds it.

        Raises:
            OSError: the folder cannot be written.
        """
        newest = _newest(folder)
        number = 0
        if newest is not None:
            if not self._is_free(newest):
                return None
            number = int(newest.suffix[1:]) + 1
        path = folder / f"claim.{number}"
        beside = folder / f".claim.{os.getpid()}.{self._owner[-8:]}"
        beside.write_text(self._owner, encoding="utf-8")
        try:
            os.link(beside, path)
        except FileExistsError:
            return None
        finally:
            beside.unlink()
        return Claim(path, self._owner)

    def _is_free(self, path: Path) -> bool:
        try:
            owner, refreshed = path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
        except FileNotFoundError:  # somebody removed it by hand
            return True
        if owner == _FREE or surely_dead(owner):
            return True
        before, since = self._seen.get(path, (None, 0.0))
        now = time.monotonic()
        if before != refreshed:
            self._seen[path] = (refreshed, now)
            return False
        return now - since > self._patience


def _newest(folder: Path) -> Path | None:
    found = [path for path in folder.glob("claim.*") if path.suffix[1:].isdigit()]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)
