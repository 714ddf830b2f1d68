"""What a campaign shows in the Prefect UI while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from ..core.records import AFTER_ROUNDS
from .context import Context
from .report_funnel import funnel
from .table import Record, count

_EVERY = 10  # seconds between updates: each is a request to the server


def publish(context: Context, found: Sequence[Record]) -> None:
    """Show the funnel and the counts of the records in the Prefect UI."""
    steps = funnel(found, context.ledger.stages, context.campaign.select.max_energy_above_hull)
    table = [
        {
            "step": step.label,
            "crystals": step.count,
            "dropped": ", ".join(f"{n} {why}" for why, n in step.dropped.items()),
            "failed": ", ".join(f"{n} {why}" for why, n in step.failed.items()),
        }
        for step in steps
    ]
    create_table_artifact(
        table, key="funnel", description=f"Campaign {context.campaign.name}: the funnel"
    )
    summary = count(found).summary()
    done, budget = summary["n"], context.campaign.budget.candidates
    lines = [
        f"**{done:,} of {budget:,} candidates**",
        "",
        "| count | of all | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for name, rate in summary["rates"].items():
        share = f"{rate['rate']:.1%}" if rate["rate"] is not None else "-"
        lines.append(f"| {name}: {summary[name]} | {share} | {rate['low']:.1%} to {rate['high']:.1%} |")
    create_markdown_artifact(
        "\n".join(lines), key="progress", description=f"Campaign {context.campaign.name}"
    )


class Progress:
    """A progress bar in the Prefect UI: candidates that came to their end, of the budget."""

    def __init__(self, context: Context) -> None:
        self._context = context
        key = f"{context.campaign.name.lower().replace('.', '-').replace('_', '-')}-progress"
        created = create_progress_artifact(0.0, key=key, description="candidates judged")
        self._artifact = cast("UUID", created)  # Prefect's signature covers its asynchronous form too
        self._shown = time.monotonic()

    def show(self, slots: range) -> None:
        """Bring the bar up to date, at most every ten seconds."""
        if time.monotonic() - self._shown < _EVERY:
            return
        self._shown = time.monotonic()
        context = self._context
        last = [stage for stage in context.ledger.stages if stage not in AFTER_ROUNDS][-1]
        done = slots.stop - context.ledger.unfinished(slots, last)
        update_progress_artifact(self._artifact, 100 * done / context.campaign.budget.candidates)


def publish_report(context: Context) -> None:
    """Link the report."""
    create_link_artifact(
        (context.folder / "report.html").resolve().as_uri(),
        key="report",
        link_text="report.html",
        description=f"Campaign {context.campaign.name}: the report",
    )
