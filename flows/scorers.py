"""The scorers of a campaign: which columns its table has beside the verdicts."""

from __future__ import annotations

from ..core.campaign import Review
from ..core.protocols import Scorer


def build_scorers(rules: Review) -> tuple[Scorer, ...]:
    """What the campaign's `review` section asks for, in the order of the table's columns."""
    found: list[Scorer] = []
    if rules.scores:
        from ..validators.change import Change

        found += [Change()]
    return tuple(found)
