"""Continuous uniqueness and novelty of a campaign, for its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ..core.errors import InputError
from ..core.protocols import Scorer
from .table import Record


def continuous(found: Sequence[Record], scorers: Sequence[Scorer], seed: int) -> dict[str, Any]:
    """Mean distances among the valid crystals, and from them to the nearest known phase.

    Relaxed crystals where they were relaxed; duplicates and known ones count. Of more than
    `measures.EXACT` crystals a sample is drawn with `seed`, and a standard error says so.

    Returns:
        `uniqueness` and `novelty`, each a `ContinuousMeasure` as a mapping, or None: too few crystals,
        or distances to known phases are not among the scorers.
    """
    from ..validators.distances import Distances
    from ..validators.measures import ContinuousMeasure, continuous_novelty, continuous_uniqueness

    crystals = [r.crystal for r in found if r.valid and r.crystal is not None]
    nearest = next((s.nearest for s in scorers if isinstance(s, Distances)), None)

    def measured(make: Callable[[], ContinuousMeasure]) -> dict[str, Any] | None:
        try:
            return asdict(make())
        except InputError:  # too few crystals
            return None

    return {
        "uniqueness": measured(lambda: continuous_uniqueness(crystals, seed)),
        "novelty": nearest and measured(lambda: continuous_novelty(crystals, nearest, seed)),
    }
