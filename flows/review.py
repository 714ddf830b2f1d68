"""Looking closer at the finalists of a campaign that has ended: phonons, elasticity, second opinions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.campaign import Campaign, Review
from ..core.columns import Value
from ..core.errors import InputError
from ..core.ledger import Ledger, Work
from ..core.protocols import Scorer
from ..core.records import Outcome, Stage, Status
from ..core.settings import Settings
from ..tasks.context import Context
from ..tasks.outputs import write_outputs
from ..tasks.review import judged, score
from ..tasks.table import Record, records
from .assemble import assemble
from .build import remember

_BATCH = 5  # crystals scored and recorded at a time


@dataclass(frozen=True)
class Finalist:
    """A crystal that was looked at closer, with all its scores."""

    slot: int
    formula: str
    energy_above_hull: float
    scores: dict[str, Value]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "slot": self.slot,
            "formula": self.formula,
            "energy_above_hull": self.energy_above_hull,
            **self.scores,
        }


def review_finalists(
    ledger: Ledger,
    campaign: Campaign,
    folder: Path,
    asked: Review,
    settings: Settings,
    *,
    top: int,
    everything: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Finalist]:
    """Score the finalists anew, add the columns to the ledger, and write table and report again.

    What was scored before stays where nothing new is known. Finalists that have been scored so already
    are not computed again, so that a review that was stopped goes on.

    Args:
        asked: what to compute; `asked.within` says how far above the hull a finalist may lie.
        top: at most so many, lowest energy above hull first.
        everything: also crystals that are known, repeated or invalid.
        progress: told how many of how many are done.

    Raises:
        InputError: nothing was asked for, somebody is working on the campaign, or there are no
        finalists.
    """
    if not (asked.potentials or asked.phonons or asked.elastic):
        raise InputError("nothing to review", hint="ask for --phonons, --elastic or --potential NAME")
    if ledger.leases.active_owners():
        raise InputError(
            f"campaign '{campaign.name}' is being run", hint="wait until it has ended, or stop it"
        )
    chosen = finalists(list(records(ledger)), asked.within, top, everything=everything)
    if not chosen:
        kind = "crystals" if everything else "SUN crystals"
        raise InputError(
            f"there are no {kind} within {asked.within:g} eV/atom of the hull in {folder}",
            hint="--within allows more; --all takes known, repeated and invalid ones too",
        )
    context = assemble(campaign.model_copy(update={"review": asked}), folder, settings, probe=False)
    with context.resources:
        todo = [r for r in chosen if not _has_all(r, context.scorers)]
        for done, batch in _batches(todo):
            progress(done, len(todo))
            _record(context, batch)
        progress(len(todo), len(todo))
    whole = campaign.model_copy(update={"review": _united(campaign.review, asked)})
    remember(whole, folder)
    found = list(records(ledger))
    write_outputs(assemble(whole, folder, settings, probe=False), found)
    slots = [record.slot for record in chosen]
    by_slot = {record.slot: record for record in found}
    return [_finalist(by_slot[slot]) for slot in slots]


def finalists(found: Sequence[Record], within: float, top: int, *, everything: bool) -> list[Record]:
    """The reviewed crystals to look at closer, lowest energy above hull first."""
    able = [
        (record.hull["energy_above_hull"], record.slot, record)
        for record in found
        if record.review is not None and record.hull is not None
        if record.hull["energy_above_hull"] <= within and (everything or record.sun(within))
    ]
    return [record for _, _, record in sorted(able, key=lambda item: item[:2])[:top]]


def _record(context: Context, batch: Sequence[Record]) -> None:
    """Score and append: the old scores, overwritten where something new is known."""
    work = [
        Work(record.slot, record.candidate, record.review, record.review.attempt + 1)
        for record in batch
        if record.candidate is not None and record.review is not None
    ]
    scores = score(context.scorers, judged(context.ledger, work))
    outcomes = [
        Outcome(
            item.slot, Stage.REVIEW, Status.PASSED, None, item.attempt, {"scores": _merged(old, new)}
        )
        for item, old, new in zip(work, (record.scores for record in batch), scores, strict=True)
    ]
    names = [scorer.name for scorer in context.scorers]
    context.ledger.record(outcomes, context.provenance("review", scorers=names))


def _merged(old: dict[str, Value], new: dict[str, Value]) -> dict[str, Value]:
    return {
        **old,
        **{name: value for name, value in new.items() if value is not None or name not in old},
    }


def _has_all(record: Record, scorers: Sequence[Scorer]) -> bool:
    """Whether each scorer has said something of it."""
    return all(
        any(record.scores.get(column.name) is not None for column in scorer.columns)
        and all(column.name in record.scores for column in scorer.columns)
        for scorer in scorers
    )


def _batches(items: Sequence[Record]) -> Iterator[tuple[int, Sequence[Record]]]:
    for begin in range(0, len(items), _BATCH):
        yield begin, items[begin : begin + _BATCH]


def _united(before: Review, asked: Review) -> Review:
    """So that the tables describe the columns of both."""
    return before.model_copy(
        update={
            "phonons": before.phonons or asked.phonons,
            "elastic": before.elastic or asked.elastic,
            "potentials": tuple(dict.fromkeys((*before.potentials, *asked.potentials))),
        }
    )


def _finalist(record: Record) -> Finalist:
    crystal, hull = record.crystal, record.hull
    if crystal is None or hull is None:
        raise ValueError(f"slot {record.slot} was not judged")
    return Finalist(record.slot, crystal.formula, hull["energy_above_hull"], record.scores)
