"""An index of crystals: proposes the few that may match, in order, and lets the matcher decide."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core.crystal import Crystal
from ..core.packed import Packed, pack
from .geometry import require_computable
from .matching import MatcherSettings
from .pool import Pool, failure, in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Composition = tuple[tuple[int, int], ...]

AMD_RADIUS = 0.45
"""Largest difference of scaled AMD(100) of a pair that goes to the matcher, at its default tolerances.

Of the pairs of one composition and size of primitive cell that match, so many lie within a radius, and
so many of all such pairs pass (`benchmarks/deduplication.py`; matches / pairs in %):

| set | pairs | 0.10 | 0.20 | 0.30 | 0.45 |
| --- | --- | --- | --- | --- | --- |
| 5,000 varied crystals, 10 % noisy copies | 699 | 98.9 / 90 | 100 / 98 | 100 / 99 | 100 / 100 |
| 3,000 of the diffusion model and copies of them | 35,400 | 77 / 51 | 98.9 / 83 | 100 / 94 | 100 / 100 |
| 400 random polymorphs of carbon and copies | 14,145 | 50 / 4 | 78 / 19 | 96 / 54 | 99.9 / 92 |

Composition and the size of the primitive cell sort out most pairs; a narrower radius would lose matches.
"""

FEW = 8
"""So few crystals of one composition all go to the matcher: that costs no more than their vectors."""


@dataclass(frozen=True)
class Match:
    """A crystal of the index that matches, and the largest difference of the scaled AMD vectors.

    It is None where a cell is too thin to gather the neighbours.
    """

    name: str
    amd_distance: float | None


class Query(NamedTuple):
    """Is a crystal the same as one of the `first` crystals of a composition?

    Args:
        slot: of the crystal. bucket: slots of that composition, rising.
    """

    slot: int
    bucket: list[int]
    first: int


class StructureIndex:
    """Crystals by name, and the earliest of them that matches a given one.

    Nothing is computed for a crystal that is alone in its composition. One that cannot be reduced or
    has no AMD vector matches nothing. Safe for one thread; a call runs `threads` of its own.

    Args:
        settings: tolerances of the matcher.
        threads: Nothing depends on their number.
        radius: largest difference of scaled AMD(100) of a pair that is proposed, for the default
            tolerances; wider ones widen it.
    """

    def __init__(
        self, settings: MatcherSettings | None = None, threads: int = 1, radius: float = AMD_RADIUS
    ) -> None:
        self.settings = s = settings or MatcherSettings()
        self.compared = 0
        """Pairs that went to the matcher."""
        self._threads = threads
        self._radius = radius * max(1.0, s.ltol / 0.2, s.stol / 0.3, s.angle_tol / 5)
        self._pool = Pool(threads)
        self._names: list[str] = []
        self._buckets: defaultdict[Composition, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Sequence[str], crystals: Sequence[Crystal], packed: Packed) -> list[Query]:
        """Append crystals that a geometry can be computed for (`geometry.require_computable`).

        Returns:
            For each the question whether one before it is the same.
        """
        slots = self._pool.append(packed).tolist()
        self._names.extend(names)
        queries = []
        for slot, crystal in zip(slots, crystals, strict=True):
            bucket = self._buckets[crystal.reduced_composition]
            queries.append(Query(slot, bucket, len(bucket)))
            bucket.append(slot)
        return queries

    def query(self, slot: int, crystal: Crystal) -> Query:
        """The question asked about a crystal of the index once more."""
        bucket = self._buckets[crystal.reduced_composition]
        return Query(slot, bucket, bisect_left(bucket, slot))

    def earliest_matches(self, queries: Sequence[Query]) -> list[Match | ValueError | None]:
        """For each crystal of the index the first, of those that its query names, that is the same.

        ValueError says why none was found: the crystal could not be reduced, or the matcher failed on a
        pair and no other crystal matched.
        """
        return self._ask(self._pool, queries)

    def earliest_match(self, crystal: Crystal) -> Match | None:
        """The first crystal, in the order of `add`, that the matcher says is the same as `crystal`.

        Raises:
            ValueError: as in `earliest_matches`, or no geometry can be computed for the crystal.
        """
        require_computable(crystal)
        bucket = self._buckets.get(crystal.reduced_composition)
        if bucket is None:
            return None
        pool = Pool()
        pool.append(pack([crystal]))
        (found,) = self._ask(pool, [Query(0, bucket, len(bucket))])
        if isinstance(found, ValueError):
            raise found
        return found

    def _ask(self, pool: Pool, queries: Sequence[Query]) -> list[Match | ValueError | None]:
        asked = [i for i, query in enumerate(queries) if query.first]
        found: list[Match | ValueError | None] = [None] * len(queries)
        if asked:
            kept = [queries[i] for i in asked]
            slots = np.array([query.slot for query in kept])
            self._prepare(pool, kept, slots)
            matches, codes = self._first_matches(pool, kept, slots)
            same = matches >= 0
            self._pool.vectorise(matches[same])
            pool.vectorise(slots[same])
            for i, slot, match, code in zip(
                asked, slots.tolist(), matches.tolist(), codes.tolist(), strict=True
            ):
                if match >= 0:
                    distance = self._pool.distance(match, pool, slot)
                    found[i] = Match(self._names[match], distance)
                elif code < 0:
                    found[i] = failure(code)
        return found

    def _prepare(self, pool: Pool, queries: Sequence[Query], slots: NDArray[np.int64]) -> None:
        """Reduce all that is compared; vectors where so many come before one that they choose."""
        self._pool.reduce(_members(queries)[0])
        pool.reduce(slots)
        many = [query for query in queries if query.first > FEW]
        if many:
            self._pool.vectorise(_members(many)[0])
            pool.vectorise(np.array([query.slot for query in many]))

    def _first_matches(
        self, pool: Pool, queries: Sequence[Query], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slot of the match of each query, or -1; code of a failure, or 0."""
        from .kernels.batch import first_matches

        judge: Any = first_matches  # mypy cannot count what is unpacked
        s = self.settings
        members, heads = _members(queries)
        counts = np.array([query.first for query in queries])
        found, codes, compared = np.full(len(slots), -1), np.zeros_like(slots), np.zeros_like(slots)
        known, asked = self._pool.store(), pool.store()
        tolerances = (self._radius, s.ltol, s.stol, s.angle_tol)

        def share(a: int, b: int) -> None:
            rows: list[Any] = [slots[a:b], members, heads[a:b], counts[a:b], FEW, tolerances]
            results = (x[a:b] for x in (found, codes, compared))
            judge(known, self._pool.vectors, asked, pool.vectors, *rows, *results)

        in_threads(share, len(slots), self._threads)
        self.compared += int(compared.sum())
        return found, codes


def _members(queries: Sequence[Query]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The slots of all buckets, one after the other, and where the bucket of each query begins."""
    begins: dict[int, int] = {}
    members: list[int] = []
    for query in queries:
        if id(query.bucket) not in begins:
            begins[id(query.bucket)] = len(members)
            members += query.bucket
    return np.array(members), np.array([begins[id(query.bucket)] for query in queries])
