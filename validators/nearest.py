"""The nearest known phase, by composition and by structure: exact, and under a millisecond each.

Composition: Euclidean distance of Magpie features as they are (`magpie.magpie_features`). Structure:
largest difference of AMD vectors. Both are the distances of Negishi et al., "Continuous uniqueness and
novelty metrics for generative modeling of inorganic crystals", arXiv:2510.12405 (2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..core.crystal import Crystal
from .fingerprint import AMD_ENTRIES, amd
from .magpie import magpie_features
from .phases import Composition

Vectors = NDArray[np.float32]

_HEADS = 12  # columns of a vector that the tree holds: distances over them are lower bounds
_SAMPLE = 10_000  # compositions whose features are held at once
_AT_FIRST = 4  # phases whose distances bound the search


class KnownPhases(Protocol):
    """Known phases by row: `store.PhaseStore`, `packed_phases.PackedPhases`."""

    scaled: bool
    """Whether AMD vectors are in units of (volume per atom)^(1/3) instead of angstrom."""

    def material_id(self, row: int) -> str:
        """Id in the source."""
        ...

    def composition(self, row: int) -> Composition:
        """Reduced composition."""
        ...

    def spacegroup(self, row: int) -> int | None:
        """Its number, where the source says it."""
        ...

    def crystal(self, row: int) -> Crystal | None:
        """The crystal, where the reference has structures."""
        ...

    def rows(self, composition: Composition) -> Sequence[int]:
        """Rows of a reduced composition, rising."""
        ...

    def distinct(self) -> NDArray[np.int64]:
        """The first row of each reduced composition, rising."""
        ...

    def amd_entries(self) -> NDArray[np.int64]:
        """Which entries of the AMD, counted from 0, its vectors hold."""
        ...

    def amd_vectors(self, rows: Sequence[int] | slice, columns: Sequence[int] | slice) -> Vectors:
        """Entries of the AMD vectors of some phases; NaN where there is none."""
        ...


@runtime_checkable
class Surveyed(Protocol):
    """A reference that gives access to all its phases."""

    @property
    def known(self) -> KnownPhases:
        """They."""
        ...


@runtime_checkable
class SurveyedBySystem(Protocol):
    """A reference that has the phases of the chemical systems that were asked for, and no others."""

    def known_in(self, elements: Iterable[str]) -> KnownPhases:
        """The phases of a chemical system and its subsystems.

        Raises:
            ReferenceUnavailableError: they cannot be had; says why.
        """
        ...


class Nearest:
    """The nearest of many vectors, exactly: a tree over a few columns proposes, whole vectors decide.

    Args:
        heads: (n, k) columns of the vectors; rows with NaN are never found.
        whole: whole vectors of given rows.
        p: 2: Euclidean distance; infinity: the largest difference.
    """

    def __init__(self, heads: Vectors, whole: Callable[[list[int]], Vectors], p: float) -> None:
        self._rows = np.flatnonzero(np.isfinite(heads).all(axis=1))
        self._tree = cKDTree(heads[self._rows]) if len(self._rows) else None
        self._whole = whole
        self._p = p

    def query(self, head: Vectors, vector: Vectors) -> tuple[float, int] | None:
        """Distance and row of the nearest, the first of several; None where there is none."""
        if self._tree is None or not np.isfinite(vector).all():
            return None
        found = np.atleast_1d(self._tree.query(head, k=min(_AT_FIRST, len(self._rows)), p=self._p)[1])
        bound = self._distances(vector, found).min()
        # A little more than the bound: the tree rounds otherwise than the whole vectors do.
        near = np.sort(self._tree.query_ball_point(head, bound * (1 + 1e-5) + 1e-6, p=self._p))
        distances = self._distances(vector, near)
        first = int(distances.argmin())
        return float(distances[first]), int(self._rows[near[first]])

    def _distances(self, vector: Vectors, places: NDArray[np.int64]) -> NDArray[np.float64]:
        whole = self._whole(self._rows[places].tolist()).astype(np.float64)
        return np.asarray(np.linalg.norm(whole - vector, ord=self._p, axis=1))


class NearestPhases:
    """Distances of crystals to the nearest known phase. Built when first asked.

    Args:
        known: the phases.
    """

    def __init__(self, known: KnownPhases) -> None:
        self.known = known

    def by_composition(self, composition: Composition) -> tuple[float, int] | None:
        """Magpie distance to, and row of, the nearest reduced composition; None without phases."""
        nearest, heads, rows = self._compositions
        vector = magpie_features([composition])[0].astype(np.float32)
        found = nearest.query(vector[heads], vector)
        return None if found is None else (found[0], int(rows[found[1]]))

    def by_structure(self, crystal: Crystal) -> tuple[float, int] | None:
        """AMD distance to, and row of, the nearest structure; None without structures.

        Raises:
            ValueError: as `fingerprint.amd`.
        """
        vector = amd(crystal, 100, scaled=self.known.scaled)[self.known.amd_entries()].astype(np.float32)
        return self._structures.query(vector[_heads_of(self.known)], vector)

    @cached_property
    def _compositions(self) -> tuple[Nearest, NDArray[np.int64], NDArray[np.int64]]:
        """The search, the columns of its tree, and the row of each place in it."""
        rows = self.known.distinct()
        some = self._features(rows[:: len(rows) // _SAMPLE + 1])
        columns = np.sort(np.argsort(-some.var(axis=0))[:_HEADS]) if len(some) else np.arange(_HEADS)
        blocks = (
            self._features(rows[i : i + _SAMPLE])[:, columns] for i in range(0, len(rows), _SAMPLE)
        )
        heads = np.concatenate([np.empty((0, len(columns)), np.float32), *blocks])
        return Nearest(heads, lambda places: self._features(rows[places]), 2), columns, rows

    def _features(self, rows: NDArray[np.int64]) -> Vectors:
        return magpie_features([self.known.composition(r) for r in rows.tolist()]).astype(np.float32)

    @cached_property
    def _structures(self) -> Nearest:
        known, everything = self.known, slice(None)
        heads = known.amd_vectors(everything, _heads_of(known))
        return Nearest(heads, lambda rows: known.amd_vectors(rows, everything), np.inf)


def _heads_of(known: KnownPhases) -> list[int]:
    """Places of the tree's columns among the entries of the AMD."""
    return np.flatnonzero(np.isin(known.amd_entries(), AMD_ENTRIES)).tolist()
