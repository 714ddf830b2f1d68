"""How far a crystal is from what is known: continuous distances beside the matcher's yes or no."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from ..core.columns import Column, Value
from ..core.crystal import Crystal
from ..core.errors import ReferenceUnavailableError
from ..core.records import Judged
from .nearest import KnownPhases, NearestPhases
from .occupation import ANGLE_TOLERANCE, SYMPREC, Occupation, occupation

_log = logging.getLogger("heliodor.validators")

AMD_DISTANCE = "amd_distance"
SCALED_AMD_DISTANCE = "scaled_amd_distance"
MAGPIE_DISTANCE = "magpie_distance"

_PAPER = "Negishi et al., arXiv:2510.12405 (2025)"
_AT_HAND = 4096
_SYSTEMS = 256  # chemical systems at hand
_MOST = 50  # polymorphs whose symmetry is looked at for one crystal


class Distances:
    """Distances of a crystal, relaxed where it was, to the nearest known phases.

    Args:
        known: the phases of the reference.
    """

    name = "distances"

    def __init__(self, known: KnownPhases) -> None:
        self.nearest = NearestPhases(known)
        self._known = known
        self._occupation_of = lru_cache(_AT_HAND)(self._occupation_of_row)
        self.amd_column = SCALED_AMD_DISTANCE if known.scaled else AMD_DISTANCE
        self.columns = _columns(self.amd_column, scaled=known.scaled)

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [self.of(item.crystal) for item in batch]

    def of(self, crystal: Crystal) -> dict[str, Value]:
        """The columns of one crystal; what cannot be computed is None."""
        found: dict[str, Value] = {}
        parts: tuple[Callable[[Crystal], Mapping[str, Value]], ...] = (
            self._by_composition,
            self._by_structure,
            self._discrete,
        )
        for part in parts:
            try:
                found.update(part(crystal))
            except Exception as error:  # of any kind, from geometry libraries on absurd cells
                _log.debug("%s of %r: %r", part.__name__, crystal, error)
        return found

    def _by_composition(self, crystal: Crystal) -> dict[str, Value]:
        found = self.nearest.by_composition(crystal.reduced_composition)
        if found is None:
            return {}
        return {MAGPIE_DISTANCE: found[0], "nearest_by_composition": self._known.material_id(found[1])}

    def _by_structure(self, crystal: Crystal) -> dict[str, Value]:
        found = self.nearest.by_structure(crystal)
        if found is None:
            return {}
        return {self.amd_column: found[0], "nearest_by_structure": self._known.material_id(found[1])}

    def _discrete(self, crystal: Crystal) -> dict[str, Value]:
        rows = self._known.rows(crystal.reduced_composition)
        return {"d_comp": 0 if rows else 1, "d_wyckoff": self._wyckoff(crystal, rows) if rows else 1}

    def _wyckoff(self, crystal: Crystal, rows: Sequence[int]) -> int | None:
        """0 if one of the phases has the same positions occupied; None: it cannot be told."""
        own = occupation(crystal)
        if own is None:
            return None
        open_ = False
        for row in rows[:_MOST]:
            theirs = self._occupation_of(row)
            if theirs == own:
                return 0
            # Without a structure, another space group says that they differ; the same says nothing.
            open_ |= theirs is None and self._known.spacegroup(row) in (None, own[0])
        return None if open_ or len(rows) > _MOST else 1

    def _occupation_of_row(self, row: int) -> Occupation | None:
        crystal = self._known.crystal(row)
        return None if crystal is None else occupation(crystal)


class DistancesBySystem:
    """Distances to the nearest known phases of a crystal's own elements: upper bounds of `Distances`.

    For a reference that has the chemical systems of the crystals only. So the result for a crystal does
    not depend on what else was asked for.

    Args:
        known_in: phases of a chemical system and its subsystems.
    """

    name = "distances"

    def __init__(self, known_in: Callable[[tuple[str, ...]], KnownPhases]) -> None:
        self._known_in = known_in
        self._of_system = lru_cache(_SYSTEMS)(self._of)
        self.columns = tuple(map(_within_system, _columns(AMD_DISTANCE, scaled=False)))

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [self._score(item.crystal) for item in batch]

    def _score(self, crystal: Crystal) -> Mapping[str, Value]:
        try:
            distances = self._of_system(tuple(sorted(crystal.elements)))
        except ReferenceUnavailableError as error:  # the crystal's verdict says so
            _log.debug("no distances of %s: %s", crystal.formula, error)
            return {}
        return distances.of(crystal)

    def _of(self, elements: tuple[str, ...]) -> Distances:
        return Distances(self._known_in(elements))


def _within_system(column: Column) -> Column:
    if column.name.startswith("d_"):
        return column  # only phases of the crystal's own composition matter
    where = "among phases of the crystal's own elements only; to all known phases it may be shorter"
    return replace(column, limits="; ".join(filter(None, (where, column.limits))))


def _columns(amd_column: str, *, scaled: bool) -> tuple[Column, ...]:
    entries = "12 entries of " if scaled else ""
    unit = "(V/atom)^(1/3)" if scaled else "angstrom"
    no_structures = (
        "the reference has no structures: the AMD entries in its fingerprints, in steps of 1/40, at "
        "equal density; "
        if scaled
        else ""
    )
    return (
        Column(
            MAGPIE_DISTANCE,
            "float64",
            "distance to the nearest known composition: Euclidean, of the 132 Magpie features",
            "",
            f"{_PAPER}; Ward et al., npj Comput. Mater. 2, 16028 (2016)",
            "features as they are, in their own units: melting temperatures (K) make 98 % of its square",
        ),
        Column("nearest_by_composition", "string", "id of that phase, the first of its composition"),
        Column(
            amd_column,
            "float64",
            f"distance to the nearest known structure: largest difference of {entries}AMD(100) vectors",
            unit,
            f"{_PAPER}; Widdowson et al., MATCH 87, 529 (2022)",
            f"{no_structures}blind to the elements",
        ),
        Column("nearest_by_structure", "string", "id of that phase, whatever its elements"),
        Column(
            "d_comp", "Int64", "0: a known phase has the same reduced composition; 1: none", "", _PAPER
        ),
        Column(
            "d_wyckoff",
            "Int64",
            "0: a known phase has the same space group and the same elements on the same Wyckoff "
            f"positions, at {SYMPREC} angstrom and {ANGLE_TOLERANCE:g} degrees; 1: none",
            "",
            _PAPER,
            "null where the symmetry cannot be found, or the reference has no structure to compare with "
            f"and the same space group, or more than {_MOST} phases of the composition",
        ),
    )
