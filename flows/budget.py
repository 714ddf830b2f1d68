"""When a campaign ends: the first limit of its budget that is reached, over all its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ..cluster.settings import Resources
from ..core.campaign import Budget
from ..core.journal import Journal, Kind
from ..tasks.context import Context
from ..tasks.meter import HOUR
from ..tasks.spending import GPU_HOURS, NODE_HOURS, rounds_without, spent_up, sun_slots


def rounds(budget: Budget) -> Iterator[range]:
    """The slots of each round."""
    for begin in range(0, budget.candidates, budget.round_size):
        yield range(begin, min(begin + budget.round_size, budget.candidates))


def why_stop(context: Context, started: float, slots: range) -> str | None:
    """Whether a limit other than the number of candidates was reached, in words.

    The number of DFT calculations ends no rounds: it limits what comes after them.

    Args:
        started: `time.monotonic()` of this run. slots: of the round that has just ended.
    """
    budget = context.campaign.budget
    if (slot := context.ledger.exhausted_at()) is not None:
        return f"{context.generator.name} had nothing more to propose after {slot} crystals"
    if budget.hours is not None and time.monotonic() - started >= budget.hours * HOUR:
        return f"budget of {budget.hours:g} hours spent"
    context.meter.beat()
    if reason := spent_up(context.campaign, context.journal, dft=False):
        return reason
    return _by_sun(context, slots)


def _by_sun(context: Context, slots: range) -> str | None:
    budget = context.campaign.budget
    if budget.sun is None and budget.rounds_without_sun is None:
        return None
    found = sun_slots(context.ledger, context.campaign.select.max_energy_above_hull)
    if budget.sun is not None and len(found) >= budget.sun:
        return f"{len(found)} SUN crystals found"
    vain = rounds_without(found, range(slots.stop), budget.round_size)
    if budget.rounds_without_sun is not None and vain >= budget.rounds_without_sun:
        return f"{vain} rounds in a row without a new SUN crystal"
    return None


def job_spent(journal: Journal) -> Callable[[str, float, Resources], None]:
    """Tells the journal what a job on the cluster cost: `(job, seconds, resources)`.

    `job` must differ between submissions of the same work (name and the scheduler's id): told again, it
    is not counted again.
    """

    def tell(job: str, seconds: float, resources: Resources) -> None:
        hours = resources.nodes * seconds / HOUR
        amounts = {NODE_HOURS: hours}
        if resources.gpus:
            amounts[GPU_HOURS] = hours * resources.gpus
        journal.add(Kind.SPENT, f"job {job}"[:128], amounts)

    return tell
