"""Heliodor without a campaign: relax a few crystals and judge them, in plain Python."""

from __future__ import annotations

from pymatgen.core import Lattice, Structure

from heliodor.core.choices.relaxers import ChgnetChoice
from heliodor.core.convert import from_structure
from heliodor.core.records import Relaxed
from heliodor.engines.mlip import ChgnetRelaxer
from heliodor.validators.reference_embedded import EmbeddedReference
from heliodor.validators.stability import Stability


def main() -> None:
    """Rock-salt LiF, NaCl and SrO, a little too large: relaxed, then placed on the hull."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    structures = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), species, sites)
        for a, species in ((4.15, ["Li", "F"]), (5.8, ["Na", "Cl"]), (5.3, ["Sr", "O"]))
    ]
    judge = Stability(EmbeddedReference()).judge
    relaxer = ChgnetRelaxer(ChgnetChoice(kind="chgnet"), workers=2)
    for result in relaxer.relax([from_structure(s.get_primitive_structure()) for s in structures]):
        if isinstance(result, Relaxed):
            print(result.crystal.formula, judge(result))
        else:
            print("failed:", result.reason, result.detail)
    relaxer.close()


if __name__ == "__main__":
    main()
