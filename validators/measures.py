"""Continuous uniqueness and novelty: how far apart crystals are, not only whether they match.

Unlike the matcher's verdicts they depend neither on the order of the crystals nor on a threshold.
Composition by Magpie features, structure by AMD vectors: Negishi et al., "Continuous uniqueness and
novelty metrics for generative modeling of inorganic crystals", arXiv:2510.12405 (2025).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ..core.crystal import Crystal
from ..core.errors import InputError
from .fingerprint import amd
from .magpie import magpie_features
from .nearest import NearestPhases

_log = logging.getLogger("heliodor.validators")

EXACT = 3000
"""Up to so many crystals all count; of more a random sample of so many."""

_CHUNK = 256  # rows of a distance matrix held at once


@dataclass(frozen=True)
class Mean:
    """A mean distance.

    Args:
        value: the mean. unit: empty: mixed, of the Magpie features.
        standard_error: of sampling from the crystals at hand; 0 where all of them counted.
    """

    value: float
    standard_error: float
    unit: str


@dataclass(frozen=True)
class ContinuousMeasure:
    """Mean distances between crystals.

    Args:
        structure: largest difference of AMD(100) vectors; None where there are none.
        composition: Euclidean distance of Magpie features.
        n: crystals that it was computed from. of: from how many these were drawn.
        left_out: crystals without an AMD vector, of those drawn.
    """

    structure: Mean | None
    composition: Mean
    n: int
    of: int
    left_out: int


def continuous_uniqueness(crystals: Sequence[Crystal], seed: int = 0) -> ContinuousMeasure:
    """Mean distance over all pairs of different members; 3,000 crystals take about 2 s.

    Args:
        crystals: more than `EXACT`: a sample is drawn with `seed`.

    Raises:
        InputError: fewer than two crystals have an AMD vector.
    """
    vectors, kept, drawn = _vectors(sample(crystals, seed))
    if len(kept) < 2:
        raise InputError(f"continuous uniqueness needs two crystals, got {len(kept)}")
    features = magpie_features([c.reduced_composition for c in kept])
    share = len(kept) / (len(kept) + len(crystals) - drawn)

    def mean(rows: NDArray[np.float64], metric: Literal["chebyshev", "euclidean"], unit: str) -> Mean:
        to_others = _row_sums(rows, metric) / (len(rows) - 1)
        # Of a mean over pairs, each crystal counts twice (Hoeffding's U-statistic, first order).
        return Mean(math.fsum(to_others) / len(rows), 2 * _standard_error(to_others, share), unit)

    return ContinuousMeasure(
        mean(vectors, "chebyshev", "angstrom"),
        mean(features, "euclidean", ""),
        len(kept),
        len(crystals),
        drawn - len(kept),
    )


def continuous_novelty(
    crystals: Sequence[Crystal], known: NearestPhases, seed: int = 0
) -> ContinuousMeasure:
    """Mean distance to the nearest known phase, by structure and by composition; 2 ms a crystal.

    Args:
        crystals: more than `EXACT`: a sample is drawn with `seed`.
        known: the phases; `structure` is in their unit, and None where they have no vectors.

    Raises:
        InputError: no crystal has an AMD vector, or no phase is known.
    """
    drawn = sample(crystals, seed)
    kept, structure, composition = 0, [], []
    for crystal in drawn:
        by_composition = known.by_composition(crystal.reduced_composition)
        if by_composition is None:
            raise InputError("continuous novelty: no phase is known")
        try:
            by_structure = known.by_structure(crystal)
        except ValueError as error:  # counted in left_out
            _log.debug("no AMD vector of %s: %s", crystal.digest, error)
            continue
        kept += 1
        composition.append(by_composition[0])
        if by_structure is not None:
            structure.append(by_structure[0])
    if not kept:
        raise InputError(f"continuous novelty: none of {len(drawn)} crystals has an AMD vector")
    share = kept / (kept + len(crystals) - len(drawn))

    def mean(distances: Sequence[float], unit: str) -> Mean:
        value = math.fsum(distances) / len(distances)
        return Mean(value, _standard_error(np.array(distances), share), unit)

    return ContinuousMeasure(
        mean(structure, "(V/atom)^(1/3)" if known.known.scaled else "angstrom") if structure else None,
        mean(composition, ""),
        kept,
        len(crystals),
        len(drawn) - kept,
    )


def sample(crystals: Sequence[Crystal], seed: int) -> Sequence[Crystal]:
    """At most `EXACT` of the crystals, drawn without replacement, in their order."""
    if len(crystals) <= EXACT:
        return crystals
    chosen = np.random.default_rng(seed).choice(len(crystals), EXACT, replace=False)
    return [crystals[i] for i in np.sort(chosen).tolist()]


def _standard_error(values: NDArray[np.float64], share: float) -> float:
    """Of the mean of values drawn without replacement, `share` of all there are."""
    if share >= 1 or len(values) < 2:
        return 0.0
    return float(values.std(ddof=1) / math.sqrt(len(values)) * math.sqrt(1 - share))


def _vectors(crystals: Sequence[Crystal]) -> tuple[NDArray[np.float64], list[Crystal], int]:
    """AMD vectors (n, 100) of the crystals that have one, these, and how many were asked for."""
    vectors, kept = [], []
    for crystal in crystals:
        try:
            vectors.append(amd(crystal))
        except ValueError as error:  # counted in left_out
            _log.debug("no AMD vector of %s: %s", crystal.digest, error)
            continue
        kept.append(crystal)
    return np.array(vectors).reshape(-1, 100), kept, len(crystals)


def _row_sums(
    rows: NDArray[np.float64], metric: Literal["chebyshev", "euclidean"]
) -> NDArray[np.float64]:
    """Sum of the distances of each row to all rows; each pair is computed once."""
    sums = np.zeros(len(rows))
    for i in range(0, len(rows), _CHUNK):
        block = cdist(rows[i : i + _CHUNK], rows[i:], metric)
        width = len(block)
        sums[i : i + width] += block.sum(axis=1)
        sums[i + width :] += block[:, width:].sum(axis=0)
    return sums
