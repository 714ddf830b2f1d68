"""How a campaign stands, for the terminal and for metrics: read from the ledger, without Prefect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.campaign import Campaign
from ..core.journal import Entry, Journal, Kind
from ..core.ledger import Ledger
from ..core.owner import in_words
from ..core.records import Stage
from ..report.model import Rate
from ..report.stats import wilson
from .approval import asked, decision
from .spending import Limit, is_sun, limits

_BEST = 5


@dataclass(frozen=True)
class BestCrystal:
    """A SUN crystal. Energies in eV/atom, by the potential; the second one signed, to the known hull."""

    slot: int
    formula: str
    energy_above_hull: float
    decomposition_energy: float


@dataclass(frozen=True)
class Standing:
    """A campaign at one moment.

    Args:
        sun: how many SUN crystals, of all proposed, at the campaign's own threshold.
        best: lowest first. owners: who works on it now, in words.
        waiting: what is asked of people; empty: nothing.
        told: notices of the last day, newest first.
    """

    sun: Rate
    limits: Sequence[Limit]
    best: Sequence[BestCrystal]
    owners: Sequence[str]
    waiting: str
    told: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "sun": {
                "count": self.sun.count,
                "n": self.sun.n,
                "low": self.sun.low,
                "high": self.sun.high,
            },
            "budget": [
                {"name": x.name, "spent": x.spent, "limit": x.limit, "left": x.left} for x in self.limits
            ],
            "best": [vars(crystal) for crystal in self.best],
            "owners": list(self.owners),
            "waiting": self.waiting,
            "told": list(self.told),
        }


def standing(ledger: Ledger, campaign: Campaign) -> Standing:
    """How the campaign stands now."""
    journal = Journal(ledger.database, ledger.campaign_id)
    threshold = campaign.select.max_energy_above_hull
    found = limits(campaign, ledger, journal)
    n = round(found[0].spent)
    best, count = _best(ledger, threshold)
    label = f"SUN, ≤ {threshold:g} eV/atom"
    return Standing(
        sun=Rate(label, count, n, *wilson(min(count, n), n)),
        limits=found,
        best=best,
        owners=sorted(in_words(owner) for owner in ledger.leases.active_owners()),
        waiting=_waiting(journal),
        told=_told(journal.entries(Kind.NOTICE)),
    )


def _best(ledger: Ledger, threshold: float) -> tuple[list[BestCrystal], int]:
    if Stage.ASSESS not in ledger.stages:
        return [], 0
    sun = [o for o in ledger.outcomes(Stage.ASSESS) if is_sun(o, threshold)]
    lowest = sorted(sun, key=lambda o: (o.data["hull"]["decomposition_energy"], o.slot))[:_BEST]
    candidates = ledger.candidates([o.slot for o in lowest])
    rows = [
        BestCrystal(
            o.slot,
            candidates[o.slot].crystal.formula,
            o.data["hull"]["energy_above_hull"],
            o.data["hull"]["decomposition_energy"],
        )
        for o in lowest
    ]
    return rows, len(sun)


def _waiting(journal: Journal) -> str:
    question = asked(journal)
    if question is None or decision(journal, question[0].digest) is not None:
        return ""
    return f"{len(question[0].crystals)} crystals wait for approval; {question[0].cost()}"


def _told(notices: Sequence[Entry]) -> list[str]:
    since = time.time() - 86400
    return [str(e.data["message"]) for e in reversed(notices) if "message" in e.data and e.at > since]
