"""Which phases compete in a chemical system: packed arrays, looked up for many systems at once."""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np

from ..core.elements import SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .phases import Composition

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_BASE = len(SYMBOLS)  # atomic numbers are its digits: the code of a system is exact, no hash
MAX_CODED = 9
"""So many digits fit into 64 bits; larger systems are looked for one by one."""


class Competing:
    """Compositions in packed arrays, by chemical system. Immutable.

    Args:
        compositions: as in `core.protocols.Phase`; of equal ones the first counts.

    Attributes:
        chosen: (n,) positions in `compositions`, by chemical system; all other arrays follow it.
        numbers: (n, w) atomic numbers, rising, padded with 0. fractions: (n, w) of the atoms.
    """

    def __init__(self, compositions: Sequence[Composition]) -> None:
        numbers, counts = padded(compositions)
        order = np.lexsort((*counts.T[::-1], *numbers.T[::-1]))
        new = np.ones(len(order), dtype=bool)
        new[1:] = _differ(numbers[order]) | _differ(counts[order])
        self.chosen: Ints = order[new]
        self.numbers, counts = numbers[self.chosen], counts[self.chosen]
        self.fractions = counts / counts.sum(axis=1, keepdims=True)
        first = np.ones(len(self.numbers), dtype=bool)
        first[1:] = _differ(self.numbers)
        start = np.flatnonzero(first)
        stop = np.append(start[1:], len(self.numbers)) if len(start) else start
        self._systems = self.numbers[start]
        sizes = (self._systems > 0).sum(axis=1)
        coded = np.flatnonzero(sizes <= MAX_CODED)
        codes = _codes(self._systems[coded])
        self._codes = np.sort(codes)
        self._bounds = np.stack([start, stop], axis=1)
        self._coded_bounds = self._bounds[coded[codes.argsort()]]

    def within(self, elements: Ints) -> tuple[Ints, Ints]:
        """Members of each system and of its subsystems.

        Args:
            elements: (q, k) atomic numbers of each system, rising.

        Returns:
            (p,) which system, rising, and (p,) which member, as positions in this object's arrays.
        """
        coded = elements.shape[1] <= MAX_CODED
        if len(self._codes if coded else self._systems) == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        query, bounds = self._coded(elements) if coded else self._all(elements)
        lengths = bounds[:, 1] - bounds[:, 0]
        ends = lengths.cumsum()
        offset = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(query, lengths), np.repeat(bounds[:, 0], lengths) + offset

    def _coded(self, elements: Ints) -> tuple[Ints, Ints]:
        """Which system has which known subsystem: (p,) and the subsystem's bounds (p, 2)."""
        wanted = elements @ _subset_digits(elements.shape[1])
        at = np.minimum(self._codes.searchsorted(wanted), len(self._codes) - 1)
        query, subset = np.nonzero(self._codes[at] == wanted)
        return query, self._coded_bounds[at[query, subset]]

    def _all(self, elements: Ints) -> tuple[Ints, Ints]:
        """The same where subsets are too many or too large to be coded: every known system is tried."""
        found = []
        for row in elements:
            allowed = np.zeros(_BASE, dtype=bool)
            allowed[[0, *row.tolist()]] = True
            found.append(np.flatnonzero(allowed[self._systems].all(axis=1)))
        query = np.repeat(np.arange(len(found)), [len(f) for f in found])
        return query, self._bounds[np.concatenate(found)]


def padded(compositions: Sequence[Composition]) -> tuple[Ints, Floats]:
    """Atomic numbers (n, w) and counts (n, w) of compositions, padded with 0."""
    lengths = np.array([len(c) for c in compositions], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(compositions)), dtype=np.float64)
    width = int(lengths.max(initial=1))
    numbers = np.zeros((len(lengths), width), dtype=np.int64)
    counts = np.zeros((len(lengths), width))
    filled = np.arange(width) < lengths[:, None]
    numbers[filled], counts[filled] = flat[::2], flat[1::2]
    return numbers, counts


def _differ(rows: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n - 1,) whether each row but the first differs from the one before."""
    return np.asarray((rows[1:] != rows[:-1]).any(axis=1))


def _codes(systems: Ints) -> Ints:
    """Systems (n, w <= 9 digits, then zeros) as one whole number each."""
    digits = systems[:, :MAX_CODED]
    codes: Ints = digits @ _BASE ** np.arange(digits.shape[1], dtype=np.int64)
    return codes


@cache
def _subset_digits(size: int) -> Ints:
    """(size, 2^size - 1): elements (rising) times this are the codes of all their subsets."""
    subsets = [s for k in range(1, size + 1) for s in combinations(range(size), k)]
    digits = np.zeros((size, len(subsets)), dtype=np.int64)
    for column, subset in enumerate(subsets):
        for power, member in enumerate(subset):
            digits[member, column] = _BASE**power
    return digits
