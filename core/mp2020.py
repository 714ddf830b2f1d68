"""Which elements are anions, as MaterialsProject2020Compatibility has to be told.

That scheme corrects energies by composition (A. Wang et al., Sci. Rep. 11, 15496 (2021),
doi:10.1038/s41598-021-94550-5); beyond the composition it only matters what is an anion. Energies of a
potential and of VASP must be told the same, or they differ by the telling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from .convert import to_structure
from .elements import SYMBOLS

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    from .crystal import Crystal


@dataclass(frozen=True)
class Anions:
    """What the scheme is told of a crystal.

    Args:
        oxidation_states: by element; empty where none is known, then only the most electronegative
            element counts as an anion.
        sulfide_type: of crystals with sulphur.
        uncertain: the correction is known to be unreliable for this crystal.
    """

    oxidation_states: Mapping[str, float]
    sulfide_type: str | None
    uncertain: bool

    def as_data(self) -> dict[str, Any]:
        """As the `data` of a pymatgen entry."""
        return {"oxidation_states": dict(self.oxidation_states), "sulfide_type": self.sulfide_type}


@cache
def mp2020(*, check_potcar: bool = False) -> MaterialsProject2020Compatibility:
    """The scheme, made once."""
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=check_potcar)


def anions_of(crystal: Crystal) -> Anions:
    """The anions of a crystal, by what the Materials Project's own entries imply.

    Against SevenNet-0 at their geometry the mean difference is 10 meV/atom where nothing is uncertain:
    - oxidation states are guessed from the composition; where that finds none, from bond valences;
    - oxidised sulphur (sulphates, SO2) is corrected like sulphide, as 20 of 28 such entries are;
      pymatgen, given a structure, leaves it out, 70 to 170 meV/atom off.

    The result is uncertain for oxidised sulphur, and where oxidation states decide (two or more possible
    anions) but no guess from the composition exists: the mean error there is 30 meV/atom, up to 290.
    """
    structure = to_structure(crystal)
    states = dict(_guessed_states(crystal.reduced_composition))
    possible = [e.symbol for e in structure.composition if e.symbol in mp2020().comp_correction]
    possible += ["O"] * ("O" in structure.composition)  # listed there as oxide, peroxide, superoxide
    undecided = not states and len(possible) > 1
    if undecided:
        states = _bond_valence_states(structure)
    sulfide_type = "sulfide" if "S" in structure.composition else None
    return Anions(states, sulfide_type, undecided or states.get("S", -2.0) > 0)


@lru_cache(maxsize=50_000)
def _guessed_states(composition: tuple[tuple[int, int], ...]) -> tuple[tuple[str, float], ...]:
    """Most likely oxidation states of a composition; empty where none balance or it is too large."""
    from pymatgen.core import Composition

    formula = Composition({SYMBOLS[z]: n for z, n in composition})
    try:
        guesses = formula.oxi_state_guesses(max_sites=-20)  # as pymatgen's MP2020 does
    except ValueError:
        return ()
    return tuple(guesses[0].items()) if guesses else ()


def _bond_valence_states(structure: Structure) -> dict[str, float]:
    """Mean oxidation state of each element by bond valence sums; empty where that fails."""
    from pymatgen.analysis.bond_valence import BVAnalyzer

    try:
        valences = BVAnalyzer().get_valences(structure)
    except ValueError:  # no parameters for an element, or no assignment balances
        return {}
    by_element: dict[str, list[float]] = {}
    for site, valence in zip(structure, valences, strict=True):
        by_element.setdefault(site.specie.symbol, []).append(float(valence))
    return {s: sum(v) / len(v) for s, v in by_element.items()}
