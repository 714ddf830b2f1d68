"""How many crystals are left after each step of a campaign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..core.records import Outcome, Stage, Status
from ..report.model import FunnelStep
from .table import Record


def funnel(
    found: Sequence[Record], stages: Sequence[Stage], threshold: float, *, keep: bool = False
) -> list[FunnelStep]:
    """How many proposals are left after each step, and why the others are not.

    `keep`: duplicates and known crystals go on (`screen.keep_rejected`).
    """
    steps: list[FunnelStep] = []
    left = list(found)

    def step(label: str, outcome: str) -> None:
        nonlocal left
        ended = [r for r in left if _stopped(r, outcome)]
        left = [r for r in left if not _stopped(r, outcome) and getattr(r, outcome) is not None]
        steps.append(
            FunnelStep(
                label,
                len(left),
                _reasons(ended, outcome, Status.REJECTED),
                _reasons(ended, outcome, Status.FAILED),
            )
        )

    steps.append(FunnelStep("proposed", len(found)))
    step("read", "generate")
    if steps[-1].count == steps[0].count:
        steps.pop()
    step("fit to judge" if keep else "valid, unique, novel", "screen")
    if Stage.RELAX in stages:
        step("relaxed", "relax")
        step("judged", "assess")
        verified = [r for r in left if r.verify is not None]
        for limit in (threshold, 0.0) if threshold > 0 else (0.0,):
            kept = [r for r in left if r.sun(limit)]
            dropped = Counter(_why_not_sun(r, limit) for r in left if not r.sun(limit))
            steps.append(FunnelStep(f"SUN, ≤ {limit:g} eV/atom", len(kept), dict(dropped)))
            left = kept
        if verified:
            steps.append(_stable_by_dft(verified, threshold))
    return steps


def _stable_by_dft(verified: Sequence[Record], threshold: float) -> FunnelStep:
    """Of the crystals that were computed; what enters are the best, not all of the step before."""
    stable = [r for r in verified if not _stopped(r, "verify")]
    refuted = _reasons(verified, "verify", Status.REJECTED)
    failed = _reasons(verified, "verify", Status.FAILED)
    return FunnelStep(f"stable by DFT, ≤ {threshold:g} eV/atom", len(stable), refuted, failed)


def _why_not_sun(record: Record, limit: float) -> str:
    if record.verdict("uniqueness") is not True:
        return "duplicate"
    if record.verdict("novelty") is not True:
        return "known"
    return f"more than {limit:g} eV/atom above the hull"


def _stopped(record: Record, stage: str) -> bool:
    outcome: Outcome | None = getattr(record, stage)
    return outcome is not None and outcome.status != Status.PASSED


def _reasons(ended: Sequence[Record], stage: str, status: Status) -> dict[str, int]:
    outcomes: list[Outcome] = [getattr(r, stage) for r in ended]
    return dict(Counter(words(o.reason) for o in outcomes if o.status == status))


def words(reason: str | None) -> str:
    """A reason for people."""
    return (reason or "unknown").replace("_", " ")
