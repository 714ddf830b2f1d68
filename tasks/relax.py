"""Stage 3: relax with a machine-learned potential; each crystal is recorded as it finishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.crystal import Crystal
from ..core.errors import HeliodorError
from ..core.ledger import Work
from ..core.protocols import Relaxer
from ..core.records import Failure, Outcome, Prepared, Reason, Relaxed, Stage, Status
from .context import Context, failed
from .spacegroups import as_data


@task(name="relax", retries=2, retry_delay_seconds=5, persist_result=False, cache_policy=NO_CACHE)
def relax(context: Context, work: Sequence[Work]) -> int:
    """Relax the claimed candidates; returns how many converged."""
    relaxer = context.relaxer
    if relaxer is None:
        raise RuntimeError("this campaign has no relaxer")
    waiting: dict[str, list[Work]] = {}
    for item in work:
        waiting.setdefault(item.candidate.key, []).append(item)
    hosts: Mapping[str, str] = getattr(relaxer, "hosts", {})
    converged = 0
    try:
        with context.meter.using(relaxer):
            for result in _results(context, [items[0].candidate.crystal for items in waiting.values()]):
                outcomes = [relax_outcome(item, result) for item in waiting.pop(result.key)]
                context.ledger.record(outcomes, _provenance(context, relaxer, hosts.get(result.key)))
                converged += sum(o.status == Status.PASSED for o in outcomes)
                if context.stop.is_set():
                    break
    except HeliodorError:
        if not context.stop.is_set():
            raise  # otherwise the relaxer was closed under us, because we are to stop
    return converged


def _provenance(context: Context, relaxer: Relaxer, host: str | None) -> tuple[str, dict[str, Any]]:
    """Where it ran: on this machine, or on the node of its job."""
    inputs = {"relaxer": relaxer.model, **getattr(relaxer, "provenance", {})}
    return context.provenance("relax", **inputs, **({"hostname": host} if host else {}))


def _results(context: Context, crystals: Sequence[Crystal]) -> Iterator[Relaxed | Failure]:
    if context.relaxer is None:
        raise RuntimeError("this campaign has no relaxer")
    if context.ceilings is None:
        return context.relaxer.relax(crystals)
    return context.relaxer.relax(crystals, context.ceilings(crystals))


def relax_outcome(item: Work, result: Relaxed | Failure) -> Outcome:
    """Converged: passed. Given up as hopeless: rejected. Out of steps: failed, with what was reached."""
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
        **as_data(result.crystal),
    }
    if result.prepared is not None:
        data["prepared"] = asdict(result.prepared)
    if result.converged:
        status, reason = Status.PASSED, None
    elif result.stopped:
        data["detail"] = result.stopped
        status, reason = Status.REJECTED, Reason.FAR_ABOVE_HULL
    else:
        status, reason = Status.FAILED, Reason.NOT_CONVERGED
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
        stopped=data.get("detail", ""),
        prepared=Prepared(**data["prepared"]) if "prepared" in data else None,
    )
