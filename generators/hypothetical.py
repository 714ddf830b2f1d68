"""Compositions that nobody has reported: known ones with other elements or other counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

import numpy as np

from ..core.elements import SYMBOLS
from ..core.errors import InputError
from .charge import charge_balanced

Composition = tuple[tuple[int, int], ...]
"""((atomic number, count), ...) by rising atomic number, reduced."""

_MOST = 9  # atoms of an element, where they are drawn
_TRIES = 200  # draws for one composition before a kind is given up


class Kind(StrEnum):
    """How a hypothetical composition comes from a known one."""

    SWAP = "swap"  # one element for another, as often as known compositions have it; in charge balance
    FILL = "fill"  # all elements new, each as likely; in charge balance
    RECOUNT = "recount"  # its elements, with the counts of another one
    AMOUNTS = "amounts"  # its elements, with any counts up to nine
    RANDOM = "random"  # as many elements, each as likely, with any counts up to nine


def hypothetical(
    known: Sequence[Composition],
    kind: Kind,
    n: int,
    rng: np.random.Generator,
    taken: Collection[Composition] = (),
) -> list[Composition]:
    """`n` different compositions of at least two elements, none of them known nor among the `taken`.

    Of swapped and recounted ones, sizes and frequencies of elements are those of the known compositions:
    nothing but the combination tells the two apart.

    Raises:
        InputError: not so many can be found.
    """
    seeds = [c for c in known if len(c) > 1]
    if not seeds:
        raise InputError("no known composition of two or more elements to start from")
    draw = _draws(seeds, rng)[kind]
    seen: set[Composition] = {*known, *taken}
    found: list[Composition] = []
    for _ in range(n * _TRIES):
        if len(found) == n:
            return found
        made = draw(seeds[int(rng.integers(len(seeds)))])
        if made is not None and len(made) > 1 and made not in seen:
            seen.add(made)
            found.append(made)
    if len(found) == n:
        return found
    raise InputError(f"only {len(found)} of {n} compositions found by '{kind.value}'")


def _draws(
    known: Sequence[Composition], rng: np.random.Generator
) -> dict[Kind, Callable[[Composition], Composition | None]]:
    occurrences = np.array([z for c in known for z, _ in c])
    elements = np.unique(occurrences)
    by_size: dict[int, list[Composition]] = {}
    for c in known:
        by_size.setdefault(len(c), []).append(c)

    def swap(c: Composition) -> Composition | None:
        place = int(rng.integers(len(c)))
        new = int(occurrences[rng.integers(len(occurrences))])
        return _balanced(_merged([(new if i == place else z, n) for i, (z, n) in enumerate(c)]))

    def fill(c: Composition) -> Composition:
        new = rng.choice(elements, len(c), replace=False).tolist()
        return _merged([(z, n) for z, (_, n) in zip(new, c, strict=True)])

    def recount(c: Composition) -> Composition:
        others = by_size[len(c)]
        counts = rng.permutation([n for _, n in others[int(rng.integers(len(others)))]]).tolist()
        return _merged([(z, n) for (z, _), n in zip(c, counts, strict=True)])

    def amounts(c: Composition) -> Composition:
        counts = rng.integers(1, _MOST + 1, len(c)).tolist()
        return _merged([(z, n) for (z, _), n in zip(c, counts, strict=True)])

    return {
        Kind.SWAP: swap,
        Kind.FILL: lambda c: _balanced(fill(c)),
        Kind.RECOUNT: recount,
        Kind.AMOUNTS: amounts,
        Kind.RANDOM: lambda c: amounts(fill(c)),
    }


def _balanced(composition: Composition) -> Composition | None:
    counts = {SYMBOLS[z]: n for z, n in composition}
    return composition if charge_balanced(counts) else None


def _merged(pairs: Collection[tuple[int, int]]) -> Composition:
    """Reduced; the same element twice counts once with both amounts."""
    counts: dict[int, int] = {}
    for z, n in pairs:
        counts[z] = counts.get(z, 0) + n
    factor = math.gcd(*counts.values())
    return tuple((z, counts[z] // factor) for z in sorted(counts))
