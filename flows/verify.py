"""DFT verdicts on the best crystals of a campaign, each on a hull at its own level of theory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from prefect.futures import PrefectFuture

from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, parse_formula
from ..core.ledger import Work
from ..core.records import DftResult, Failure, Outcome, Reason, Stage
from ..tasks.context import Context
from ..tasks.relax import relaxed_of
from ..tasks.verify import (
    Competitor,
    Plan,
    calculator,
    competing,
    compute,
    dft_reference,
    distinct,
    on_reference_hull,
    record_verdict,
)
from ..validators.uniqueness import Uniqueness
from .known_structures import KnownStructures
from .parameters import as_is

_POLL = 0.2  # seconds: far below the time of a calculation
_FOLDER = "dft"

Progress = Callable[[int, int], None]


def verify_plans(
    context: Context, plans: list[Plan], progress: Progress = lambda _done, _all: None
) -> list[Outcome]:
    """Compute and judge the crystals; a verdict is recorded as soon as it stands.

    None is recorded of a crystal whose calculations run elsewhere and have not come back.

    Args:
        progress: told how many of how many calculations have ended.
    """
    waiting = distinct(plans)
    calculator(context).write_manifest(waiting, context.folder / _FOLDER)
    n_all = len(waiting)
    cluster = context.cluster
    width = cluster.in_flight if cluster is not None and cluster.dft_elsewhere else context.workers
    ended: dict[str, DftResult | Failure] = {}
    running: dict[str, PrefectFuture[DftResult | Failure | None]] = {}
    done: deque[PrefectFuture[DftResult | Failure | None]] = deque()
    outcomes: list[Outcome] = []
    while True:
        for plan in [p for p in plans if p.ready(ended)]:
            outcomes.append(record_verdict(context, plan, ended))
            plans.remove(plan)
        progress(len(ended), n_all)
        needed = {ticket.input_digest for plan in plans for ticket in plan.tickets}
        waiting = [t for t in waiting if t.input_digest in needed and t.input_digest not in ended]
        if context.stop.is_set() or not (running or waiting):
            return outcomes
        for ticket in waiting:
            if len(running) < width and ticket.input_digest not in running:
                future = compute.submit(as_is(context), as_is(ticket))
                running[ticket.input_digest] = future
                # By its thread: a future's `state` would ask the server at each look.
                future.add_done_callback(done.append)
        time.sleep(_POLL)
        for _ in range(len(done)):
            future = done.popleft()
            digest = next(d for d, found in running.items() if found is future)
            result = running.pop(digest).result()
            if result is not None:
                ended[digest] = result
            else:  # it runs elsewhere and has not come back, or the campaign is to stop
                waiting = [ticket for ticket in waiting if ticket.input_digest != digest]


def make_plans(context: Context, work: Sequence[Work]) -> list[Plan]:
    """What must be computed for each claimed crystal; folders of all calculations are written."""
    known = KnownStructures(context)
    slots = [item.slot for item in work]
    relaxed = {o.slot: relaxed_of(o, "").crystal for o in context.ledger.outcomes(Stage.RELAX, slots)}
    hulls = {o.slot: o.data["hull"] for o in context.ledger.outcomes(Stage.ASSESS, slots)}
    plans = []
    for item in work:
        crystal, hull = relaxed[item.slot], hulls[item.slot]
        [ticket] = calculator(context).prepare([crystal], context.folder / _FOLDER, crystal.elements)
        # No need to compute what a crystal competes with where the crystal itself cannot be computed, or
        # where the reference has it.
        phases = [] if isinstance(ticket, Failure) else competing(hull, crystal)
        level = calculator(context).level(crystal.elements) if phases else None
        if level and on_reference_hull(level, dft_reference(context)):
            phases = []
        competitors = tuple(_competitor(context, known, f, m, crystal) for f, m in phases)
        plans.append(Plan(item, crystal, hull, ticket, competitors))
    return plans


def _competitor(
    context: Context, known: KnownStructures, formula: str, material_id: str, crystal: Crystal
) -> Competitor:
    """A phase on the crystal's hull. It must not be the crystal itself, found again."""
    composition = tuple(sorted((ATOMIC_NUMBERS[s], n) for s, n in parse_formula(formula)))
    structure = known.find(material_id, composition)
    if structure is None:
        detail = "no structure is at hand; a reference of kind mp or file has them"
    elif _same(structure.crystal, crystal):
        detail = "the only structure at hand is the crystal itself"
    else:
        [ticket] = calculator(context).prepare(
            [structure.crystal], context.folder / _FOLDER, crystal.elements
        )
        return Competitor(material_id, formula, structure.origin, ticket, len(structure.crystal))
    return Competitor(material_id, formula, "", Failure("", Reason.NO_COMPETITORS, detail))


def _same(a: Crystal, b: Crystal) -> bool:
    """Whether the matcher calls them equal."""
    if a.reduced_composition != b.reduced_composition:
        return False
    first, second = Uniqueness().check([a, b])
    return first.passed is True and second.passed is False
