"""The matcher of MatterGen's evaluator: crystals that differ only in who sits where are the same.

Two ordered crystals of one composition match if they have the same space group (at 0.1 angstrom) and
pymatgen's matcher says so; or if the first, with elements that could substitute each other mixed over
their sites, matches the second by species sets, as a subset or a supercell. Elements can substitute each
other when their atomic radii differ by at most 30 % of the mean and their electronegativities by at most
1.0: the Hume-Rothery rule as Zeni et al., Nature 639, 624 (2025) have it. About 5 ms a pair, ten times
the cost of the ordered matcher, and it calls more crystals the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from ..core.convert import to_structure
from ..core.crystal import Crystal
from .geometry import require_computable
from .matching import MatcherSettings

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Element, Structure

RADIUS_DIFFERENCE = 0.3  # of the mean of the two atomic radii
ELECTRONEGATIVITY_DIFFERENCE = 1.0  # Pauling's scale
MAX_ATOMS = 200
"""In the cell; larger ones match only their exact copies, for a comparison could take hours."""
_SYMPREC = 0.1  # angstrom


@dataclass(eq=False)
class _Side:
    """A crystal and what the matcher needs of it, worked out once."""

    crystal: Crystal

    @cached_property
    def structure(self) -> Structure:
        return _reduced(to_structure(self.crystal))

    @cached_property
    def group(self) -> str | None:
        """Space group symbol; None where the analysis fails."""
        from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

        try:
            return str(SpacegroupAnalyzer(to_structure(self.crystal), _SYMPREC).get_space_group_symbol())
        except Exception:  # of any kind, from spglib on absurd cells; it matches no group then
            return None

    @cached_property
    def mixed(self) -> Structure | None:
        """With substitutable elements mixed; None where no two are."""
        groups = substitutable(self.crystal.elements)
        if not groups:
            return None
        structure = to_structure(self.crystal)
        amounts = structure.composition.get_el_amt_dict()
        for group in groups:
            total = sum(amounts[symbol] for symbol in group)
            shares = {symbol: amounts[symbol] / total for symbol in group}
            structure.replace_species(dict.fromkeys(group, shares))  # type: ignore[arg-type]
        return _reduced(structure)


class DisorderMatcher:
    """Whether two crystals are the same by the rule above.

    Args:
        settings: tolerances of the matcher underneath.
    """

    def __init__(self, settings: MatcherSettings | None = None) -> None:
        self.settings = settings or MatcherSettings()

    def distinct(self, crystals: Sequence[Crystal]) -> list[bool]:
        """Of each crystal, whether it matches none of the distinct ones before it, in order.

        A crystal that cannot be compared is distinct.
        """
        kept: dict[object, list[_Side]] = {}
        found = []
        for crystal in crystals:
            side = _Side(crystal)
            bucket = kept.setdefault(crystal.reduced_composition, [])
            new = not any(self._same(side, earlier) for earlier in bucket)
            if new:
                bucket.append(side)
            found.append(new)
        return found

    def matches(self, crystal: Crystal, others: Sequence[Crystal]) -> list[int]:
        """Positions in `others` of all that match."""
        side = _Side(crystal)
        same = [c.reduced_composition == crystal.reduced_composition for c in others]
        return [i for i, other in enumerate(others) if same[i] and self._same(side, _Side(other))]

    def _same(self, a: _Side, b: _Side) -> bool:
        if a.crystal.digest == b.crystal.digest:
            return True
        if max(len(a.crystal), len(b.crystal)) > MAX_ATOMS:
            return False
        try:
            for side in (a, b):
                require_computable(side.crystal)  # spglib ends the process on what is not finite
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._fit(a, b)
        except Exception:  # of any kind, from geometry libraries on absurd cells: no match was found
            return False

    def _fit(self, a: _Side, b: _Side) -> bool:
        alike = a.group is not None and a.group == b.group
        if alike and self._ordered.fit(a.structure, b.structure, skip_structure_reduction=True):
            return True
        if a.mixed is None:
            return False
        return bool(self._loose.fit(a.mixed, b.structure, skip_structure_reduction=True))

    @cached_property
    def _ordered(self) -> StructureMatcher:
        return self._make()

    @cached_property
    def _loose(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import OrderDisorderElementComparator

        comparator = OrderDisorderElementComparator()
        return self._make(comparator=comparator, attempt_supercell=True, allow_subset=True)

    def _make(self, **options: object) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        rule = self.settings
        return StructureMatcher(rule.ltol, rule.stol, rule.angle_tol, **options)  # type: ignore[arg-type]


def substitutable(symbols: Sequence[str]) -> list[list[str]]:
    """Groups of elements that could sit on each other's sites, joined where they share a member.

    Elements without a radius or an electronegativity (noble gases) are in none.
    """
    from pymatgen.core import Element

    groups: list[list[str]] = []
    for a, b in combinations(sorted(symbols), 2):
        if not _substitute(Element(a), Element(b)):
            continue
        joined = [g for g in groups if a in g or b in g]
        groups = [g for g in groups if g not in joined]
        groups.append(sorted({a, b, *(s for g in joined for s in g)}))
    return groups


def _substitute(a: Element, b: Element) -> bool:
    if a.atomic_radius is None or b.atomic_radius is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "No Pauling electronegativity": it is NaN then
        apart = abs(float(a.X) - float(b.X))
    r, s = float(a.atomic_radius), float(b.atomic_radius)
    return abs(r - s) <= RADIUS_DIFFERENCE * (r + s) / 2 and apart <= ELECTRONEGATIVITY_DIFFERENCE


def _reduced(structure: Structure) -> Structure:
    """As the matcher reduces both sides: Niggli, then primitive."""
    return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
