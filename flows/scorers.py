"""The scorers of a campaign: which columns its table has beside the verdicts."""

from __future__ import annotations

from pathlib import Path

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
        from ..validators.analogue import Analogue
        from ..validators.change import Change
        from ..validators.chemistry import Chemistry
        from ..validators.distances import Distances, DistancesBySystem
        from ..validators.nearest import Surveyed, SurveyedBySystem
        from ..validators.reference_embedded import EmbeddedReference
        from ..validators.structure import Structure
        from ..validators.supply import Supply
        from ..validators.synthesizability import Synthesizability

        found += [Change()]
        if isinstance(reference, Surveyed):
            found += [Distances(reference.known)]
        elif isinstance(reference, SurveyedBySystem):
            found += [DistancesBySystem(reference.known_in)]
        found += [Structure(), Chemistry(), Supply(), Analogue(lambda: EmbeddedReference().known)]
        found += [Synthesizability(Path(rules.synthesis_model) if rules.synthesis_model else None)]
    return tuple(found)
