"""The nearest known analogue: a phase of the same kind with other elements.

Elements are as alike as they are near in Pettifor's chemical scale (J. Phys. C 19, 285 (1986)), by which
crystal structures of binary compounds fall into fields; pymatgen carries it as the Mendeleev number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Column, Value
from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.records import Judged
from .nearest import KnownPhases
from .occupation import SYMPREC, occupation
from .phases import Composition

_log = logging.getLogger("heliodor.validators")

Ints = NDArray[np.int64]
Pattern = tuple[int, ...]
"""Counts of a reduced composition, rising: (1, 1, 3) of a perovskite."""

_LIMITS = (
    "the table holds a part of the phases that were made, so a nearer one may exist, and some that were "
    "only computed (nearly all of its 255 with Pm or Ac); the same counts and space group are not "
    "always the same structure; null where no phase of the table has such counts"
)
_SOURCE = "the embedded table: Materials Project phases, by way of MP-20 and MPTS-52"


@dataclass(frozen=True)
class Match:
    """A known phase beside a crystal.

    Args:
        row: of the phase. distance: see `Analogue`.
        same_spacegroup: None where the crystal's is not known.
    """

    row: int
    distance: float
    same_spacegroup: bool | None


class Analogue:
    """The known phase with the same counts of atoms whose elements are most alike.

    Among those of the crystal's space group where there are any. Elements of the same count take one
    another's places; the distance is the mean over the atoms of how many places of the scale they move,
    for the best pairing. So 0 is the same composition. 2 ms a crystal, for the space group.

    Args:
        known: opens the known phases; called once, when first asked.
    """

    name = "analogue"
    columns = (
        Column(
            "analogue_id", "string", "the nearest known phase with the same counts", "", _SOURCE, _LIMITS
        ),
        Column("analogue_formula", "string", "its formula", "", _SOURCE),
        Column(
            "analogue_substitutions",
            "string",
            'what takes whose place in it, as "Co->Ni"; empty where it has the same composition',
        ),
        Column(
            "analogue_distance",
            "float64",
            "mean over the atoms of the places by which their elements differ in Pettifor's scale; "
            "0: the same composition",
            "",
            "Pettifor, J. Phys. C 19, 285 (1986), as pymatgen's Mendeleev numbers",
            "one scale for all structures, and it knows no charges",
        ),
        Column(
            "analogue_same_spacegroup",
            "boolean",
            f"it has the crystal's space group, at {SYMPREC} angstrom",
            "",
            "spglib",
            "false: no known phase with these counts has; null where the crystal's cannot be found",
        ),
    )

    def __init__(self, known: Callable[[], KnownPhases]) -> None:
        self._open = known

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [self._one(item.crystal) for item in batch]

    def _one(self, crystal: Crystal) -> dict[str, Value]:
        try:
            found = self.nearest(crystal)
            if found is None:
                return {}
            theirs = self._known.composition(found.row)
            pairs = substitutions(theirs, crystal.reduced_composition)
            return {
                "analogue_id": self._known.material_id(found.row),
                "analogue_formula": formula(theirs),
                "analogue_substitutions": ", ".join(f"{old}->{new}" for old, new in pairs),
                "analogue_distance": found.distance,
                "analogue_same_spacegroup": found.same_spacegroup,
            }
        except Exception as error:  # one crystal must not stop a batch
            _log.debug("no analogue of %r: %r", crystal, error)
            return {}

    def nearest(self, crystal: Crystal) -> Match | None:
        """The analogue of a crystal; of several as near, the first. None: no phase has such counts."""
        pattern = pattern_of(crystal.reduced_composition)
        if pattern not in self._groups:
            return None
        rows, places, spacegroups = self._groups[pattern]
        apart = np.abs(places - _places(crystal.reduced_composition))
        distances = apart @ np.array(pattern) / sum(pattern)
        found = occupation(crystal)
        same = None
        if found is not None:
            of_group = spacegroups == found[0]
            same = bool(of_group.any())
            if same:
                distances = np.where(of_group, distances, np.inf)
        best = int(distances.argmin())
        return Match(int(rows[best]), float(distances[best]), same)

    @cached_property
    def _known(self) -> KnownPhases:
        return self._open()

    @cached_property
    def _groups(self) -> dict[Pattern, tuple[Ints, NDArray[np.float64], Ints]]:
        """By pattern: rows (n,), places of their elements (n, elements), space groups (n,)."""
        known = self._known
        found: dict[Pattern, list[tuple[int, list[float], int]]] = {}
        for first in known.distinct().tolist():
            composition = known.composition(first)
            places, group = _places(composition), found.setdefault(pattern_of(composition), [])
            group += [(row, places, known.spacegroup(row) or 0) for row in known.rows(composition)]
        return {
            pattern: (np.array(rows), np.array(places), np.array(spacegroups))
            for pattern, group in found.items()
            for rows, places, spacegroups in [zip(*group, strict=True)]
        }


def pattern_of(composition: Composition) -> Pattern:
    """The counts of a composition without its elements."""
    return tuple(sorted(n for _, n in composition))


def substitutions(old: Composition, new: Composition) -> list[tuple[str, str]]:
    """Elements of `old` and what takes their places in `new`, of the same pattern.

    An element that both have with the same count stays; the others of a count are paired in the order of
    the scale. No pairing moves fewer places in all.
    """
    changed = []
    for count in sorted({n for _, n in old}):
        before = {z for z, n in old if n == count}
        after = {z for z, n in new if n == count}
        gone, come = _in_order(before - after), _in_order(after - before)
        changed += [(SYMBOLS[a], SYMBOLS[b]) for a, b in zip(gone, come, strict=True)]
    return changed


def formula(composition: Composition) -> str:
    """As pymatgen writes it, for example "LiFePO4"."""
    from pymatgen.core import Composition as Formula

    return str(Formula({SYMBOLS[z]: n for z, n in composition}).reduced_formula)


def _places(composition: Composition) -> list[float]:
    """Places of the elements by rising count and place: paired in this order, they move least."""
    return [place for _, place in sorted((n, _scale()[z]) for z, n in composition)]


def _in_order(numbers: set[int]) -> list[int]:
    return sorted(numbers, key=lambda z: (_scale()[z], z))


@cache
def _scale() -> dict[int, float]:
    """Place of each element, 1 (He) to 103 (H); those beyond Lr, which have none, come before."""
    from pymatgen.core import Element

    known = {z: float(Element.from_Z(z).mendeleev_no) for z in range(1, 104)}
    return {z: known.get(z, 0.0) for z in range(1, 119)}
