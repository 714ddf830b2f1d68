"""Novelty against known phases with structures: none of them matches."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..core.crystal import Crystal
from ..core.records import Reason, Verdict
from .fingerprint import amd
from .geometry import require_computable
from .index import AMD_RADIUS
from .matching import Matcher, MatcherSettings, ReducedStructure, prepare
from .phases import Composition
from .uniqueness import SCALED_LENGTH, failed_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("heliodor.validators")

_SHARE = 100  # crystals that a thread judges at a time
_FEW = 8  # so few phases all go to the matcher: that costs no more than the AMD vector


class KnownStructures(Protocol):
    """Known phases by row: `store.PhaseStore`, `ListedStructures`."""

    def rows(self, composition: Composition) -> Sequence[int]:
        """Rows of that reduced composition, rising."""
        ...

    def material_id(self, row: int) -> str:
        """Id in the source."""
        ...

    def reduced(self, row: int) -> ReducedStructure | None:
        """What the matcher compares; None where the crystal could not be reduced."""
        ...

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Scaled AMD(100) of some phases, (n, 100); NaN where there is none."""
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
        threads: that judge a large batch together; the kernels run side by side.
    """

    check_name = "novelty"

    def __init__(
        self,
        known: KnownStructures | Iterable[tuple[str, Crystal]],
        settings: MatcherSettings | None = None,
        threads: int = 1,
    ) -> None:
        self._known = ListedStructures(known) if isinstance(known, Iterable) else known
        self._settings = settings or MatcherSettings()
        self._matcher = Matcher(self._settings)
        self._threads = threads
        self._radius = AMD_RADIUS * max(
            1.0,
            self._settings.ltol / 0.2,
            self._settings.stol / 0.3,
            self._settings.angle_tol / 5,
        )

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """One verdict per crystal: `passed` means novel."""
        if self._threads == 1 or len(batch) <= _SHARE:
            return self._judge_all(batch)
        shares = (batch[i : i + _SHARE] for i in range(0, len(batch), _SHARE))
        with ThreadPoolExecutor(self._threads) as pool:
            return [verdict for share in pool.map(self._judge_all, shares) for verdict in share]

    def _judge_all(self, batch: Sequence[Crystal]) -> list[Verdict]:
        return [self._judge(crystal) for crystal in batch]

    def _judge(self, crystal: Crystal) -> Verdict:
        try:
            require_computable(crystal)
            row = self._first_match(crystal)
        except Exception as error:  # the failure of one crystal is a value
            return failed_check(crystal.digest, self.check_name, error)
        if row is None:
            return Verdict(crystal.digest, self.check_name, passed=True)
        name = self._known.material_id(row)
        return Verdict(
            crystal.digest,
            self.check_name,
            passed=False,
            reason=Reason.KNOWN,
            score=self._distance(crystal, row),
            unit=SCALED_LENGTH,
            match=name,
            detail=f"{crystal.formula} matches {name} ({self._settings})",
        )

    def _first_match(self, crystal: Crystal) -> int | None:
        """Row of the first phase that matches. Raises where the crystal or a pair cannot be compared."""
        rows = self._known.rows(crystal.reduced_composition)
        if not rows:
            return None
        own = prepare(crystal)
        failure: Exception | None = None
        for row in self._near(crystal, rows):
            phase = self._known.reduced(row)
            if phase is None:
                continue
            try:
                if self._matcher.matches(phase, own):
                    return row
            except Exception as error:  # kept: it is raised unless another phase matches
                failure = error
        if failure is not None:
            raise failure
        return None

    def _near(self, crystal: Crystal, rows: Sequence[int]) -> Sequence[int]:
        """Those of `rows` that may match: all of a few, of many those with a similar AMD vector."""
        if len(rows) <= _FEW:
            return rows
        apart = np.abs(self._known.vectors(rows) - _vector(crystal)).max(axis=1)
        return [rows[i] for i in np.flatnonzero(apart <= self._radius).tolist()]  # NaN is never proposed

    def _distance(self, crystal: Crystal, row: int) -> float | None:
        try:
            apart = float(np.abs(self._known.vectors([row])[0] - _vector(crystal)).max())
        except ValueError:  # a thin cell that the matcher could compare all the same
            return None
        return apart if np.isfinite(apart) else None


class ListedStructures:
    """Known phases in memory, reduced when first asked for."""

    def __init__(self, phases: Iterable[tuple[str, Crystal]]) -> None:
        self._phases = list(phases)
        self._by_composition: defaultdict[Composition, list[int]] = defaultdict(list)
        for row, (_, crystal) in enumerate(self._phases):
            self._by_composition[crystal.reduced_composition].append(row)
        self._reduced: dict[int, ReducedStructure | None] = {}
        self._vectors: dict[int, NDArray[np.float32]] = {}

    def rows(self, composition: Composition) -> Sequence[int]:
        """See `KnownStructures`."""
        return self._by_composition.get(composition, ())

    def material_id(self, row: int) -> str:
        """See `KnownStructures`."""
        return self._phases[row][0]

    def reduced(self, row: int) -> ReducedStructure | None:
        """See `KnownStructures`."""
        if row not in self._reduced:
            try:
                self._reduced[row] = prepare(self._phases[row][1])
            except Exception as error:  # absurd cells fail in many ways
                _log.debug("%s could not be reduced: %r", self._phases[row][0], error)
                self._reduced[row] = None
        return self._reduced[row]

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """See `KnownStructures`."""
        return np.array([self._vector(row) for row in rows])

    def _vector(self, row: int) -> NDArray[np.float32]:
        if row not in self._vectors:
            try:
                self._vectors[row] = _vector(self._phases[row][1])
            except Exception as error:
                _log.debug("no fingerprint of %s: %r", self._phases[row][0], error)
                self._vectors[row] = np.full(100, np.nan, np.float32)
        return self._vectors[row]


def _vector(crystal: Crystal) -> NDArray[np.float32]:
    return amd(crystal, scaled=True).astype(np.float32)
