"""Known phases on disk, memory-mapped: facts, crystals, and what the matcher and the index compare.

A store is built once per table, under the cache folder by the table's digest, and shared read-only by
all processes. Opened, it costs no memory but the pages that are read: 26,000 phases or 1,000,000.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, parse_elements
from ..core.protocols import Phase
from .arrays import Arrays
from .novelty import Comparable
from .phases import Composition

FORMAT = 2
"""Of the store, and of what reducing a crystal gives; another number means another folder."""

AMD_LENGTH = 100


@dataclass(frozen=True)
class StoreInfo:
    """What was read when the store was built.

    Args:
        digest: SHA-256 (hex) of the table. coverage: one line for a person.
        metadata: key-value metadata of the table.
    """

    digest: str
    coverage: str
    metadata: dict[str, str]


class PhaseStore:
    """Known phases by row, in the order of the table.

    Safe to read from several threads at once.

    Args:
        info: where they come from.
        arrays: as `store_build` wrote them.
    """

    scaled = False  # `amd_vectors` are in angstrom

    def __init__(self, info: StoreInfo, arrays: Arrays) -> None:
        self.info = info
        self._arrays = arrays
        # The seven arrays that `kernels.batch` describes.
        self._comparable = Comparable(tuple(arrays[name] for name in _COMPARED), arrays["amd"])

    def __len__(self) -> int:
        return len(self._arrays["energies"])

    def material_id(self, row: int) -> str:
        """Id in the source."""
        begin, end = self._span("id", row)
        return self._arrays["ids"][begin:end].tobytes().decode()

    def composition(self, row: int) -> Composition:
        """Reduced composition."""
        begin, end = self._span("composition", row)
        return tuple(map(tuple, self._arrays["compositions"][begin:end].tolist()))

    def spacegroup(self, row: int) -> int | None:
        """Its number, where the table says it."""
        return int(self._arrays["spacegroups"][row]) or None

    def phase(self, row: int, *, crystal: bool = False) -> Phase:
        """The phase; with its crystal if asked for."""
        energy = float(self._arrays["energies"][row])
        return Phase(
            self.material_id(row),
            self.composition(row),
            None if np.isnan(energy) else energy,
            self.spacegroup(row),
            self.crystal(row) if crystal else None,
        )

    def crystal(self, row: int) -> Crystal:
        """The crystal as the table has it."""
        begin = int(self._arrays["starts"][row])
        end = begin + int(self._arrays["sizes"][row])
        return Crystal(
            self._arrays["lattices"][row],
            self._arrays["frac"][begin:end],
            self._arrays["numbers"][begin:end].astype(np.int64),
        )

    def rows(self, composition: Composition) -> list[int]:
        """Rows of that reduced composition, rising."""
        return self.find([composition])[0]

    def find(self, compositions: Sequence[Composition]) -> list[list[int]]:
        """Rows of each of some reduced compositions, rising."""
        keys = np.array([composition_key(c) for c in compositions], dtype=np.uint64)
        begins, ends = (np.searchsorted(self._arrays["keys"], keys, side).tolist() for side in _SIDES)
        by_key = self._arrays["rows_by_key"]
        return [
            [row for row in by_key[a:b].tolist() if self.composition(row) == c] if b > a else []
            for a, b, c in zip(begins, ends, compositions, strict=True)
        ]

    def comparable(self, rows: NDArray[np.int64], with_vector: NDArray[np.int64]) -> Comparable:  # noqa: ARG002
        """All phases: they were reduced when the store was built."""
        return self._comparable

    def distinct(self) -> NDArray[np.int64]:
        """The first row of each reduced composition, rising."""
        first = np.unique(self._arrays["keys"], return_index=True)[1]
        return np.sort(self._arrays["rows_by_key"][first])

    def amd_entries(self) -> NDArray[np.int64]:
        """All of AMD(100)."""
        return np.arange(AMD_LENGTH)

    def amd_vectors(
        self, rows: Sequence[int] | slice, columns: Sequence[int] | slice
    ) -> NDArray[np.float32]:
        """Entries of the AMD vectors of some phases in angstrom; NaN where there is none."""
        vectors: NDArray[np.float32] = self._arrays["amd"][rows][:, columns]
        return vectors * self._arrays["units"][rows][:, None]

    def like(self, composition: Composition) -> tuple[Phase, ...]:
        """Phases of that reduced composition with their crystals, with or without an energy."""
        return tuple(self.phase(row, crystal=True) for row in self.rows(composition))

    def entries(self, elements: Iterable[str]) -> tuple[Phase, ...]:
        """Phases with a formation energy whose elements are a subset of `elements`, without crystals.

        Raises:
            InputError: a symbol is no element, or there is none.
        """
        return tuple(self.phase(row) for row in self.rows_within(elements))

    def rows_within(self, elements: Iterable[str]) -> list[int]:
        """Rows of phases whose elements are a subset of `elements`, system by system.

        Raises:
            InputError: a symbol is no element, or there is none.
        """
        space = element_mask(ATOMIC_NUMBERS[s] for s in parse_elements(elements))
        inside = np.flatnonzero(((self._arrays["systems"] & ~space) == 0).all(axis=1))
        return [row for system in inside.tolist() for row in self._rows_of_system(system)]

    def _rows_of_system(self, system: int) -> list[int]:
        begin, end = self._span("system", system)
        rows: list[int] = self._arrays["rows_by_system"][begin:end].tolist()
        return rows

    def _span(self, name: str, row: int) -> tuple[int, int]:
        ends = self._arrays[f"{name}_ends"]
        return int(ends[row - 1]) if row else 0, int(ends[row])


_COMPARED = (
    "reduced_lattices",
    "starts",
    "reduced_sizes",
    "states",
    "reduced_frac",
    "reduced_numbers",
    "vector_rows",
)
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def composition_key(composition: Composition) -> np.uint64:
    """64 bits of a reduced composition, the same on every machine."""
    packed = b"".join(struct.pack("<BI", z, n) for z, n in composition)
    return np.uint64(int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little"))


def element_mask(numbers: Iterable[int]) -> NDArray[np.uint64]:
    """Bit z of 128 is set for each atomic number z, (2,)."""
    bits = sum({1 << z for z in numbers})
    return np.array([bits & (2**64 - 1), bits >> 64], dtype=np.uint64)
