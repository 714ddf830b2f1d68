"""Runs many relaxations and single points side by side, in the worker process, a batch a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from ..core.campaign import MlipChoice
from ..core.crystal import Crystal
from ..core.records import Evaluated, Failure, Reason, Relaxed
from .guards import Unphysical, check_cell, check_evaluation, check_geometry, check_start
from .messages import Order, Result
from .neighbors import Neighbors, find_neighbors
from .optimizer import Minimum, minimize
from .potentials import Evaluation, Potential, free_memory

log = logging.getLogger("heliodor.engines")

Geometry = tuple[Crystal, Neighbors]
Search = Generator[Geometry, Evaluation, Minimum | Evaluation]


def guarded(
    crystal: Crystal, cutoff: float, settings: MlipChoice
) -> Generator[Geometry, Evaluation, Minimum]:
    """Coroutine: `optimizer.minimize` with the guards around each geometry and each answer.

    Raises:
        Unphysical: from the coroutine, when a guard stops it.
    """
    search = minimize(crystal, settings.fmax, settings.smax, settings.max_steps)
    geometry = next(search)
    started = False
    while True:
        check_cell(geometry)
        near = find_neighbors(geometry, cutoff)
        if not started:
            check_start(geometry, near)
            started = True
        check_geometry(geometry, near, crystal.volume, cutoff)
        found = yield geometry, near
        check_evaluation(found, len(crystal))
        try:
            geometry = search.send(found)
        except StopIteration as done:
            minimum: Minimum = done.value
            return minimum


def single_point(crystal: Crystal, cutoff: float) -> Generator[Geometry, Evaluation, Evaluation]:
    """Coroutine: one evaluation, with the same guards.

    Raises:
        Unphysical: from the coroutine, when a guard stops it.
    """
    check_cell(crystal)
    near = find_neighbors(crystal, cutoff)
    check_start(crystal, near)
    check_geometry(crystal, near, crystal.volume, cutoff)
    found = yield crystal, near
    check_evaluation(found, len(crystal))
    return found


@dataclass
class _Job:
    key: str
    search: Search
    geometry: Geometry
    seconds: float  # this crystal's share of the time spent

    @property
    def n_atoms(self) -> int:
        return len(self.geometry[0])


@dataclass
class Driver:
    """Holds what is in progress and moves all of them one evaluation on at each `step`.

    Args:
        model: name of the potential, for the records.
        max_atoms: atoms in one evaluation (at least one crystal); halved when memory runs out.
    """

    potential: Potential
    model: str
    settings: MlipChoice
    max_atoms: int
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _finished: list[tuple[int, Result]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether there is something to step or to hand out."""
        return bool(self._jobs or self._finished)

    def add(self, number: int, order: Order) -> None:
        """Begin an order; `number` comes back with its result."""
        started = time.perf_counter()
        crystal, cutoff = order.crystal, self.potential.cutoff
        search: Search
        if order.task == "relax":
            search = guarded(crystal, cutoff, self.settings)
        else:
            search = single_point(crystal, cutoff)
        try:
            geometry = next(search)
        except Unphysical as stop:
            self._finished.append((number, Failure(crystal.digest, stop.reason, stop.detail)))
        else:
            self._jobs[number] = _Job(crystal.digest, search, geometry, time.perf_counter() - started)

    def step(self) -> list[tuple[int, Result]]:
        """One evaluation of every crystal in progress; returns what finished, as (number, result)."""
        numbers = list(self._jobs)
        while numbers:
            chunk, atoms = [numbers.pop(0)], 0
            atoms = self._jobs[chunk[0]].n_atoms
            while numbers and atoms + self._jobs[numbers[0]].n_atoms <= self.max_atoms:
                atoms += self._jobs[numbers[0]].n_atoms
                chunk.append(numbers.pop(0))
            self._evaluate(chunk)
        finished, self._finished = self._finished, []
        return finished

    def _evaluate(self, chunk: list[int]) -> None:
        jobs = [self._jobs[number] for number in chunk]
        atoms = sum(job.n_atoms for job in jobs)
        started = time.perf_counter()
        try:
            found = self.potential.evaluate([job.geometry for job in jobs])
        except Exception as error:  # of any kind: the culprit is found by halving, and recorded
            free_memory()
            memory = out_of_memory(error)
            if len(chunk) == 1:
                reason = Reason.MEMORY_LIMIT if memory else Reason.WORKER_DIED
                self._finish(
                    chunk[0], Failure(jobs[0].key, reason, f"{type(error).__name__}: {error}"[:300])
                )
                return
            if memory:
                self.max_atoms = max(1, atoms // 2)
                log.warning(
                    "out of memory with %d atoms: %d at a time from now on", atoms, self.max_atoms
                )
            self._evaluate(chunk[: len(chunk) // 2])
            self._evaluate(chunk[len(chunk) // 2 :])
            return
        seconds = time.perf_counter() - started
        for number, job, evaluation in zip(chunk, jobs, found, strict=True):
            job.seconds += seconds * job.n_atoms / atoms
            self._advance(number, job, evaluation)

    def _advance(self, number: int, job: _Job, evaluation: Evaluation) -> None:
        started = time.perf_counter()
        try:
            job.geometry = job.search.send(evaluation)
        except StopIteration as done:
            job.seconds += time.perf_counter() - started
            self._finish(number, self._result(job, done.value))
            return
        except Unphysical as stop:
            self._finish(number, Failure(job.key, stop.reason, stop.detail))
            return
        job.seconds += time.perf_counter() - started
        if job.seconds > self.settings.time_limit:
            detail = (
                f"not converged after {job.seconds:.3g} s, time_limit is {self.settings.time_limit:g}"
            )
            self._finish(number, Failure(job.key, Reason.TIME_LIMIT, detail))

    def _finish(self, number: int, result: Result) -> None:
        del self._jobs[number]
        self._finished.append((number, result))

    def _result(self, job: _Job, found: Minimum | Evaluation) -> Relaxed | Evaluated:
        if isinstance(found, Evaluation):
            return Evaluated(job.key, found.energy, found.forces, found.stress, self.model, job.seconds)
        minimum, state = found, found.state
        return Relaxed(
            key=job.key,
            crystal=state.crystal,
            energy=state.energy,
            max_force=state.max_force,
            max_stress=state.max_stress,
            steps=minimum.steps,
            converged=minimum.converged,
            model=self.model,
            seconds=job.seconds,
        )


def out_of_memory(error: Exception) -> bool:
    """Whether an exception means that memory ran out; torch has no single type for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
