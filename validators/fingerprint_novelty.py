"""Novelty where a reference has no structures: by fingerprints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.records import Reason, Verdict
from .fingerprint import (
    KNOWN_DISTANCE,
    fingerprint_distance,
    fingerprint_length,
    species_fingerprint,
    unpack_fingerprint,
)
from .geometry import require_computable
from .phases import Composition
from .uniqueness import SCALED_LENGTH, failed_check

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FingerprintNovelty:
    """Novelty against a table of fingerprints; `fingerprint_distance` gives its error rates.

    Verdicts: `match` is the material id of the nearest phase, `score` its fingerprint distance.

    Args:
        material_ids: id of each phase.
        compositions: reduced composition of each, ((atomic number, count), ...) by atomic number.
        fingerprints: packed fingerprint of each (`pack_fingerprint`).
        threshold: distance up to which a crystal counts as known.

    Raises:
        InputError: the three differ in length, or a fingerprint does not fit its composition.
    """

    check_name = "novelty"

    def __init__(
        self,
        material_ids: Sequence[str],
        compositions: Sequence[Composition],
        fingerprints: Sequence[bytes],
        threshold: float = KNOWN_DISTANCE,
    ) -> None:
        if not len(material_ids) == len(compositions) == len(fingerprints):
            raise InputError(
                f"{len(material_ids)} ids, {len(compositions)} compositions and {len(fingerprints)} "
                "fingerprints: expected one of each for every phase"
            )
        self._threshold = threshold
        self._phases: defaultdict[Composition, list[tuple[str, bytes]]] = defaultdict(list)
        for name, composition, packed in zip(material_ids, compositions, fingerprints, strict=True):
            if len(packed) != fingerprint_length(len(composition)):
                raise InputError(
                    f"fingerprint of {name}: {len(packed)} bytes, "
                    f"expected {fingerprint_length(len(composition))}"
                )
            self._phases[composition].append((name, packed))

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """One verdict per crystal: `passed` means novel."""
        return [self._judge(crystal) for crystal in batch]

    def _judge(self, crystal: Crystal) -> Verdict:
        key, name = crystal.digest, self.check_name
        try:
            require_computable(crystal)
            nearest = self._nearest(crystal)
        except Exception as error:  # the failure of one crystal is a value
            return failed_check(key, name, error)
        if nearest is None:
            detail = "by fingerprint: no known phase of this composition"
            return Verdict(key, name, passed=True, detail=detail)
        distance, material_id = nearest
        novel = distance > self._threshold
        score = distance if np.isfinite(distance) else None
        detail = f"by fingerprint: {distance:.2f} from {material_id}, known up to {self._threshold:g}"
        if novel:
            return Verdict(key, name, passed=True, score=score, unit=SCALED_LENGTH, detail=detail)
        return Verdict(
            key, name, False, Reason.KNOWN, score, unit=SCALED_LENGTH, match=material_id, detail=detail
        )

    def _nearest(self, crystal: Crystal) -> tuple[float, str] | None:
        phases = self._phases.get(crystal.reduced_composition)
        if not phases:
            return None
        own = species_fingerprint(crystal)
        return min((self._distance(own, packed), name) for name, packed in phases)

    @staticmethod
    def _distance(own: NDArray[np.float32], packed: bytes) -> float:
        return fingerprint_distance(own, unpack_fingerprint(packed))
