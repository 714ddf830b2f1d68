"""Uniqueness: no earlier crystal matches."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.crystal import Crystal
from ..core.packed import identify, pack
from ..core.records import Reason, Verdict
from ..core.settings import available_cores
from .geometry import computable, refusal
from .index import Match, Query, StructureIndex
from .matching import MatcherSettings

SCALED_LENGTH = "(V/atom)^(1/3)"
"""Unit of lengths compared at equal density."""

_AT_ONCE = 20_000  # crystals whose arrays are held twice


class Uniqueness:
    """A crystal is unique iff no crystal before it matches; duplicates count among those before it.

    Verdicts: `match` is the key of the earliest crystal that matches, `score` the largest difference of
    the scaled AMD vectors of the two in their primitive cells. They depend neither on how the stream is
    cut into batches nor on the number of threads. A crystal that cannot be compared gets `passed=None`
    and CHECK_FAILED.

    Args:
        settings: tolerances of the matcher.
        threads: that compare together; by default one for each core that the process may use.
    """

    check_name = "uniqueness"

    def __init__(self, settings: MatcherSettings | None = None, threads: int | None = None) -> None:
        self._index = StructureIndex(settings, threads or available_cores())
        self._slots: dict[bytes, int] = {}  # digest -> slot in the index

    def __len__(self) -> int:
        """Number of distinct crystals taken in."""
        return len(self._slots)

    @property
    def compared(self) -> int:
        """Pairs that went to the matcher."""
        return self._index.compared

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Compare each crystal with all before it, then take it in."""
        return [
            verdict
            for begin in range(0, len(batch), _AT_ONCE)
            for verdict in self._judge(batch[begin : begin + _AT_ONCE])
        ]

    def absorb(self, batch: Sequence[Crystal]) -> None:
        """Take in crystals that were judged earlier, without judging them again."""
        for begin in range(0, len(batch), _AT_ONCE):
            self._take(batch[begin : begin + _AT_ONCE])

    def _take(self, batch: Sequence[Crystal]) -> dict[str, Query]:
        """Take in those that are new and can be compared; what is to be asked about each, by key."""
        packed = pack(batch)
        identify(batch, packed)
        new = {
            crystal.digest: crystal
            for crystal, good in zip(batch, computable(packed), strict=True)
            if good and bytes.fromhex(crystal.digest) not in self._slots
        }
        if not new:
            return {}
        crystals = list(new.values())
        queries = self._index.add(
            list(new), crystals, packed if len(new) == len(batch) else pack(crystals)
        )
        for key, query in zip(new, queries, strict=True):
            self._slots[bytes.fromhex(key)] = query.slot
        return dict(zip(new, queries, strict=True))

    def _judge(self, batch: Sequence[Crystal]) -> list[Verdict]:
        queries = self._take(batch)
        first = dict.fromkeys(queries, True)  # the next verdict of that key is of its first crystal
        for crystal in batch:
            slot = self._slots.get(bytes.fromhex(crystal.digest))
            if slot is not None and crystal.digest not in queries:
                queries[crystal.digest] = self._index.query(slot, crystal)
        matches = dict(zip(queries, self._index.earliest_matches(list(queries.values())), strict=True))
        verdicts = []
        for crystal in batch:
            key = crystal.digest
            match = matches[key] if key in matches else refusal(crystal)
            if match is None and not first.pop(key, False):
                match = Match(key, 0.0)
            verdicts.append(self._verdict(key, match))
        return verdicts

    def _verdict(self, key: str, match: Match | Exception | None) -> Verdict:
        if match is None:
            return Verdict(key, self.check_name, passed=True)
        if isinstance(match, Exception):
            return failed_check(key, self.check_name, match)
        return Verdict(
            key,
            self.check_name,
            passed=False,
            reason=Reason.DUPLICATE,
            score=match.amd_distance,
            unit=SCALED_LENGTH,
            match=match.name,
            detail=f"matches {match.name[:12]} ({self._index.settings})",
        )


def failed_check(key: str, check: str, error: Exception) -> Verdict:
    """The verdict where a comparison could not be made."""
    detail = f"{type(error).__name__}: {error}"[:300]
    return Verdict(key, check, passed=None, reason=Reason.CHECK_FAILED, detail=detail)
