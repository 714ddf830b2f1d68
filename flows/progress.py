"""The live funnel: what `heliodor status` shows and `heliodor run` keeps on the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..core.errors import StorageError
from ..core.ledger import Ledger
from ..core.records import AFTER_ROUNDS, Reason, Stage, Status
from ..report.stats import wilson

_LABELS = {
    Stage.GENERATE: "proposed",
    Stage.SCREEN: "valid, unique, novel",
    Stage.RELAX: "relaxed",
    Stage.ASSESS: "judged against the hull",
    Stage.REVIEW: "reviewed",
    Stage.DFT: "DFT inputs written",
    Stage.VERIFY: "stable by DFT",
}
_REFRESH = 1.0  # seconds


@dataclass
class Snapshot:
    """Counts of a campaign at one moment, by stage. `budget` is 0 where the input decides how many."""

    budget: int
    passed: dict[Stage, int] = field(default_factory=dict)
    rejected: dict[Stage, dict[str, int]] = field(default_factory=dict)
    failed: dict[Stage, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, ledger: Ledger, budget: int) -> Snapshot:
        """Read the counts from the ledger."""
        counts = ledger.counts()
        begun = {stage for stage, _, _ in counts}
        # Verdicts may come weeks later, from another machine: no line before there is one.
        stages = [s for s in ledger.stages if s != Stage.VERIFY or s in begun]
        found = cls(budget, dict.fromkeys(stages, 0), {s: {} for s in stages}, {s: {} for s in stages})
        for (stage, status, reason), n in counts.items():
            if reason == Reason.EXHAUSTED or stage not in found.passed:
                continue
            if status == Status.PASSED:
                found.passed[stage] += n
            else:
                side = found.rejected if status == Status.REJECTED else found.failed
                side[stage][reason.value if reason else "unknown"] = n
        return found

    def done(self, stage: Stage) -> int:
        """How many came to an end at the stage, in whatever way."""
        return self.passed[stage] + sum(self.rejected[stage].values()) + sum(self.failed[stage].values())

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "stages": {
                stage.value: {
                    "passed": self.passed[stage],
                    "rejected": self.rejected[stage],
                    "failed": self.failed[stage],
                }
                for stage in self.passed
            },
        }

    def table(self) -> Table:
        """The funnel as a table."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("stage")
        table.add_column("passed", justify="right")
        table.add_column("rejected", justify="right")
        table.add_column("failed", justify="right")
        table.add_column("passed of all, 95 %", justify="right")
        table.add_column("why", style="dim")
        for stage, passed in self.passed.items():
            reasons = {**self.rejected[stage], **self.failed[stage]}
            why = ", ".join(
                f"{n} {r.replace('_', ' ')}" for r, n in sorted(reasons.items(), key=lambda kv: -kv[1])
            )
            table.add_row(
                _LABELS[stage],
                f"{passed:,}",
                f"{sum(self.rejected[stage].values()):,}",
                f"{sum(self.failed[stage].values()):,}",
                _rate(passed, self.done(Stage.GENERATE)),
                why,
            )
        return table

    def line(self) -> str:
        """The funnel in one line, for logs."""
        return "  ".join(f"{_LABELS[stage]} {n:,}" for stage, n in self.passed.items())


def _rate(passed: int, n: int) -> str:
    if n == 0:
        return ""
    low, high = wilson(min(passed, n), n)
    return f"{passed / n:.1%} ({low:.1%} to {high:.1%})"


@contextmanager
def live(ledger: Ledger, budget: int, console: Console) -> Iterator[None]:
    """Keep the funnel on the screen while the body runs; without a terminal, a line now and then."""
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(ledger, budget, console, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(ledger: Ledger, budget: int, console: Console, done: threading.Event) -> None:
    started = time.monotonic()
    if not console.is_terminal:
        while not done.wait(15):
            if (snapshot := _snapshot(ledger, budget)) is not None:
                console.print(f"{time.monotonic() - started:5.0f} s  {snapshot.line()}", soft_wrap=True)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as screen:
        while not done.wait(_REFRESH):
            if (snapshot := _snapshot(ledger, budget)) is not None:
                screen.update(Group(bar(snapshot, time.monotonic() - started), snapshot.table()))


def bar(snapshot: Snapshot, seconds: float) -> Progress:
    """One bar: candidates that came to their end, of the budget."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        TextColumn("{task.completed:,} of {task.total:,} candidates"),
        TextColumn(f"{seconds:.0f} s", style="dim"),
    )
    stages = [s for s in snapshot.passed if s not in AFTER_ROUNDS]
    last = stages[-1]
    ended = snapshot.done(last)
    for stage in stages[:-1]:
        ended += snapshot.done(stage) - snapshot.passed[stage]
    total = max(snapshot.budget, snapshot.done(Stage.GENERATE))
    progress.add_task("campaign", total=total, completed=ended)
    return progress


def _snapshot(ledger: Ledger, budget: int) -> Snapshot | None:
    try:
        return Snapshot.of(ledger, budget)
    except StorageError:  # a busy or lost database: the run itself will say so
        return None
