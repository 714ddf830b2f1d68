"""How much of its budget a campaign has spent, in all its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.campaign import Campaign, Prices
from ..core.journal import Journal
from ..core.ledger import Ledger
from ..core.records import AFTER_ROUNDS, Outcome, Reason, Stage

GPU_HOURS, NODE_HOURS, DFT_JOBS, MONEY = "gpu_hours", "node_hours", "dft_jobs", "money"
RESOURCES = {
    GPU_HOURS: "GPU hours",
    NODE_HOURS: "node hours",
    DFT_JOBS: "DFT calculations",
    MONEY: "money",
}
_ALMOST = 1e-9  # sums of many small amounts


@dataclass(frozen=True)
class Limit:
    """One limit of the budget.

    Args:
        name: its key in the campaign file. label: in words.
        limit: None: there is none, and it is only counted.
    """

    name: str
    label: str
    spent: float
    limit: float | None

    @property
    def left(self) -> float | None:
        """What may still be spent; None without a limit."""
        return None if self.limit is None else max(0.0, self.limit - self.spent)

    @property
    def reached(self) -> bool:
        """Whether nothing is left."""
        return self.limit is not None and self.spent >= self.limit - _ALMOST


def limits(campaign: Campaign, ledger: Ledger, journal: Journal) -> list[Limit]:
    """The limits that hold over all runs, and what is spent without one."""
    budget = campaign.budget
    found = [Limit("candidates", "candidates", proposed(ledger), budget.candidates)]
    if budget.sun is not None or budget.rounds_without_sun is not None:
        slots = sun_slots(ledger, campaign.select.max_energy_above_hull)
        found.append(Limit("sun", "SUN crystals", len(slots), budget.sun))
        if budget.rounds_without_sun is not None:
            done = range(rounds_done(ledger, budget.round_size) * budget.round_size)
            vain = rounds_without(slots, done, budget.round_size)
            name = "rounds_without_sun"
            found.append(Limit(name, "rounds without SUN", vain, budget.rounds_without_sun))
    found += resources(campaign, journal)
    return [item for item in found if item.limit is not None or item.spent > 0]


def resources(campaign: Campaign, journal: Journal) -> list[Limit]:
    """What costs something: hours, calculations and money."""
    spent = journal.spent()
    spent[MONEY] = cost(spent, campaign.budget.prices)
    return [
        Limit(name, label, spent.get(name, 0.0), getattr(campaign.budget, name))
        for name, label in RESOURCES.items()
    ]


def cost(spent: Mapping[str, float], prices: Prices) -> float:
    """Money, at the campaign's prices."""
    gpu, node = spent.get(GPU_HOURS, 0.0), spent.get(NODE_HOURS, 0.0)
    return gpu * prices.gpu_hour + node * prices.node_hour


def spent_up(campaign: Campaign, journal: Journal, *, dft: bool = True) -> str | None:
    """The first resource that is spent, in words; None while all last.

    Args:
        dft: whether the number of DFT calculations counts too.
    """
    for item in resources(campaign, journal):
        if item.reached and (dft or item.name != DFT_JOBS):
            return f"budget of {item.limit:g} {item.label} spent"
    return None


def proposed(ledger: Ledger) -> int:
    """How many proposals there are; the generator's end is none."""
    return sum(
        n
        for (stage, _, reason), n in ledger.counts().items()
        if stage == Stage.GENERATE and reason != Reason.EXHAUSTED
    )


def is_sun(outcome: Outcome, threshold: float) -> bool:
    """Stable within `threshold` (eV/atom), unique and novel, by an outcome of the assess stage."""
    data = outcome.data
    return (
        "hull" in data
        and data["hull"]["energy_above_hull"] <= threshold
        and data["uniqueness"]["passed"] is True
        and data["novelty"]["passed"] is True
    )


def sun_slots(ledger: Ledger, threshold: float) -> list[int]:
    """The slots of all SUN crystals, rising."""
    if Stage.ASSESS not in ledger.stages:
        return []
    return [o.slot for o in ledger.outcomes(Stage.ASSESS) if is_sun(o, threshold)]


def rounds_done(ledger: Ledger, round_size: int) -> int:
    """How many whole rounds have come to their end."""
    n = proposed(ledger)
    last = [stage for stage in ledger.stages if stage not in AFTER_ROUNDS][-1]
    done = 0
    while (done + 1) * round_size <= n:
        slots = range(done * round_size, (done + 1) * round_size)
        if ledger.unfinished(slots, last):
            break
        done += 1
    return done


def rounds_without(sun: list[int], slots: range, round_size: int) -> int:
    """How many of the rounds in `slots`, counted back from its end, found no SUN crystal."""
    rounds = -(-len(slots) // round_size)
    hits = [(slot - slots.start) // round_size for slot in sun if slot in slots]
    return rounds - 1 - max(hits, default=-1)
