"""Uniqueness: no earlier crystal matches."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.crystal import Crystal
from ..core.records import Reason, Verdict
from .geometry import require_computable
from .index import Match, Member, StructureIndex
from .matching import MatcherSettings

SCALED_LENGTH = "(V/atom)^(1/3)"
"""Unit of lengths compared at equal density."""


class Uniqueness:
    """A crystal is unique iff no crystal before it matches; duplicates count among those before it.

    Verdicts: `match` is the key of the earliest crystal that matches, `score` the largest difference of
    the scaled AMD vectors. They do not depend on how the stream is cut into batches. A crystal that
    cannot be compared gets `passed=None` and CHECK_FAILED.

    Args:
        settings: tolerances of the matcher.
    """

    check_name = "uniqueness"

    def __init__(self, settings: MatcherSettings | None = None) -> None:
        self._index = StructureIndex(settings)
        self._position: dict[str, int] = {}  # key -> position among the crystals of its composition

    def __len__(self) -> int:
        """Number of distinct crystals taken in."""
        return len(self._position)

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Compare each crystal with all before it, then take it in."""
        return [self._judge(crystal) for crystal in batch]

    def absorb(self, batch: Sequence[Crystal]) -> None:
        """Take in crystals that were judged earlier, without judging them again."""
        for crystal in batch:
            if crystal.digest not in self._position:
                self._take(Member(crystal.digest, crystal, pack=True))

    def _take(self, member: Member) -> None:
        self._position[member.name] = self._index.add(member)

    def _judge(self, crystal: Crystal) -> Verdict:
        key = crystal.digest
        position = self._position.get(key)
        try:
            require_computable(crystal)
            member = Member(key, crystal, pack=True)
            match = self._index.earliest_match(member, before=position)
        except Exception as error:  # the failure of one crystal is a value
            return failed_check(key, self.check_name, error)
        if position is None:
            self._take(member)
        elif match is None:
            match = Match(key, 0.0)
        if match is None:
            return Verdict(key, self.check_name, passed=True)
        return Verdict(
            key,
            self.check_name,
            passed=False,
            reason=Reason.DUPLICATE,
            score=match.amd_distance,
            unit=SCALED_LENGTH,
            match=match.name,
            detail=f"{crystal.formula} matches {match.name[:12]} ({self._index.settings})",
        )


def failed_check(key: str, check: str, error: Exception) -> Verdict:
    """The verdict where a comparison could not be made."""
    detail = f"{type(error).__name__}: {error}"[:300]
    return Verdict(key, check, passed=None, reason=Reason.CHECK_FAILED, detail=detail)
