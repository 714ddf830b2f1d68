"""Training, validation and test sets that share no group of crystals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from ..core.errors import InputError

Ints = NDArray[np.int64]


class Part(StrEnum):
    """The sets of a split, in this order."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class By(StrEnum):
    """What crystals of one group share."""

    CHEMSYS = "chemsys"
    FORMULA = "formula"
    PROTOTYPE = "prototype"
    ELEMENT = "element"


@dataclass(frozen=True)
class Fractions:
    """Shares of the validation and the test set; the rest is for training.

    Raises:
        InputError: a share outside [0, 1), no test set, or nothing left for training.
    """

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name, value in (("validation", self.validation), ("test", self.test)):
            if not 0 <= value < 1:
                raise InputError(f"{name}: the fraction is {value}, expected 0 up to below 1")
        if self.test == 0:
            raise InputError("test: the fraction is 0; a split needs a test set")
        if self.validation + self.test >= 1:
            total = self.validation + self.test
            raise InputError(f"validation + test = {total:g}: nothing is left for training")

    def sizes(self, n: int) -> dict[Part, float]:
        """Crystals wanted in each part, of `n`."""
        held = {Part.VALIDATION: self.validation * n, Part.TEST: self.test * n}
        return {Part.TRAIN: n - sum(held.values()), **held}


def group_names(crystals: Sequence[Crystal], by: By, spacegroups: Sequence[int | None]) -> list[str]:
    """The group of each crystal: chemical system, reduced formula, or prototype.

    A prototype is space group and stoichiometry ("221 A:1 B:1 C:3"), the elements left open; it lumps
    structures of one space group and stoichiometry that occupy different sites, so it never separates
    two of one type.

    Args:
        spacegroups: number of each crystal, for prototypes; one without is a group of its own.
    """
    match by:
        case By.CHEMSYS:
            return [crystal.chemsys for crystal in crystals]
        case By.FORMULA:
            return [crystal.formula for crystal in crystals]
        case By.PROTOTYPE:
            pairs = zip(crystals, spacegroups, strict=True)
            return [
                _prototype(crystal, group) if group else f"alone {i}"
                for i, (crystal, group) in enumerate(pairs)
            ]
        case By.ELEMENT:
            raise ValueError("a crystal belongs to several elements: see by_elements")


def _prototype(crystal: Crystal, spacegroup: int) -> str:
    counts = sorted(count for _, count in crystal.reduced_composition)
    return f"{spacegroup} " + " ".join(f"{chr(65 + i % 26)}:{n}" for i, n in enumerate(counts))


def by_groups(groups: Ints, fractions: Fractions, seed: int, held_out: Sequence[int]) -> list[Part]:
    """The part of each crystal; those of one group stay together.

    Groups that fit into no held-out set come first, to where the most room is; all others in an order
    drawn from `seed`, each to a part drawn by the room left among those where it fits.

    Args:
        groups: (n,) number of each crystal's group, from 0.
        fractions: shares wanted; reached as well as the groups allow. seed: of the draws.
        held_out: groups that make up the test set; then no other is put there.

    Raises:
        InputError: the test set or the training set comes out empty.
    """
    sizes = np.bincount(groups)
    room = fractions.sizes(len(groups))
    parts: dict[int, Part] = dict.fromkeys(held_out, Part.TEST)
    if held_out:
        room[Part.TEST] = 0.0
    rng = np.random.default_rng(seed)
    smallest = min(value for value in room.values() if value > 0)
    drawn = rng.permutation(len(sizes))
    order = sorted(drawn.tolist(), key=lambda g: -sizes[g] if sizes[g] > smallest else 0)
    for group in order:
        if group not in parts:
            parts[group] = _choose(room, int(sizes[group]), rng)
            room[parts[group]] -= int(sizes[group])
    found = [parts[group] for group in groups.tolist()]
    largest = f"the largest of {len(sizes)} groups holds {sizes.max()} of {len(groups)} crystals"
    _require_parts(found, fractions, largest)
    return found


def _choose(room: Mapping[Part, float], size: int, rng: np.random.Generator) -> Part:
    fitting = {part: left for part, left in room.items() if left >= size}
    if not fitting:
        return max(room, key=lambda part: room[part])
    weights = np.array(list(fitting.values()))
    return list(fitting)[rng.choice(len(fitting), p=weights / weights.sum())]


def by_elements(
    crystals: Sequence[Crystal], fractions: Fractions, seed: int, held_out: Sequence[str]
) -> tuple[list[Part], dict[Part, list[str]]]:
    """The part of each crystal, and the elements that training never sees.

    Elements are drawn for the test set, then for the validation set, as long as the set stays within
    its fraction; a crystal with any of them goes there, to the test set first. Every crystal held out
    has an element that no training crystal has; its other elements may be known.

    Args:
        held_out: elements of the test set, in place of drawn ones.

    Raises:
        InputError: no crystal has an element of `held_out`, or the training or test set is empty.
    """
    present = [frozenset(crystal.elements) for crystal in crystals]
    counts = Counter(element for elements in present for element in elements)
    if unknown := [element for element in held_out if element not in counts]:
        raise InputError(f"--hold-out: no crystal contains {', '.join(unknown)}")
    order = np.random.default_rng(seed).permutation(sorted(counts)).tolist()
    sizes = fractions.sizes(len(crystals))
    chosen: dict[Part, list[str]] = {Part.TEST: list(held_out), Part.VALIDATION: []}
    free = set(range(len(crystals)))
    found = [Part.TRAIN] * len(crystals)
    for part, elements in chosen.items():
        taken = {i for i in free if not present[i].isdisjoint(elements)}
        for element in order if not elements else ():
            more = {i for i in free - taken if element in present[i]}
            if more and len(taken) + len(more) <= sizes[part]:
                taken |= more
                elements.append(element)
        for i in taken:
            found[i] = part
        free -= taken
    _require_parts(
        found, fractions, f"the rarest of {len(counts)} elements is in {min(counts.values())}"
    )
    return found, chosen


def _require_parts(parts: Sequence[Part], fractions: Fractions, why: str) -> None:
    counts = Counter(parts)
    for part in (Part.TEST, Part.TRAIN):
        if not counts[part]:
            raise InputError(
                f"no crystal is left for the {part.value} set "
                f"(validation {fractions.validation:g}, test {fractions.test:g}): {why}",
                hint="lower the thresholds, ask for larger fractions, or group by something finer",
            )
