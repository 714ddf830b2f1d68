"""What is done with one crystal, as coroutines that ask for evaluations: a relaxation, a single point.

A coroutine yields `Asked` (who shall evaluate what) and is sent the `Evaluation`. So one driver serves
one crystal on a CPU core, or hundreds in one batch on a GPU. A guard that stops it, and an evaluation
that fails, are the exception `Unphysical`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

from ..core.choices.relaxers import FirstStage, MlipChoice
from ..core.crystal import Crystal
from .early_stop import Watch
from .guards import Unphysical, check_cell, check_evaluation, check_geometry, check_start
from .neighbors import Neighbors, find_neighbors
from .optimizer import Minimum, minimize
from .potentials import Evaluation, Loaded


class Asked(NamedTuple):
    """A geometry to be evaluated, and by which potential."""

    by: Loaded
    crystal: Crystal
    near: Neighbors


@dataclass(frozen=True)
class Ended:
    """The end of a relaxation; `first_steps` and `first_detail` are of the stage before, if any."""

    minimum: Minimum
    first_steps: int = 0
    first_detail: str = ""


Search = Generator[Asked, Evaluation, Ended | Evaluation]


def single_point(crystal: Crystal, by: Loaded) -> Generator[Asked, Evaluation, Evaluation]:
    """One evaluation.

    Raises:
        Unphysical: from the coroutine, when a guard stops it.
    """
    return (yield from _guarded(crystal, by, None))


def relaxation(
    crystal: Crystal,
    by: Loaded,
    settings: MlipChoice,
    first: Loaded | None = None,
    watch: Watch | None = None,
) -> Generator[Asked, Evaluation, Ended]:
    """Relax, with a cheaper potential `first` where one is given.

    If the first stage fails, the crystal is relaxed from its start; if it runs out of steps, from where
    it came to. `watch` looks at the second stage only: the ceiling is an energy of that potential.

    Raises:
        Unphysical: from the coroutine, when a guard stops it.
    """
    steps, detail, start = 0, "", crystal
    if first is not None and settings.first is not None:
        try:
            early = yield from _minimum(crystal, first, settings.first, crystal.volume, None)
            steps, start = early.steps, early.state.crystal
        except Unphysical as stop:
            detail = stop.detail
    try:
        minimum = yield from _minimum(start, by, settings, crystal.volume, watch)
    except Unphysical:
        if start is crystal:
            raise
        detail = "the second potential could not go on from where it led"
        minimum = yield from _minimum(crystal, by, settings, crystal.volume, watch)
    return Ended(minimum, steps, detail)


def _minimum(
    crystal: Crystal,
    by: Loaded,
    rules: MlipChoice | FirstStage,
    start_volume: float,
    watch: Watch | None,
) -> Generator[Asked, Evaluation, Minimum]:
    """`optimizer.minimize` with the guards around each geometry and each answer."""
    search = minimize(crystal, rules.fmax, rules.smax, rules.max_steps, watch)
    geometry = next(search)
    before: float | None = None  # overlaps are looked for at the start only
    while True:
        found = yield from _guarded(geometry, by, before)
        before = start_volume
        try:
            geometry = search.send(found)
        except StopIteration as done:
            minimum: Minimum = done.value
            return minimum


def _guarded(
    crystal: Crystal, by: Loaded, start_volume: float | None
) -> Generator[Asked, Evaluation, Evaluation]:
    """Ask for one evaluation; `start_volume` None: this is the start."""
    cutoff = by.potential.cutoff
    check_cell(crystal)
    near = find_neighbors(crystal, cutoff)
    if start_volume is None:
        check_start(crystal, near)
    check_geometry(crystal, near, start_volume or crystal.volume, cutoff)
    found = yield Asked(by, crystal, near)
    check_evaluation(found, len(crystal), by.info.energies)
    return found
