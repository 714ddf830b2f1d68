"""Runs many relaxations and single points side by side, in the worker process, a batch a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..core.choices.relaxers import MlipChoice
from ..core.records import Evaluated, Failure, Prepared, Reason, Relaxed
from .batching import BatchSize
from .early_stop import EarlyStop
from .guards import Unphysical
from .messages import Order, Result
from .potentials import Evaluation, Loaded, free_memory
from .search import Asked, Ended, Search, relaxation, single_point

MAX_CRYSTALS = 4096  # in progress at once, however large the memory


@dataclass
class _Job:
    number: int
    key: str
    search: Search
    asked: Asked
    seconds: dict[str, float]  # by model: this crystal's share of the time spent

    @property
    def pairs(self) -> int:
        return len(self.asked.near.first)


@dataclass
class Driver:
    """Holds what is in progress and moves all of them one evaluation on at each `step`.

    Args:
        by: the potential. first: the cheaper one of `settings.first`.
        size: what goes into one evaluation, at least one crystal.
    """

    by: Loaded
    settings: MlipChoice
    size: BatchSize
    first: Loaded | None = None
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _finished: list[tuple[int, Result]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether there is something to step or to hand out."""
        return bool(self._jobs or self._finished)

    @property
    def capacity(self) -> int:
        """How many crystals like those in progress one evaluation has room for."""
        pairs = sum(job.pairs for job in self._jobs.values())
        if not pairs:
            return 1
        return min(max(1, self.size.pairs * len(self._jobs) // pairs), MAX_CRYSTALS)

    def add(self, number: int, order: Order) -> None:
        """Begin an order; `number` comes back with its result."""
        started = time.perf_counter()
        crystal, search = order.crystal, self._search(order)
        try:
            asked = next(search)
        except Unphysical as stop:
            self._finished.append((number, Failure(crystal.digest, stop.reason, stop.detail)))
        else:
            spent = time.perf_counter() - started
            job = _Job(number, crystal.digest, search, asked, {asked.by.info.model: spent})
            self._jobs[number] = job

    def _search(self, order: Order) -> Search:
        crystal = order.crystal
        if order.task == "evaluate":
            return single_point(crystal, self.by)
        watch = None if order.ceiling is None else EarlyStop(order.ceiling, len(crystal))
        first = self.first
        if first is not None and not set(crystal.atomic_numbers.tolist()) <= first.info.elements:
            first = None
        return relaxation(crystal, self.by, self.settings, first, watch)

    def step(self) -> list[tuple[int, Result]]:
        """One evaluation of every crystal in progress; returns what finished, as (number, result)."""
        for chunk in list(self._chunks()):
            self._evaluate(chunk)
        finished, self._finished = self._finished, []
        return finished

    def _chunks(self) -> Iterator[list[_Job]]:
        """Jobs of one potential, in the order they came, as many as fit in one evaluation."""
        for by in (self.first, self.by):
            chunk: list[_Job] = []
            pairs = 0
            for job in [job for job in self._jobs.values() if job.asked.by is by]:
                if chunk and pairs + job.pairs > self.size.pairs:
                    yield chunk
                    chunk, pairs = [], 0
                chunk.append(job)
                pairs += job.pairs
            if chunk:
                yield chunk

    def _evaluate(self, chunk: list[_Job]) -> None:
        pairs = sum(job.pairs for job in chunk)
        by = chunk[0].asked.by
        started = time.perf_counter()
        try:
            found = by.potential.evaluate([(job.asked.crystal, job.asked.near) for job in chunk])
        except Exception as error:  # of any kind: the culprit is found by halving, and recorded
            free_memory()
            memory = out_of_memory(error)
            if len(chunk) == 1:
                reason = Reason.MEMORY_LIMIT if memory else Reason.WORKER_DIED
                text = f"{type(error).__name__}: {error}"[:300]
                self._advance(chunk[0], Unphysical(reason, text), time.perf_counter() - started)
                return
            if memory:
                self.size.ran_out(pairs)
            self._evaluate(chunk[: len(chunk) // 2])
            self._evaluate(chunk[len(chunk) // 2 :])
            return
        self.size.succeeded(pairs)
        seconds = time.perf_counter() - started
        for job, evaluation in zip(chunk, found, strict=True):
            self._advance(job, evaluation, seconds * job.pairs / pairs)

    def _advance(self, job: _Job, found: Evaluation | Unphysical, spent: float) -> None:
        """Hand an evaluation, or its failure, to the job that asked for it."""
        started, model = time.perf_counter(), job.asked.by.info.model
        try:
            if isinstance(found, Unphysical):
                job.asked = job.search.throw(found)
            else:
                job.asked = job.search.send(found)
        except StopIteration as done:
            job.seconds[model] += spent + time.perf_counter() - started
            self._finish(job, self._result(job, done.value))
            return
        except Unphysical as stop:
            self._finish(job, Failure(job.key, stop.reason, stop.detail))
            return
        job.seconds[model] += spent + time.perf_counter() - started
        job.seconds.setdefault(job.asked.by.info.model, 0.0)
        total = sum(job.seconds.values())
        if total > self.settings.time_limit:
            detail = f"not converged after {total:.3g} s, time_limit is {self.settings.time_limit:g}"
            self._finish(job, Failure(job.key, Reason.TIME_LIMIT, detail))

    def _finish(self, job: _Job, result: Result) -> None:
        del self._jobs[job.number]
        self._finished.append((job.number, result))

    def _result(self, job: _Job, found: Ended | Evaluation) -> Relaxed | Evaluated:
        model = self.by.info.model
        seconds = job.seconds[model]
        if isinstance(found, Evaluation):
            return Evaluated(job.key, found.energy, found.forces, found.stress, model, seconds)
        minimum, state = found.minimum, found.minimum.state
        return Relaxed(
            key=job.key,
            crystal=state.crystal,
            energy=state.energy,
            max_force=state.max_force,
            max_stress=state.max_stress,
            steps=minimum.steps,
            converged=minimum.converged,
            model=model,
            seconds=seconds,
            stopped=minimum.stopped,
            prepared=self._prepared(job, found),
        )

    def _prepared(self, job: _Job, found: Ended) -> Prepared | None:
        if self.first is None:
            return None
        model = self.first.info.model
        seconds = job.seconds.get(model, 0.0)
        detail = found.first_detail
        if model not in job.seconds and not detail:
            detail = "an element that it does not know"
        return Prepared(model, found.first_steps, seconds, detail)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception means that memory ran out; torch has no single type for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
