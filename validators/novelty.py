"""Novelty against known phases with structures: none of them matches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..core.crystal import Crystal
from ..core.packed import identify, pack
from ..core.records import Reason, Verdict
from .geometry import computable, refusal
from .index import AMD_RADIUS, FEW
from .matching import MatcherSettings
from .phases import Composition
from .pool import Pool, failure, in_threads
from .uniqueness import SCALED_LENGTH, failed_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_AT_ONCE = 10_000  # crystals whose arrays are held


class Comparable(NamedTuple):
    """Reduced structures as the kernels take them (`kernels.batch`).

    Args:
        store: the seven arrays of a store, a row per structure. vectors: (m, 100), scaled AMD.
    """

    store: tuple[NDArray[Any], ...]
    vectors: NDArray[np.float32]

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Scaled AMD(100) of a structure; None where there is none."""
        place = int(self.store[-1][row])
        return self.vectors[place] if place >= 0 else None


class KnownStructures(Protocol):
    """Known phases by row: `store.PhaseStore`, `ListedStructures`."""

    def find(self, compositions: Sequence[Composition]) -> list[list[int]]:
        """Rows of each of some reduced compositions, rising."""
        ...

    def material_id(self, row: int) -> str:
        """Id in the source."""
        ...

    def comparable(self, rows: Ints, with_vector: Ints) -> Comparable:
        """All of them, of which those of `rows` are reduced, and those of `with_vector` have vectors."""
        ...


class StructureNovelty:
    """Novelty against known phases with structures; the matcher decides.

    Verdicts: `match` is the material id of the first known phase, in the order given, that matches,
    `score` the largest difference of the scaled AMD vectors. They depend neither on how crystals are
    cut into batches nor on the number of threads.

    Args:
        known: a store, or (material id, crystal) of each phase, kept in memory; those are reduced when a
            crystal of their composition first comes.
        settings: tolerances of the matcher.
        threads: that judge a batch together.
        radius: largest difference of scaled AMD(100) of a pair that goes to the matcher where a
            composition has many phases; looser tolerances widen it.
    """

    check_name = "novelty"

    def __init__(
        self,
        known: KnownStructures | Iterable[tuple[str, Crystal]],
        settings: MatcherSettings | None = None,
        threads: int = 1,
        radius: float = AMD_RADIUS,
    ) -> None:
        self._known = ListedStructures(known, threads) if isinstance(known, Iterable) else known
        self._settings = s = settings or MatcherSettings()
        self._threads = threads
        radius *= max(1.0, s.ltol / 0.2, s.stol / 0.3, s.angle_tol / 5)
        self._tolerances = (radius, s.ltol, s.stol, s.angle_tol)

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """One verdict per crystal: `passed` means novel."""
        parts = (batch[i : i + _AT_ONCE] for i in range(0, len(batch), _AT_ONCE))
        return [verdict for part in parts for verdict in self._judge(part)]

    def _judge(self, batch: Sequence[Crystal]) -> list[Verdict]:
        packed = pack(batch)
        identify(batch, packed)
        good = computable(packed)
        rows = self._known.find([c.reduced_composition for c in batch])
        asked = [i for i in range(len(batch)) if good[i] and rows[i]]
        found = self._first_matches([batch[i] for i in asked], [rows[i] for i in asked])
        matches = dict(zip(asked, found, strict=True))
        return [self._verdict(c, matches.get(i), fit=good[i]) for i, c in enumerate(batch)]

    def _verdict(
        self, crystal: Crystal, match: tuple[int, float | None] | ValueError | None, *, fit: bool
    ) -> Verdict:
        key, name = crystal.digest, self.check_name
        if not fit:
            return failed_check(key, name, refusal(crystal))
        if match is None:
            return Verdict(key, name, passed=True)
        if isinstance(match, ValueError):
            return failed_check(key, name, match)
        known = self._known.material_id(match[0])
        return Verdict(
            key,
            name,
            passed=False,
            reason=Reason.KNOWN,
            score=match[1],
            unit=SCALED_LENGTH,
            match=known,
            detail=f"matches {known} ({self._settings})",
        )

    def _first_matches(
        self, crystals: Sequence[Crystal], rows: Sequence[list[int]]
    ) -> list[tuple[int, float | None] | ValueError | None]:
        """Row of the first of `rows` that is the same as each crystal, and how far their vectors are.

        ValueError says why none was found: the crystal could not be reduced, or the matcher failed on a
        pair and no other phase matched.
        """
        if not crystals:
            return []
        from .kernels.batch import first_matches

        pool = Pool(self._threads)
        slots = pool.append(pack(crystals))
        pool.reduce(slots)
        counts = np.array([len(found) for found in rows])
        heads, members = np.cumsum(counts) - counts, np.concatenate(rows)
        many = counts > FEW
        pool.vectorise(slots[many])
        known = self._known.comparable(members, members[np.repeat(many, counts)])
        found, codes, compared = np.full(len(slots), -1), np.zeros_like(slots), np.zeros_like(slots)

        def share(a: int, b: int) -> None:
            part = (x[a:b] for x in (found, codes, compared))
            both: tuple[Any, Any, Any, Any] = (*known, pool.store(), pool.vectors)
            first_matches(
                *both, slots[a:b], members, heads[a:b], counts[a:b], FEW, self._tolerances, *part
            )

        in_threads(share, len(slots), self._threads)
        same = found >= 0
        pool.vectorise(slots[same])
        known = self._known.comparable(found[same], found[same])
        own = Comparable(pool.store(), pool.vectors)
        return [
            (row, _apart(known.vector(row), own.vector(slot)))
            if row >= 0
            else failure(code)
            if code < 0
            else None
            for slot, (row, code) in enumerate(zip(found.tolist(), codes.tolist(), strict=True))
        ]


class ListedStructures:
    """Known phases in memory, reduced when first compared. Those without a geometry match nothing."""

    def __init__(self, phases: Iterable[tuple[str, Crystal]], threads: int = 1) -> None:
        listed = list(phases)
        fit = computable(pack([c for _, c in listed])) if listed else []
        kept = [phase for phase, good in zip(listed, fit, strict=True) if good]
        self._names = [name for name, _ in kept]
        self._rows: defaultdict[Composition, list[int]] = defaultdict(list)
        for row, (_, crystal) in enumerate(kept):
            self._rows[crystal.reduced_composition].append(row)
        self._pool = Pool(threads)
        if kept:
            self._pool.append(pack([crystal for _, crystal in kept]))

    def find(self, compositions: Sequence[Composition]) -> list[list[int]]:
        """See `KnownStructures`."""
        return [self._rows.get(composition, []) for composition in compositions]

    def material_id(self, row: int) -> str:
        """See `KnownStructures`."""
        return self._names[row]

    def comparable(self, rows: Ints, with_vector: Ints) -> Comparable:
        """See `KnownStructures`."""
        self._pool.reduce(rows)
        self._pool.vectorise(with_vector)
        return Comparable(self._pool.store(), self._pool.vectors)


def _apart(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> float | None:
    return None if a is None or b is None else float(np.abs(a - b).max())
