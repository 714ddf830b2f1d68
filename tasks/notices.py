"""Events that people are told about, each once per campaign, however often it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from ..core.journal import Kind
from ..core.records import AFTER_ROUNDS, Reason, Stage, Status
from .context import Context
from .spending import is_sun

SUN_FOUND = "heliodor.sun.found"
BUDGET_SPENT = "heliodor.budget.spent"
FAILURES_JUMPED = "heliodor.failures.jumped"
APPROVAL_WANTED = "heliodor.approval.wanted"
ALARM = 1e-3
"""Probability below which a difference between rounds is not taken for chance."""
ALARMING = 0.2
"""Share of failures below which nobody is told, however rare failures were before."""
EVENTS = (SUN_FOUND, BUDGET_SPENT, FAILURES_JUMPED, APPROVAL_WANTED)


def tell(context: Context, event: str, about: str, message: str, facts: Mapping[str, Any]) -> bool:
    """Emit an event, unless it was told before; whether it was news.

    The journal is written first: a process that is killed in between has told nobody, and nobody is told
    twice.

    Args:
        about: what distinguishes it from others of its kind. message: one sentence for people.
    """
    if not context.journal.add(Kind.NOTICE, f"{event} {about}"[:128], {"message": message, **facts}):
        return False
    emit(context, event, message, facts)
    return True


def emit(context: Context, event: str, message: str, facts: Mapping[str, Any]) -> None:
    """Send an event about the campaign to the Prefect server; without one, nothing happens."""
    name = context.campaign.name
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"heliodor.campaign.{name}",
            "prefect.resource.name": name,
            "heliodor.message": message[:500],
        },
        payload={"message": message, "folder": str(context.folder), **facts},
    )


def tell_the_end(context: Context, ended: str) -> None:
    """That the campaign's budget is spent; a budget that was raised is spent anew."""
    tell(context, BUDGET_SPENT, ended, f"{context.campaign.name} has ended: {ended}", {"ended": ended})


def failures_jumped(failed: int, n: int, failed_before: int, n_before: int) -> float | None:
    """The share of failures, where it is far above what it was; else None.

    By Fisher's exact test, one-sided: both shares are counts, and the earlier one may rest on few
    crystals, so that a binomial test against it would cry wolf. Without anything before there is
    nothing to compare with.

    Args:
        failed, n: of the last round. failed_before, n_before: of all rounds before it.
    """
    from scipy.stats import hypergeom

    if n == 0 or n_before == 0 or failed / n <= ALARMING:
        return None
    # At least so many of all failures in the last round, were they spread by chance.
    chance = hypergeom.sf(failed - 1, n + n_before, failed + failed_before, n)
    return failed / n if chance < ALARM else None


def tell_of_crystals(context: Context, slots: range) -> None:
    """The SUN crystals among `slots` whose energy is on or below the known hull."""
    if Stage.ASSESS not in context.ledger.stages:
        return
    for outcome in context.ledger.outcomes(Stage.ASSESS, slots):
        if not is_sun(outcome, 0.0):
            continue
        candidate = context.ledger.candidates([outcome.slot])[outcome.slot]
        formula, hull = candidate.crystal.formula, outcome.data["hull"]
        energy = hull["decomposition_energy"]
        message = (
            f"{formula} (slot {outcome.slot}): {energy:+.3f} eV/atom to the known hull, {hull['level']}"
        )
        facts = {"slot": outcome.slot, "formula": formula, "decomposition_energy": energy}
        tell(context, SUN_FOUND, candidate.key, message, facts)


def tell_of_failures(context: Context, slots: range) -> None:
    """Whether far more has failed in the round that has just ended than before."""
    failed, n = _failed(context, slots)
    if n == 0 or failed / n <= ALARMING:
        return
    share = failures_jumped(failed, n, *_failed(context, range(slots.start)))
    if share is None:
        return
    message = f"{failed} of {n} candidates failed in the last round"
    facts = {"failed": failed, "n": n, "share": share}
    tell(context, FAILURES_JUMPED, f"{slots.start}-{slots.stop}", message, facts)


def _failed(context: Context, slots: range) -> tuple[int, int]:
    """How many of the proposals failed at any stage of the rounds, and how many there are."""
    if not slots:
        return 0, 0
    failed, n = 0, 0
    for (stage, status, reason), number in context.ledger.counts(slots).items():
        if stage in AFTER_ROUNDS or reason == Reason.EXHAUSTED:
            continue
        failed += number if status == Status.FAILED else 0
        n += number if stage == Stage.GENERATE else 0
    return failed, n
