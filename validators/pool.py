"""Reduced structures and their AMD vectors in flat arrays, worked out on demand by several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.packed import Packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

MAX_ASPECT = 500.0
"""Longest over shortest vector of the reduced cell of what is compared."""

K = 100
"""Length of the AMD vectors."""

_LEAST = 32  # crystals for which another thread is worth it
_RAW, _REDUCED = 0, 1
_UNKNOWN = -100

_REASONS = {
    -1: "the cell is too thin to be compared",
    -2: "too many ways to lay the atoms on one another: they are too many and too alike",
}


def failure(code: int) -> ValueError:
    """What a negative code of the kernels means."""
    return ValueError(_REASONS[code])


class Pool:
    """Crystals by slot, 0, 1, 2, ...: raw at first, reduced in place when they are first compared.

    A crystal of n atoms takes 89 + 25 n bytes, and 400 more once its vector is known; the arrays
    grow by half. Threads work on the crystals of one call; calls come one at a time.

    Args:
        threads: nothing depends on their number.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._count = self._atoms = self._known = 0
        self.lattices = np.empty((0, 3, 3))
        self.starts = np.empty(0, dtype=np.int64)
        self.sizes = np.empty(0, dtype=np.int32)
        self.states = np.empty(0, dtype=np.int8)
        self.frac = np.empty((0, 3))
        self.numbers = np.empty(0, dtype=np.uint8)
        self.rows = np.empty(0, dtype=np.int32)
        self.vectors = np.empty((0, K), dtype=np.float32)

    def __len__(self) -> int:
        return self._count

    def store(self) -> tuple[NDArray[Any], ...]:
        """The arrays, as `kernels.batch` describes a store."""
        return (
            self.lattices,
            self.starts,
            self.sizes,
            self.states,
            self.frac,
            self.numbers,
            self.rows,
        )

    def append(self, packed: Packed) -> Ints:
        """Take in crystals that a geometry can be computed for; their slots."""
        begin, end = self._count, self._count + len(packed.sizes)
        atoms = self._atoms + len(packed.frac_coords)
        for name in ("lattices", "starts", "sizes", "states", "rows"):
            setattr(self, name, _grown(getattr(self, name), begin, end))
        for name in ("frac", "numbers"):
            setattr(self, name, _grown(getattr(self, name), self._atoms, atoms))
        self.lattices[begin:end], self.sizes[begin:end] = packed.lattices, packed.sizes
        self.starts[begin:end] = self._atoms + packed.ends - packed.sizes
        self.states[begin:end], self.rows[begin:end] = _RAW, _UNKNOWN
        self.frac[self._atoms : atoms] = packed.frac_coords
        self.numbers[self._atoms : atoms] = packed.atomic_numbers
        self._count, self._atoms = end, atoms
        return np.arange(begin, end)

    def reduce(self, slots: Ints) -> None:
        """Reduce those that are not yet: to the primitive Niggli cell, as the matcher does."""
        slots = np.unique(slots[self.states[slots] == _RAW])
        if len(slots) == 0:
            return
        from .kernels.batch import reduce_many

        arrays = self.lattices, self.starts, self.sizes, self.states, self.frac, self.numbers
        in_threads(lambda a, b: reduce_many(*arrays, slots[a:b], MAX_ASPECT), len(slots), self._threads)

    def vectorise(self, slots: Ints) -> None:
        """Work out the scaled AMD(100) of those, reduced, whose vector is not known yet."""
        slots = np.unique(slots[(self.rows[slots] == _UNKNOWN) & (self.states[slots] == _REDUCED)])
        if len(slots) == 0:
            return
        from .kernels.batch import vectors_many

        known = self._known + len(slots)
        self.vectors = _grown(self.vectors, self._known, known)
        self.rows[slots] = np.arange(self._known, known)
        self._known = known
        arrays = self.lattices, self.starts, self.sizes, self.frac
        in_threads(
            lambda a, b: vectors_many(*arrays, slots[a:b], self.rows, self.vectors),
            len(slots),
            self._threads,
        )

    def failed(self, slot: int) -> ValueError | None:
        """Why a crystal could not be reduced, if so."""
        code = int(self.states[slot])
        return failure(code) if code < 0 else None

    def distance(self, slot: int, other: Pool, other_slot: int) -> float | None:
        """Largest difference of two scaled AMD vectors; None where one of them cannot be."""
        row, other_row = int(self.rows[slot]), int(other.rows[other_slot])
        if row < 0 or other_row < 0:
            return None
        return float(np.abs(self.vectors[row] - other.vectors[other_row]).max())


def in_threads(work: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call `work(a, b)` on ranges that cover 0 to n, side by side where that is worth it."""
    if threads == 1 or n < 2 * _LEAST:
        work(0, n)
        return
    # Ranges are short, for the last crystals of a bucket have the most to be compared with.
    step = max(_LEAST, n // (32 * threads))
    edges = [*range(0, n, step), n]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges, edges[1:]))


def _grown(array: NDArray[Any], used: int, wanted: int) -> NDArray[Any]:
    """The array with room for `wanted` rows, of which `used` are filled."""
    if wanted <= len(array):
        return array
    grown = np.empty((max(wanted, len(array) * 3 // 2), *array.shape[1:]), dtype=array.dtype)
    grown[:used] = array[:used]
    return grown
