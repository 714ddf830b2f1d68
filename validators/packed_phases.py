"""Known phases without structures: facts and packed fingerprints, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .fingerprint import AMD_ENTRIES, unpack_fingerprint
from .phases import Composition, Phases


class PackedPhases:
    """`nearest.KnownPhases` of a table of fingerprints.

    Their AMD vectors are the 12 entries inside the fingerprints: in units of (volume per atom)^(1/3),
    for the table has no volumes, and in steps of 1/40.

    Args:
        phases: in the order of the table. fingerprints: packed, of each; None where there is none.
    """

    scaled = True

    def __init__(self, phases: Phases, fingerprints: Sequence[bytes | None]) -> None:
        self._phases = phases.all
        self._fingerprints = fingerprints

    def __len__(self) -> int:
        return len(self._phases)

    def material_id(self, row: int) -> str:
        """Id in the source."""
        return self._phases[row].material_id

    def composition(self, row: int) -> Composition:
        """Reduced composition."""
        return self._phases[row].composition

    def spacegroup(self, row: int) -> int | None:
        """Its number."""
        return self._phases[row].spacegroup

    def crystal(self, row: int) -> Crystal | None:
        """None: the table has none."""
        return self._phases[row].crystal

    def rows(self, composition: Composition) -> Sequence[int]:
        """Rows of a reduced composition, rising."""
        return self._by_composition.get(composition, ())

    def distinct(self) -> NDArray[np.int64]:
        """The first row of each reduced composition, rising."""
        return np.sort(np.array([rows[0] for rows in self._by_composition.values()], dtype=np.int64))

    @cached_property
    def _by_composition(self) -> dict[Composition, list[int]]:
        found: dict[Composition, list[int]] = {}
        for row, phase in enumerate(self._phases):
            found.setdefault(phase.composition, []).append(row)
        return found

    def amd_entries(self) -> NDArray[np.int64]:
        """Those inside fingerprints."""
        return AMD_ENTRIES

    def amd_vectors(
        self, rows: Sequence[int] | slice, columns: Sequence[int] | slice
    ) -> NDArray[np.float32]:
        """Entries of the scaled AMD vectors of some phases; NaN where there is none."""
        return self._vectors[rows][:, columns]

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        length = len(AMD_ENTRIES)
        vectors = np.full((len(self._phases), length), np.nan, np.float32)
        for row, packed in enumerate(self._fingerprints):
            if packed is not None:
                vectors[row] = unpack_fingerprint(packed[: length + 1])[1:]
        return vectors
