"""Stages 5 and 6: select the best SUN crystals and write their DFT calculations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.ledger import Work
from ..core.records import DftTicket, Failure, Outcome, Stage, Status
from .context import Context, failed
from .relax import relaxed_of


@task(
    name="dft inputs",
    tags=["dft"],
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def prepare_dft(context: Context, work: Sequence[Work]) -> int:
    """Write the calculation of each claimed crystal; returns how many were written."""
    if context.dft is None:
        raise RuntimeError("this campaign has no DFT engine")
    relaxed = context.ledger.outcomes(Stage.RELAX, [item.slot for item in work])
    crystals = {o.slot: relaxed_of(o, "").crystal for o in relaxed}
    results = context.dft.prepare([crystals[item.slot] for item in work], context.folder / "dft")
    outcomes = []
    for item, result in zip(work, results, strict=True):
        if isinstance(result, Failure):
            outcomes.append(failed(item.slot, Stage.DFT, result, item.attempt))
        else:
            outcomes.append(
                Outcome(item.slot, Stage.DFT, Status.PASSED, None, item.attempt, asdict(result))
            )
    context.ledger.record(outcomes, context.provenance("dft", engine=context.dft.name))
    written = [o for o in context.ledger.outcomes(Stage.DFT) if o.status == Status.PASSED]
    context.dft.write_manifest([DftTicket(**o.data) for o in written], context.folder / "dft")
    return sum(o.status == Status.PASSED for o in outcomes)
