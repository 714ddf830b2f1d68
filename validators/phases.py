"""Known phases, found by chemical system and by composition."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from ..core.elements import ATOMIC_NUMBERS, parse_elements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ..core.protocols import Phase

Composition = tuple[tuple[int, int], ...]
"""((atomic number, count), ...) by rising atomic number, as in `core.protocols.Phase`."""

System = frozenset[int]
"""A chemical system: the atomic numbers of its elements."""


class Phases:
    """Phases in memory with two indexes. Immutable once built.

    Args:
        phases: in any order; several of one composition are polymorphs.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        self.all = tuple(phases)
        self._by_composition: dict[Composition, list[Phase]] = {}
        self._by_system: dict[System, list[Phase]] = {}
        for phase in self.all:
            self._by_composition.setdefault(phase.composition, []).append(phase)
            if phase.formation_energy_per_atom is not None:
                self._by_system.setdefault(system_of(phase.composition), []).append(phase)

    def __len__(self) -> int:
        return len(self.all)

    def entries(self, elements: Iterable[str]) -> tuple[Phase, ...]:
        """Phases with a formation energy whose elements are a subset of `elements`.

        Raises:
            InputError: a symbol is no element, or there is none.
        """
        space = frozenset(ATOMIC_NUMBERS[s] for s in parse_elements(elements))
        return tuple(p for system in within(space, self._by_system) for p in self._by_system[system])

    def like(self, composition: Composition) -> tuple[Phase, ...]:
        """Phases of that reduced composition, with or without an energy."""
        return tuple(self._by_composition.get(composition, ()))


def system_of(composition: Composition) -> System:
    """The chemical system of a composition."""
    return frozenset(z for z, _ in composition)


def within(space: System, systems: Collection[System]) -> Iterator[System]:
    """Those of `systems` that are subsets of `space`, in an order that depends on `space` alone."""
    elements = sorted(space)
    if 2 ** len(elements) > len(systems):  # many elements, or few systems: try them all
        yield from sorted((s for s in systems if s <= space), key=lambda s: (len(s), sorted(s)))
        return
    for size in range(1, len(elements) + 1):
        for subset in combinations(elements, size):
            if (system := frozenset(subset)) in systems:
                yield system
