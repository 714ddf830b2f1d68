"""What a training shows: log.csv, and a live line on the terminal."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..core.errors import StorageError
from ..core.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

COLUMNS = (
    *("step", "minutes", "crystals_per_second", "types", "coords", "cell"),
    *("held_types", "held_coords", "held_cell"),
    *("valid", "unique", "novel", "low_energy", "score", "score_low", "score_high", "note"),
)
_EVERY = 30.0  # seconds between lines where there is no terminal


class Log:
    """log.csv: losses (types in nats; coordinates and cell: 1 = nothing learned) and judgings.

    Args:
        path: the file. step: where the training goes on; rows beyond it are dropped.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows: list[list[str]] = []
        if step:
            with suppress(OSError, UnicodeDecodeError, csv.Error):  # damaged: begun anew
                found = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
                rows = [r for r in found if r and r[0].isdigit() and int(r[0]) <= step]
        write_text(path, "".join(map(_line, [COLUMNS, *rows])), "the log")

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; what it lacks stays empty.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line([row.get(name, "") for name in COLUMNS]))
        except OSError as error:
            raise StorageError(f"cannot write the log {self.path}: {error}") from error


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        [round(c, 5) if isinstance(c, float) else c for c in cells]
    )
    return text.getvalue()


class Display:
    """One live line on a terminal; without one, a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, line: str, *, now: bool = False) -> None:
        """What is going on; replaces the line before."""
        if self._live:
            from rich.text import Text

            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif now or time.monotonic() >= self._next:
            self.say(line)
            self._next = time.monotonic() + _EVERY

    def say(self, line: str) -> None:
        """A line that stays."""
        say(self.console, line)


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def as_text(losses: Mapping[str, float]) -> str:
    """Losses by part, for a person."""
    unit = {"types": " nats"}
    return ", ".join(f"{name} {value:.3f}{unit.get(name, '')}" for name, value in losses.items())
