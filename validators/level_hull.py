"""The convex hull of phases that were all computed at one level of theory.

Energies of ABINIT or GPAW mean nothing on the Materials Project's hull: other pseudopotentials shift
them by electronvolts. So the elements and the competing phases are computed at the same level, and
formation energies are taken against those elements.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..core.elements import SYMBOLS
from ..core.errors import InputError
from ..core.levels import Level
from ..core.protocols import Phase
from ..core.records import DftResult, Failure, HullPoint, Reason
from .hull import Hull


class LevelHull:
    """The hull at one level of theory.

    Args:
        level: of all energies on it.
        phases: (id, result) of the elements and the competing phases.

    Raises:
        InputError: a result is of another level, or did not converge; names it.
    """

    def __init__(self, level: Level, phases: Iterable[tuple[str, DftResult]]) -> None:
        self.level = level
        self._elements: dict[int, float] = {}
        phases = list(phases)
        for name, result in phases:
            self._require(name, result)
            if len(result.crystal.reduced_composition) == 1:
                number = int(result.crystal.atomic_numbers[0])
                lowest = self._elements.get(number, result.energy_per_atom)
                self._elements[number] = min(lowest, result.energy_per_atom)
        self.phases = [
            Phase(name, result.crystal.reduced_composition, self._formation(result))
            for name, result in phases
            if not self.missing(result)
        ]
        self._hull = Hull(self.phases)

    def missing(self, result: DftResult) -> list[str]:
        """Elements of a crystal that have no energy at this level."""
        return [SYMBOLS[z] for z, _ in result.crystal.reduced_composition if z not in self._elements]

    def judge(self, result: DftResult) -> HullPoint | Failure:
        """A crystal against the hull; a failure where an element has no energy at this level.

        Raises:
            InputError: its energy is of another level, or did not converge.
        """
        self._require(result.crystal.formula, result)
        if missing := self.missing(result):
            detail = f"no energy of {', '.join(missing)} at the level {self.level.name}"
            return Failure(result.key, Reason.NO_COMPETITORS, detail)
        formation = self._formation(result)
        found = self._hull.query(result.crystal.reduced_composition, formation)
        return HullPoint(
            key=result.key,
            energy_above_hull=found.energy_above_hull,
            decomposition_energy=found.decomposition_energy,
            formation_energy_per_atom=formation,
            decomposition=found.decomposition,
            level=self.level.name,
            corrections="none (all phases at one level)",
            reference=f"phases computed at the level {self.level.digest}: {len(self.phases)}",
            coverage="the elements and the phases that the potential's hull names",
        )

    def _formation(self, result: DftResult) -> float:
        """eV/atom against the elements at this level."""
        numbers = result.crystal.atomic_numbers.tolist()
        return (result.energy - sum(self._elements[z] for z in numbers)) / len(numbers)

    def _require(self, name: str, result: DftResult) -> None:
        if result.level != self.level:
            raise InputError(
                f"{name}: its energy is of {result.level.name}, the hull of {self.level.name}",
                hint="only energies of one level can be compared; compute it again at that level",
            )
        if not result.converged:
            raise InputError(f"{name}: its calculation did not converge")
