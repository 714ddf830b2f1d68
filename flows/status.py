"""`heliodor status`: funnel, budget, best crystals and who works on them, in the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..cluster.job_folder import END, STARTED, WORK
from ..core.errors import StorageError
from ..core.settings import load_settings
from ..report.markdown import amount, bar
from ..tasks.standing import Standing, standing
from .build import reopen
from .progress import Snapshot

_EVERY = 2.0  # seconds between looks


class Status:
    """What `heliodor status` shows of a campaign.

    Args:
        folder: of the campaign.

    Raises:
        InputError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ledger, self._campaign = reopen(folder, load_settings())

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self._campaign.name,
            **self._snapshot().as_dict(),
            **standing(self._ledger, self._campaign).as_dict(),
            "jobs": jobs_in_flight(self._folder),
        }

    def show(self, console: Console) -> None:
        """Show it once."""
        console.print(self._text())

    def watch(self, console: Console) -> None:
        """Show it again and again, until Ctrl-C."""
        with Live(self._text(), console=console) as display:
            while True:
                time.sleep(_EVERY)
                try:
                    display.update(self._text())
                except StorageError as error:  # a busy or lost database: the next look tries again
                    display.update(f"{escape(str(error))}")

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._ledger, self._campaign.budget.candidates)

    def _text(self) -> RenderableType:
        now = standing(self._ledger, self._campaign)
        parts: list[RenderableType] = [
            f"[bold]{escape(self._campaign.name)}[/]",
            self._snapshot().table(),
        ]
        parts += [_budget(now), _best(now)]
        for owner in now.owners or ["nobody"]:
            parts.append(f"[dim]at work:[/] {escape(owner)}")
        if jobs := jobs_in_flight(self._folder):
            parts.append(f"[dim]jobs:[/] {jobs['running']} running, {jobs['waiting']} waiting")
        if now.waiting:
            command = f"heliodor approve {self._folder}"
            parts.append(f"[yellow]{escape(now.waiting)}[/]\n[dim]answer with:[/] {escape(command)}")
        parts += [f"[dim]told:[/] {escape(message)}" for message in now.told[:3]]
        return Group(*parts)


def jobs_in_flight(folder: Path) -> dict[str, int]:
    """How many job folders inside the campaign's wait or run; empty: it has none.

    By the files alone: a job that died, and that nobody has looked at since, still counts.
    """
    jobs = [path.parent for path in (folder / "jobs").glob(f"*/{WORK}")]
    if not jobs:
        return {}
    going = [job for job in jobs if not (job / END).exists()]
    running = sum((job / STARTED).exists() for job in going)
    return {"running": running, "waiting": len(going) - running, "ended": len(jobs) - len(going)}


def _budget(now: Standing) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("budget", "spent", "of", "left", "burnt down"):
        table.add_column(name, justify="left" if name in ("budget", "burnt down") else "right")
    for row in now.limits:
        limited = row.limit is not None and row.left is not None
        share = min(1.0, row.spent / row.limit) if row.limit else 0.0
        of, left = (amount(row.limit), amount(row.left)) if limited else ("no limit", "")  # type: ignore[arg-type]
        table.add_row(
            row.label, amount(row.spent), of, left, f"{bar(share)} {share:.0%}" if limited else ""
        )
    return table


def _best(now: Standing) -> RenderableType:
    rate = now.sun
    line = f"{rate.label}: {rate.count:,} of {rate.n:,}, {rate.low:.1%} to {rate.high:.1%}"
    if not now.best:
        return line
    table = Table(box=None, pad_edge=False, header_style="dim", title=line, title_justify="left")
    for name in ("slot", "crystal", "eV/atom above hull", "to the known hull"):
        table.add_column(name, justify="left" if name == "crystal" else "right")
    for c in now.best:
        above, signed = f"{c.energy_above_hull:.3f}", f"{c.decomposition_energy:+.3f}"
        table.add_row(str(c.slot), c.formula, above, signed)
    return table
