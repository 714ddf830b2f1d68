"""The phases of one chemical system and its subsystems, out of a store of more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ..core.crystal import Crystal
    from .nearest import Vectors
    from .phases import Composition
    from .store import PhaseStore


class SystemPhases:
    """They by rows of their own, in the order of the store; see `nearest.KnownPhases`.

    Args:
        store: where they are. elements: of the system.
    """

    def __init__(self, store: PhaseStore, elements: Iterable[str]) -> None:
        self._store = store
        self._rows = np.array(sorted(store.rows_within(elements)), dtype=np.int64)
        self.scaled = store.scaled

    def material_id(self, row: int) -> str:
        """Id in the source."""
        return self._store.material_id(int(self._rows[row]))

    def composition(self, row: int) -> Composition:
        """Reduced composition."""
        return self._store.composition(int(self._rows[row]))

    def spacegroup(self, row: int) -> int | None:
        """Its number, where the table says it."""
        return self._store.spacegroup(int(self._rows[row]))

    def crystal(self, row: int) -> Crystal:
        """The crystal as the table has it."""
        return self._store.crystal(int(self._rows[row]))

    def rows(self, composition: Composition) -> list[int]:
        """Rows of that reduced composition, rising."""
        found = np.array(self._store.rows(composition), dtype=np.int64)
        return np.flatnonzero(np.isin(self._rows, found)).tolist()

    def distinct(self) -> NDArray[np.int64]:
        """The first row of each reduced composition, rising."""
        return np.flatnonzero(np.isin(self._rows, self._store.distinct()))

    def amd_entries(self) -> NDArray[np.int64]:
        """Which entries of the AMD its vectors hold."""
        return self._store.amd_entries()

    def amd_vectors(self, rows: Sequence[int] | slice, columns: Sequence[int] | slice) -> Vectors:
        """Entries of the AMD vectors of some phases; NaN where there is none."""
        return self._store.amd_vectors(self._rows[rows].tolist(), columns)
