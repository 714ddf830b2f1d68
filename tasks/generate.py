"""Stage 1: the generator's stream becomes candidates in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.errors import HeliodorError
from ..core.records import Candidate, Failure, Origin, Reason
from .context import Context, log

_FLUSH = 25  # proposals recorded together: what a kill can cost


@task(
    name="generate",
    tags=["cpu"],
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def generate(context: Context, slots: Sequence[int]) -> int:
    """Propose crystals for the claimed slots; returns how many were recorded."""
    inputs = {"generator": context.generator.name, **getattr(context.generator, "provenance", {})}
    hosts: Mapping[int, str] = getattr(context.generator, "hosts", {})  # of the nodes of its jobs
    count = 0

    def add(items: list[tuple[int, Candidate | Failure]]) -> None:
        for host, group in groupby(items, key=lambda item: hosts.get(item[0])):
            where = {"hostname": host} if host else {}
            context.ledger.add(list(group), context.provenance("generate", **inputs, **where))

    with context.meter.using(context.generator):
        for run in _runs(slots):
            buffer: list[tuple[int, Candidate | Failure]] = []
            for item in _stream(context, run):
                buffer.append(item)
                if len(buffer) >= _FLUSH:
                    add(buffer)
                    count += len(buffer)
                    buffer = []
                if context.stop.is_set():
                    break
            add(buffer)
            count += len(buffer)
    return count


def _runs(slots: Sequence[int]) -> Iterator[range]:
    """Consecutive slots as ranges."""
    for _, group in groupby(enumerate(slots), key=lambda pair: pair[1] - pair[0]):
        run = [slot for _, slot in group]
        yield range(run[0], run[-1] + 1)


def _stream(context: Context, run: range) -> Iterator[tuple[int, Candidate | Failure]]:
    campaign, generator = context.campaign, context.generator
    slot = run.start

    def fault(reason: Reason, detail: str) -> tuple[int, Failure]:
        origin = Origin(generator.name, "", campaign.seed, slot)
        return slot, Failure("", reason, detail, origin)

    stream = generator.generate(
        len(run), seed=campaign.seed, conditions=campaign.space.conditions(), start=run.start
    )
    while slot < run.stop:
        try:
            item = next(stream, None)
        except HeliodorError:
            raise
        except Exception as error:  # a third party's generator: the campaign goes on without this slot
            log.exception("generator %s failed at slot %d", generator.name, slot)
            yield fault(Reason.GENERATION, f"{type(error).__name__}: {error}")
            slot += 1
            stream = generator.generate(
                run.stop - slot, seed=campaign.seed, conditions=campaign.space.conditions(), start=slot
            )
            continue
        if item is None:
            yield fault(Reason.EXHAUSTED, f"{generator.name} has nothing more to propose")
            return
        yield slot, item
        slot += 1
