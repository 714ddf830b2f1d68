"""Counts of stable and SUN crystals by each potential, and by all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report.stats import wilson
from .table import THRESHOLDS, Record

_PREFIX = "stable_0_"
_CONSENSUS = "consensus"


def consensus_summary(found: Sequence[Record]) -> dict[str, Any]:
    """For `summary.json`: a part per potential, and "consensus" where all have to agree.

    Each says how many crystals were judged, how many are stable, and how many are SUN (valid, unique,
    novel and stable, jointly), with rates over all proposals and 95 % Wilson intervals. Empty where the
    campaign asked for no second opinion.
    """
    scores = [record.scores for record in found]
    names = {key.removeprefix(_PREFIX) for row in scores for key in row if key.startswith(_PREFIX)}
    names -= {"likelihood"}
    return {name: _counts(name, found) for name in sorted(names, key=lambda n: (n == _CONSENSUS, n))}


def _counts(name: str, found: Sequence[Record]) -> dict[str, Any]:
    counts: dict[str, Any] = {"judged": 0, "rates": {}}
    for threshold in THRESHOLDS:
        column = f"stable_{threshold:g}_{name}"
        said = [(record, record.scores.get(column)) for record in found]
        stable = [record for record, verdict in said if verdict is True]
        counts["judged"] = sum(verdict is not None for _, verdict in said)
        counts[f"stable_{threshold:g}"] = len(stable)
        counts[f"sun_{threshold:g}"] = sum(
            record.valid and bool(record.verdict("uniqueness")) and bool(record.verdict("novelty"))
            for record in stable
        )
    for key in [key for key in counts if key.startswith(("stable", "sun"))]:
        low, high = wilson(counts[key], len(found))
        rate = counts[key] / len(found) if found else None
        counts["rates"][key] = {"rate": rate, "low": low, "high": high}
    return counts
