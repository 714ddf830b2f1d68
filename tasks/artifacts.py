"""What a campaign shows in the Prefect UI while it runs: artifacts whose keys begin with its name."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from ..core.records import AFTER_ROUNDS, Reason, Stage, Status
from ..report.markdown import best_text, budget_text, failures_text, funnel_text
from ..report.model import BudgetRow
from .context import Context
from .report_crystals import crystal_rows
from .report_data import failure_rows, rates_of
from .report_funnel import funnel
from .report_hulls import hull_diagrams
from .shortlist import shortlist
from .spending import limits
from .table import Record

_EVERY = 10.0  # seconds between updates of a bar: each is a request to the server
_BEST = 12  # crystals
_BARS = {
    Stage.GENERATE: "proposed",
    Stage.RELAX: "relaxed",
    Stage.REVIEW: "phonons, elasticity, second opinions",
}


def publish(context: Context, found: Sequence[Record], ended: str = "") -> None:
    """Show funnel, best crystals, budget and failures, as the records have them."""
    campaign = context.campaign
    name, threshold = campaign.name, campaign.select.max_energy_above_hull
    steps = funnel(found, context.ledger.stages, threshold, keep=campaign.screen.keep_rejected)
    best = [item.record for item in shortlist(found, threshold, _BEST)]
    rows = crystal_rows((), best, threshold)
    spent = limits(campaign, context.ledger, context.journal)
    texts = {
        "funnel": funnel_text(f"{name}: the funnel", steps, rates_of(found)),
        "best": best_text(f"{name}: the best crystals", rows, hull_diagrams(context, best)),
        "budget": budget_text(
            f"{name}: the budget", [BudgetRow(x.label, x.spent, x.limit) for x in spent], ended
        ),
        "failures": failures_text(f"{name}: failures", failure_rows(found)),
    }
    for kind, text in texts.items():
        create_markdown_artifact(text, key=key_of(name, kind), description=f"Campaign {name}: {kind}")


def publish_report(context: Context) -> None:
    """Link the report."""
    name = context.campaign.name
    create_link_artifact(
        (context.folder / "report.html").resolve().as_uri(),
        key=key_of(name, "report"),
        link_text="report.html",
        description=f"Campaign {name}: the report",
    )


def key_of(name: str, kind: str) -> str:
    """An artifact's key: Prefect takes small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", f"{name}-{kind}".lower())


class Bar:
    """A progress bar in the Prefect UI: there once something is to be done, then brought up to date at
    most every ten seconds.

    Args:
        name: of what is done. kind: which of its bars this is. description: what fills it.
    """

    def __init__(self, name: str, kind: str, description: str) -> None:
        self._key, self._description = key_of(name, f"progress-{kind}"), description
        self._artifact: UUID | None = None
        self._shown, self._percent = 0.0, 0.0

    def show(self, done: float, total: float) -> None:
        """So much of so much is done."""
        if not total:
            return
        percent, now = 100.0 * min(1.0, done / total), time.monotonic()
        if self._artifact is None:
            made = create_progress_artifact(percent, key=self._key, description=self._description)
            self._artifact = cast("UUID", made)  # Prefect's signature covers its asynchronous form too
        elif percent == self._percent or (now - self._shown < _EVERY and percent != 100.0):
            return
        else:
            update_progress_artifact(self._artifact, percent)
        self._shown, self._percent = now, percent


class Progress:
    """A bar for each long stage of the rounds: candidates that are through it, of the budget."""

    def __init__(self, context: Context) -> None:
        self._context = context
        name, review = context.campaign.name, context.campaign.review
        deep = review.phonons or review.elastic or review.potentials
        self._bars = {
            stage: Bar(name, stage.value, f"Campaign {name}: {label}")
            for stage, label in _BARS.items()
            if stage in context.ledger.stages and (stage != Stage.REVIEW or deep)
        }
        self.show_now()

    def show(self, _slots: range) -> None:
        """Bring the bars up to date, at most every ten seconds."""
        if time.monotonic() - self._shown >= _EVERY:
            self.show_now()

    def show_now(self) -> None:
        """Bring the bars up to date."""
        self._shown = time.monotonic()
        through = self._through()
        for stage, bar in self._bars.items():
            bar.show(through[stage], self._context.campaign.budget.candidates)

    def _through(self) -> dict[Stage, int]:
        """How many candidates need the stage no more: they ended at it, or before."""
        stages = [stage for stage in self._context.ledger.stages if stage not in AFTER_ROUNDS]
        ended, passed = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
        for (stage, status, reason), n in self._context.ledger.counts().items():
            if stage in ended and reason != Reason.EXHAUSTED:
                (passed if status == Status.PASSED else ended)[stage] += n
        lost, found = 0, {}
        for stage in stages:
            lost += ended[stage]
            found[stage] = lost + passed[stage]
        return found


def dft_bar(context: Context) -> Bar:
    """The bar of the calculations that have ended."""
    name = context.campaign.name
    return Bar(name, "dft", f"Campaign {name}: DFT calculations")
