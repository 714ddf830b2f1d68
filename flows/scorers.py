"""The scorers of a campaign: which columns its table has beside the verdicts."""

from __future__ import annotations

from ..core.campaign import Review
from ..core.protocols import Reference, Scorer


def build_scorers(rules: Review, reference: Reference) -> tuple[Scorer, ...]:
    """What the campaign's `review` section asks for, in the order of the table's columns.

    Args:
        reference: the known phases, with the energies of their source. Distances to them need one whose
            phases can be surveyed (`KnownPhases`): a plugin's may not.
    """
    found: list[Scorer] = []
    if rules.scores:
        from ..validators.change import Change
        from ..validators.distances import Distances
        from ..validators.nearest import Surveyed

        found += [Change()]
        if isinstance(reference, Surveyed):
            found += [Distances(reference.known)]
    return tuple(found)
