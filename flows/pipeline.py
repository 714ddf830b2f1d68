"""Runs the stages of a range of slots side by side, batch by batch, until nothing is left to do."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prefect.futures import PrefectFuture

from ..cluster.settings import Cluster
from ..core.ledger import Work
from ..core.records import AFTER_ROUNDS, Stage
from ..tasks.assess import assess
from ..tasks.context import Context
from ..tasks.generate import generate
from ..tasks.relax import relax
from ..tasks.review import review
from ..tasks.screen import screen
from .parameters import as_is

_POLL = 0.1  # seconds between looks at what runs: far below the time of one batch

GENERATE_BATCH = 50  # more where the generator makes more side by side
SCREEN_BATCH = 200  # milliseconds each: what a kill costs is little
ASSESS_BATCH = 200
REVIEW_BATCH = 50
RELAX_BATCH_PER_WORKER = 8
JOBS = 100  # tasks of a stage that wait for jobs; where more may be in flight, a task has several jobs


@dataclass
class Lane:
    """One stage: how to claim a batch, how to work on it, and how many batches at a time.

    Args:
        every: seconds between claims, so that batches fill up while the stage before still works.
    """

    claim: Callable[[], Any]
    submit: Callable[[Any], PrefectFuture[Any]]
    width: int = 1
    every: float = 0.5
    running: list[PrefectFuture[Any]] = field(default_factory=list)
    # Filled by the tasks' threads: a future's `state` would ask the server at each look.
    ended: deque[PrefectFuture[Any]] = field(default_factory=deque)
    claimed_at: float = -math.inf

    def advance(self, *, eager: bool) -> bool:
        """Collect what has finished, start what can be started; whether anything happened."""
        finished = [self.ended.popleft() for _ in range(len(self.ended))]
        for future in finished:
            self.running.remove(future)
            future.result()  # raises what the task raised after its retries
        started = False
        if eager or time.monotonic() - self.claimed_at >= self.every:
            self.claimed_at = time.monotonic()
            while len(self.running) < self.width and (work := self.claim()):
                future = self.submit(work)
                self.running.append(future)
                future.add_done_callback(self.ended.append)
                started = True
        return bool(finished) or started


def lanes(context: Context, slots: range) -> list[Lane]:
    """The lanes of a campaign: uniqueness needs order, so screen and assess take one batch at a time."""
    ledger, stages = context.ledger, context.ledger.stages

    def claim(stage: Stage, limit: int, *, ordered: bool) -> Callable[[], Any]:
        return lambda: ledger.claim(stage, slots, limit, ordered=ordered, attempts=context.attempts)

    found = [
        _proposing(context, slots),
        Lane(
            claim=claim(Stage.SCREEN, SCREEN_BATCH, ordered=True),
            submit=lambda work: screen.submit(as_is(context), as_is(work), slots),
        ),
    ]
    if Stage.RELAX in stages:
        found.append(_relaxing(context, slots))
    if Stage.ASSESS in stages:
        found.append(
            Lane(
                claim=claim(Stage.ASSESS, ASSESS_BATCH, ordered=True),
                submit=lambda work: assess.submit(as_is(context), as_is(work), slots),
                every=5,
            )
        )
    found.append(
        Lane(
            claim=claim(Stage.REVIEW, REVIEW_BATCH, ordered=False),
            submit=lambda work: review.submit(as_is(context), as_is(work)),
            every=5,
        )
    )
    return found


def _proposing(context: Context, slots: range) -> Lane:
    ledger, cluster = context.ledger, context.cluster
    if cluster is None or cluster.generate is None:
        at_once = max(GENERATE_BATCH, getattr(context.generator, "batch_size", 0))
        return Lane(
            claim=lambda: ledger.claim_generate(slots, at_once),
            submit=lambda work: generate.submit(as_is(context), as_is(work)),
        )
    width, size = _jobs(cluster)
    generate_there = generate.with_options(tags={"cluster"})
    return Lane(
        claim=lambda: ledger.claim_generate(slots, size),
        submit=lambda work: generate_there.submit(as_is(context), as_is(work)),
        width=width,
    )


def _relaxing(context: Context, slots: range) -> Lane:
    # Tags are Prefect's concurrency limits: they hold over all campaigns of a server that sets them.
    ledger, cluster, attempts = context.ledger, context.cluster, context.attempts
    if cluster is None or cluster.relax is None:
        on_gpu = getattr(context.campaign.relaxer, "device", "") == "cuda"
        relax_here = relax.with_options(tags={"gpu" if on_gpu else "cpu"})
        size = RELAX_BATCH_PER_WORKER * context.workers
        return Lane(
            claim=lambda: ledger.claim(Stage.RELAX, slots, size, attempts=attempts),
            submit=lambda work: relax_here.submit(as_is(context), as_is(work)),
            width=2,  # so that the workers are busy while a batch ends
        )
    width, full = _jobs(cluster)
    relax_there = relax.with_options(tags={"cluster"})

    def claim() -> list[Work]:
        """Full jobs, as long as more crystals are to come."""
        least = full if ledger.unfinished(slots, Stage.SCREEN) else 1
        return ledger.claim(Stage.RELAX, slots, full, attempts=attempts, least=least)

    return Lane(claim, lambda work: relax_there.submit(as_is(context), as_is(work)), width, every=2)


def _jobs(cluster: Cluster) -> tuple[int, int]:
    """Tasks of a stage at a time, and crystals in each: so many that all jobs can be in flight."""
    width = min(cluster.in_flight, JOBS)
    return width, cluster.batch * math.ceil(cluster.in_flight / width)


def run_slots(context: Context, slots: range, show: Callable[[range], None] = lambda _: None) -> bool:
    """Bring every candidate of `slots` to its end, together with whoever else works on them.

    Args:
        show: called again and again while it works, to show progress.

    Returns:
        Whether anything was left to do.
    """
    stages = [stage for stage in context.ledger.stages if stage not in AFTER_ROUNDS]
    open_lanes = lanes(context, slots)
    found_work = False
    while not context.stop.is_set():
        show(slots)
        idle = not any(lane.running for lane in open_lanes)
        moved = sum(lane.advance(eager=idle) for lane in open_lanes)
        if moved:
            found_work = True
            continue
        busy = any(lane.running for lane in open_lanes)
        if not busy and context.ledger.unfinished(slots, stages[-1]) == 0:
            break
        found_work = True
        # Either our tasks are working, or another process holds what is left: its results arrive in
        # the ledger, or its leases lapse and the work comes to us.
        time.sleep(_POLL if busy else 10 * _POLL)
    return found_work
