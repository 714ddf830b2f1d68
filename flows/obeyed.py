"""How often crystals are what was asked for, counted on the crystals themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, partial
from typing import Any

from ..core.campaign import Campaign
from ..core.choices.generators import DiffusionChoice, PlanarChoice, RandomChoice
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, chemsys, parse_formula

SYMPREC = 0.1  # angstrom; the tolerance of the space groups of the Materials Project


class Answer(StrEnum):
    """Whether a crystal is what was asked for."""

    YES = "yes"
    HIGHER = "higher"  # not the space group asked for, but one that contains it
    NO = "no"


@dataclass
class Tally:
    """One thing that was asked for, and what came of it.

    Args:
        name: short, for programs. asked: in words. judge: of one crystal.
    """

    name: str
    asked: str
    judge: Callable[[Crystal], Answer]
    counts: Counter[Answer] = field(default_factory=Counter)

    def add(self, crystal: Crystal) -> None:
        """Count one crystal."""
        self.counts[self.judge(crystal)] += 1

    def text(self) -> str:
        """For a person: "space group 225: 97/100 (3 higher)"."""
        higher = f" ({self.counts[Answer.HIGHER]} higher)" if self.counts[Answer.HIGHER] else ""
        return f"{self.asked}: {self.counts[Answer.YES]}/{self.counts.total()}{higher}"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "asked": self.asked,
            "obeyed": self.counts[Answer.YES],
            "higher": self.counts[Answer.HIGHER],
            "of": self.counts.total(),
        }


def tallies(campaign: Campaign) -> list[Tally]:
    """Empty tallies of all that a campaign asks for and a crystal can be seen to obey.

    Property targets are not among them: no crystal shows its properties.
    """
    space, generator = campaign.space, campaign.generator
    found = []
    if space.formula:
        composition = tuple(sorted((ATOMIC_NUMBERS[s], n) for s, n in parse_formula(space.formula)))
        found.append(Tally("formula", f"formula {space.formula}", partial(_formula, composition)))
    elif space.elements:
        system = chemsys(space.elements)
        asked = f"elements within {system}" if space.subsystems else f"chemical system {system}"
        judge = partial(_elements, frozenset(space.elements), every=not space.subsystems)
        found.append(Tally("elements", asked, judge))
    least = 1
    if isinstance(generator, DiffusionChoice):
        least = generator.min_atoms
        if generator.n_elements:
            asked = f"{generator.n_elements} elements"
            found.append(Tally("n_elements", asked, partial(_number, generator.n_elements)))
    if least > 1 or "max_atoms" in space.model_fields_set:
        sizes = range(least, space.max_atoms + 1)
        found.append(Tally("atoms", f"{least} to {space.max_atoms} atoms", partial(_atoms, sizes)))
    if isinstance(generator, DiffusionChoice | RandomChoice) and (groups := _groups(generator)):
        found.append(Tally("spacegroup", groups[0], partial(_spacegroup, groups[1])))
    if isinstance(generator, DiffusionChoice) and (planar := generator.planar):
        asked = f"{planar.lattice} of {planar.element}"
        found.append(Tally("planar", asked, partial(_planar, planar)))
    return found


def _groups(generator: DiffusionChoice | RandomChoice) -> tuple[str, frozenset[int]] | None:
    """The space groups asked for, in words and as numbers."""
    numbers = frozenset(generator.spacegroups)
    words = [f"space group {' or '.join(map(str, sorted(numbers)))}"] if numbers else []
    if isinstance(generator, DiffusionChoice) and generator.crystal_system:
        from ..generators.diffusion.request import CRYSTAL_SYSTEMS

        low, high = CRYSTAL_SYSTEMS[generator.crystal_system]
        system = frozenset(range(low, high + 1))
        words.append(f"{generator.crystal_system} system")
        numbers = numbers & system if numbers else system
    return (", ".join(words), numbers) if words else None


def _answer(*, obeyed: bool) -> Answer:
    return Answer.YES if obeyed else Answer.NO


def _formula(composition: tuple[tuple[int, int], ...], crystal: Crystal) -> Answer:
    return _answer(obeyed=crystal.reduced_composition == composition)


def _elements(allowed: frozenset[str], crystal: Crystal, *, every: bool) -> Answer:
    present = frozenset(crystal.elements)
    return _answer(obeyed=present == allowed if every else present <= allowed)


def _number(wanted: int, crystal: Crystal) -> Answer:
    return _answer(obeyed=len(crystal.elements) == wanted)


def _atoms(sizes: range, crystal: Crystal) -> Answer:
    return _answer(obeyed=len(crystal) in sizes)


def _spacegroup(asked: frozenset[int], crystal: Crystal) -> Answer:
    from ..report.cif import symmetry

    found = symmetry(crystal, SYMPREC)
    if found is None:
        return Answer.NO
    if found[0] in asked:
        return Answer.YES
    return Answer.HIGHER if asked & subgroups(found[0]) else Answer.NO


def _planar(planar: PlanarChoice, crystal: Crystal) -> Answer:
    from ..generators.diffusion.planar import verify

    return _answer(obeyed=verify(crystal, planar.lattice, planar.element).found)


@cache
def subgroups(number: int) -> frozenset[int]:
    """Types of all proper subgroups of a space group, by pymatgen's table of maximal ones."""
    from pymatgen.symmetry.groups import SYMM_DATA

    maximal = {int(key): value for key, value in SYMM_DATA["maximal_subgroups"].items()}
    found: set[int] = set()
    ahead = list(maximal[number])
    while ahead:
        group = int(ahead.pop())
        if group not in found:
            found.add(group)
            ahead += maximal[group]
    return frozenset(found)
