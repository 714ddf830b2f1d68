"""An index of crystals: proposes the few that may match, in order, and lets the matcher decide."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .fingerprint import amd
from .matching import Matcher, MatcherSettings, ReducedStructure, prepare

_log = logging.getLogger("heliodor.validators")

AMD_RADIUS = 0.45
"""Largest difference of scaled AMD(100) for which a pair goes to the matcher, at its default tolerances.

Every pair found to match lies within 0.35: 402 same-formula pairs of 26,438 Materials Project crystals
(99 % within 0.22), 1,491 perturbed copies (within 0.16), and 225 pairs among random polymorphs of carbon
and silica and their distorted copies (within 0.22; 84,710 pairs compared). Composition and the size of
the primitive cell sort out most of the rest, so a narrower radius would save little.
"""

_K = 100
_FEW = 8  # so few members all go to the matcher: that costs no more than their AMD vectors


@dataclass(frozen=True)
class Match:
    """A crystal of the index that matches, and the largest difference of the scaled AMD vectors."""

    name: str
    amd_distance: float


class Member:
    """A crystal in the index or asked about. Its AMD vector and reduced cell are made when first needed.

    Args:
        name: key or material id.
        crystal: the crystal; held packed (`pack`) where many are kept, for they cost 0.6 kB then.
    """

    __slots__ = ("_reduced", "_source", "_vector", "composition", "name")

    def __init__(self, name: str, crystal: Crystal, *, pack: bool = False) -> None:
        self.name = name
        self.composition = crystal.reduced_composition
        self._source: Crystal | bytes = crystal.to_bytes() if pack else crystal
        self._vector: NDArray[np.float32] | None = None
        self._reduced: ReducedStructure | None = None

    def _crystal(self) -> Crystal:
        return self._source if isinstance(self._source, Crystal) else Crystal.from_bytes(self._source)

    def vector(self) -> NDArray[np.float32]:
        """Scaled AMD(100), float32. Raises what `amd` raises."""
        if self._vector is None:
            self._vector = amd(self._crystal(), _K, scaled=True).astype(np.float32)
        return self._vector

    def drop_vector(self) -> None:
        """The vector is kept elsewhere now."""
        self._vector = None

    def reduced(self) -> ReducedStructure:
        """What the matcher compares; reduced once. Raises what `prepare` raises."""
        if self._reduced is None:
            self._reduced = prepare(self._crystal())
        return self._reduced


class _Bucket:
    """The crystals of one reduced composition in order of arrival, and the matrix of their vectors."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._matrix = np.empty((0, _K), dtype=np.float32)
        self._filled = 0

    def candidates(self, query: Member, radius: float, before: int) -> list[int]:
        """Positions below `before` that may match `query`, rising: all of a few, of many those near."""
        if before <= _FEW:
            return list(range(before))
        self._fill()
        distances = np.abs(self._matrix[:before] - query.vector()).max(axis=1)
        return np.flatnonzero(distances <= radius).tolist()  # NaN is never proposed

    def distance(self, query: Member, position: int) -> float:
        """Largest difference of the AMD vectors of `query` and of the member at `position`."""
        known = position < self._filled
        vector = self._matrix[position] if known else self.members[position].vector()
        return float(np.abs(vector - query.vector()).max())

    def _fill(self) -> None:
        if len(self._matrix) < len(self.members):
            grown = np.empty((2 * len(self.members), _K), dtype=np.float32)
            grown[: self._filled] = self._matrix[: self._filled]
            self._matrix = grown
        for i in range(self._filled, len(self.members)):
            try:
                self._matrix[i] = self.members[i].vector()
                self.members[i].drop_vector()
            except Exception as error:  # of any kind, from geometry libraries on absurd cells
                _log.debug("no fingerprint of %s: %r", self.members[i].name, error)
                self._matrix[i] = np.nan
        self._filled = len(self.members)


class StructureIndex:
    """Crystals by name, and the earliest of them that matches a given one.

    Nothing is computed for a crystal that is alone in its composition. A member that cannot be
    fingerprinted or reduced matches nothing.
    """

    def __init__(self, settings: MatcherSettings | None = None) -> None:
        self.settings = settings or MatcherSettings()
        self._matcher = Matcher(self.settings)
        self._radius = AMD_RADIUS * max(
            1.0, self.settings.ltol / 0.2, self.settings.stol / 0.3, self.settings.angle_tol / 5
        )
        self._buckets: defaultdict[tuple[tuple[int, int], ...], _Bucket] = defaultdict(_Bucket)

    def __len__(self) -> int:
        return sum(len(bucket.members) for bucket in self._buckets.values())

    def add(self, member: Member) -> int:
        """Append a crystal; its position among those of its composition."""
        members = self._buckets[member.composition].members
        members.append(member)
        return len(members) - 1

    def earliest_match(self, query: Member, before: int | None = None) -> Match | None:
        """The first crystal, in the order of `add`, that the matcher says is the same as `query`.

        Args:
            query: the crystal asked about; the second argument of `StructureMatcher.fit`.
            before: compare with the first so many crystals of the composition only.

        Raises:
            Exception: of any kind, where the query cannot be fingerprinted or reduced, or the matcher
                failed on a pair and no other crystal matched.
        """
        bucket = self._buckets.get(query.composition)
        limit = len(bucket.members) if bucket and before is None else before or 0
        if bucket is None or limit == 0:
            return None
        failure: Exception | None = None
        reduced = query.reduced()
        for position in bucket.candidates(query, self._radius, limit):
            member = bucket.members[position]
            try:
                earlier = member.reduced()
            except Exception as error:  # absurd cells fail in many ways; its own verdict said so
                _log.debug("%s could not be reduced: %r", member.name, error)
                continue
            try:
                if self._matcher.matches(earlier, reduced):
                    return Match(member.name, bucket.distance(query, position))
            except Exception as error:  # kept: it is raised unless another crystal matches
                failure = error
        if failure is not None:
            raise failure
        return None
