"""Stage 3: relax with a machine-learned potential; each crystal is recorded as it finishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.errors import HeliodorError
from ..core.ledger import Work
from ..core.records import Failure, Outcome, Reason, Relaxed, Stage, Status
from .context import Context, failed


@task(name="relax", retries=2, retry_delay_seconds=5, persist_result=False, cache_policy=NO_CACHE)
def relax(context: Context, work: Sequence[Work]) -> int:
    """Relax the claimed candidates; returns how many converged."""
    relaxer = context.relaxer
    if relaxer is None:
        raise RuntimeError("this campaign has no relaxer")
    waiting: dict[str, list[Work]] = {}
    for item in work:
        waiting.setdefault(item.candidate.key, []).append(item)
    record = context.provenance("relax", relaxer=relaxer.model, **getattr(relaxer, "provenance", {}))
    converged = 0
    try:
        for result in relaxer.relax([items[0].candidate.crystal for items in waiting.values()]):
            outcomes = [relax_outcome(item, result) for item in waiting.pop(result.key)]
            context.ledger.record(outcomes, record)
            converged += sum(o.status == Status.PASSED for o in outcomes)
            if context.stop.is_set():
                break
    except HeliodorError:
        if not context.stop.is_set():
            raise  # otherwise the relaxer was closed under us, because we are to stop
    return converged


def relax_outcome(item: Work, result: Relaxed | Failure) -> Outcome:
    """Converged: passed. Out of steps: failed, with what was reached."""
    if isinstance(result, Failure):
        return failed(item.slot, Stage.RELAX, result, item.attempt)
    data: dict[str, Any] = {
        "energy": result.energy,
        "max_force": result.max_force,
        "max_stress": result.max_stress,
        "steps": result.steps,
        "converged": result.converged,
        "model": result.model,
        "seconds": round(result.seconds, 3),
    }
    status = Status.PASSED if result.converged else Status.FAILED
    reason = None if result.converged else Reason.NOT_CONVERGED
    return Outcome(item.slot, Stage.RELAX, status, reason, item.attempt, data, result.crystal)


def relaxed_of(outcome: Outcome, key: str) -> Relaxed:
    """The relaxation that an outcome recorded."""
    if outcome.crystal is None:
        raise ValueError(f"slot {outcome.slot} has no relaxed crystal")
    data = outcome.data
    return Relaxed(
        key=key,
        crystal=outcome.crystal,
        energy=data["energy"],
        max_force=data["max_force"],
        max_stress=data["max_stress"],
        steps=data["steps"],
        converged=data["converged"],
        model=data["model"],
        seconds=data["seconds"],
    )
