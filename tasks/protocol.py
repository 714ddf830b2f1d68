"""Counting a campaign's crystals by another evaluator's rules, under its own names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ..core.crystal import Crystal
from ..core.records import HullPoint
from ..report.stats import wilson
from .context import Context, log
from .relax import relaxed_of
from .review import hull_point
from .table import Record


@dataclass(frozen=True)
class Metric:
    """One number under the name that the evaluator gives it.

    Args:
        value: None where there is nothing to count or average.
        count, n: what was divided; `count` is None for means, and `n` says of how many.
        low, high: 95 % interval of a share of independent crystals, else None.
        meaning: one sentence, with the unit.
    """

    name: str
    value: float | None
    meaning: str
    n: int
    count: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """Where our counting is not the evaluator's."""

    what: str
    theirs: str
    ours: str


@dataclass(frozen=True)
class Counted:
    """What a protocol gives. `source`: where its rules were read."""

    protocol: str
    source: str
    metrics: tuple[Metric, ...]
    differences: tuple[Difference, ...]

    def summary(self) -> dict[str, Any]:
        """For `protocol.json` and `summary.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """A proposal that holds a crystal.

    Args:
        relaxed: where the relaxation ended, converged or not. point: it against the hull.
    """

    slot: int
    proposed: Crystal
    relaxed: Crystal | None
    converged: bool
    point: HullPoint | None

    @property
    def distance(self) -> float | None:
        """eV/atom, signed: energy above the hull of the reference alone."""
        return self.point.decomposition_energy if self.point else None


def count_by_protocol(context: Context, found: Sequence[Record]) -> Counted | None:
    """The metrics of the campaign's protocol; None where it is our own."""
    match context.campaign.review.protocol:
        case "heliodor":
            return None
        case "mattergen":
            from .protocol_mattergen import count_mattergen

            return count_mattergen(context, samples(context, found), len(found))
        case "lemat":
            from .protocol_lemat import count_lemat

            return count_lemat(context, samples(context, found), len(found))


def samples(context: Context, found: Sequence[Record]) -> list[Sample]:
    """The proposals that hold a crystal. A relaxation that stopped short is judged all the same."""
    short = _judge_short(context, found)
    made = []
    for record in found:
        if record.candidate is None:
            continue
        point = short.get(record.slot)
        if record.hull is not None:
            point = hull_point(record.candidate.key, record.hull)
        crystal = record.relax.crystal if record.relax is not None else None
        made.append(
            Sample(record.slot, record.candidate.crystal, crystal, record.converged is True, point)
        )
    return made


def _judge_short(context: Context, found: Sequence[Record]) -> dict[int, HullPoint]:
    """Slot -> hull point of the relaxations that did not converge, which no stage has judged."""
    if context.judge is None:
        return {}
    slots, ended = [], []
    for record in found:
        relax, candidate = record.relax, record.candidate
        if record.hull is None and candidate and relax is not None and relax.crystal is not None:
            slots.append(record.slot)
            ended.append(relaxed_of(relax, candidate.key))
    points = context.judge(ended)
    return {s: p for s, p in zip(slots, points, strict=True) if isinstance(p, HullPoint)}


def share(name: str, flags: Iterable[bool], n: int, meaning: str) -> Metric:
    """How many of `n` crystals, with the interval."""
    count = sum(flags)
    low, high = wilson(count, n) if n else (None, None)
    return Metric(name, count / n if n else None, meaning, n, count, low, high)


def ratio(name: str, count: int, n: int, meaning: str) -> Metric:
    """A quotient that is no share of independent crystals: no interval."""
    return Metric(name, count / n if n else None, meaning, n, count)


def mean(name: str, values: Iterable[float | None], meaning: str) -> Metric:
    """The mean of what there is; `n` says how many."""
    there = [v for v in values if v is not None]
    return Metric(name, fmean(there) if there else None, meaning, len(there))


def holds(check: Callable[[Crystal], bool], crystal: Crystal) -> bool:
    """Whether a crystal passes; one that cannot be checked (an absurd cell) does not."""
    try:
        return check(crystal)
    except Exception as error:  # of any kind, from geometry libraries
        log.debug("%s: %r", crystal.digest, error)
        return False


def plural(n: int, what: str = "crystal") -> str:
    """A count with its noun: "1 crystal", "2 crystals"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def relaxation_of(context: Context) -> str:
    """How crystals were relaxed here, in words."""
    choice = context.campaign.relaxer
    if context.relaxer is None:
        return "none: crystals as they were given"
    named = ("fmax", "smax", "max_steps")
    limits = [f"{name} {getattr(choice, name):g}" for name in named if hasattr(choice, name)]
    return ", ".join([context.relaxer.model, *limits])
