"""Continuous uniqueness and novelty: how far apart crystals are, not only whether they match.

Unlike the matcher's verdicts they do not depend on the order of the crystals or on a threshold. After
Negishi et al., "Continuous uniqueness and novelty metrics for generative modeling of crystals",
arXiv:2510.12405 (2025), with the elemental properties that pymatgen carries.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ..core.crystal import Crystal
from ..core.errors import InputError
from .fingerprint import amd

_log = logging.getLogger("heliodor.validators")

PROPERTIES = ("Z", "atomic_mass", "row", "group", "mendeleev_no", "X", "ionization_energy")
"""pymatgen's elemental properties; an electronegativity (X) that is not defined counts as 0."""

_CHUNK = 256  # rows of a distance matrix held at once


@dataclass(frozen=True)
class ContinuousMeasure:
    """A mean distance between crystals.

    Args:
        structure: in angstrom: largest difference of AMD(100) vectors.
        composition: without unit: root mean square difference of `composition_features`.
        n: crystals that it was computed from. left_out: those without an AMD vector.
    """

    structure: float
    composition: float
    n: int
    left_out: int


def continuous_uniqueness(crystals: Sequence[Crystal]) -> ContinuousMeasure:
    """Mean distance over all pairs of different members. Quadratic: 5,000 crystals take about 10 s.

    Raises:
        InputError: fewer than two crystals have an AMD vector.
    """
    vectors, kept = _vectors(crystals)
    if len(kept) < 2:
        raise InputError(f"continuous uniqueness needs two crystals, got {len(kept)}")
    features = composition_features(kept)
    pairs = len(kept) * (len(kept) - 1)
    return ContinuousMeasure(
        structure=_over_rows(vectors, vectors, "chebyshev", _total) / pairs,
        composition=_over_rows(features, features, "euclidean", _total) / pairs / _scale(features),
        n=len(kept),
        left_out=len(crystals) - len(kept),
    )


def continuous_novelty(crystals: Sequence[Crystal], known: Sequence[Crystal]) -> ContinuousMeasure:
    """Mean distance to the nearest known crystal, for structure and composition each on its own.

    Raises:
        InputError: no crystal, or no known one, has an AMD vector.
    """
    (vectors, kept), (known_vectors, known_kept) = _vectors(crystals), _vectors(known)
    if not kept or not known_kept:
        raise InputError(f"continuous novelty: {len(kept)} crystals and {len(known_kept)} known ones")
    features, known_features = composition_features(kept), composition_features(known_kept)
    composition = _over_rows(features, known_features, "euclidean", _nearest)
    return ContinuousMeasure(
        structure=_over_rows(vectors, known_vectors, "chebyshev", _nearest) / len(kept),
        composition=composition / len(kept) / _scale(features),
        n=len(kept),
        left_out=len(crystals) - len(kept),
    )


def composition_features(crystals: Sequence[Crystal]) -> NDArray[np.float64]:
    """Mean, mean absolute deviation and range of each of `PROPERTIES` over the atoms, (n, 21).

    Of the kind of Magpie's (Ward et al., npj Comput. Mater. 2, 16028 (2016)); each property is first
    brought to mean 0 and standard deviation 1 over the elements 1 to 103.
    """
    table = _element_table()
    rows = []
    for crystal in crystals:
        numbers, counts = np.array(crystal.reduced_composition).T
        values, weights = table[numbers], (counts / counts.sum())[:, None]
        mean = (weights * values).sum(axis=0)
        deviation = (weights * np.abs(values - mean)).sum(axis=0)
        rows.append(np.concatenate([mean, deviation, np.ptp(values, axis=0)]))
    return np.array(rows).reshape(-1, 3 * len(PROPERTIES))


@lru_cache(maxsize=1)
def _element_table() -> NDArray[np.float64]:
    """(119, properties), standardised; row z is the element of atomic number z."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases without electronegativity
        raw = np.array(
            [[float(getattr(Element.from_Z(z), p) or 0) for p in PROPERTIES] for z in range(1, 119)]
        )
    raw = np.nan_to_num(raw)
    scaled = (raw - raw[:103].mean(axis=0)) / raw[:103].std(axis=0)
    return np.concatenate([np.zeros((1, len(PROPERTIES))), scaled])


def _vectors(crystals: Sequence[Crystal]) -> tuple[NDArray[np.float64], list[Crystal]]:
    vectors, kept = [], []
    for crystal in crystals:
        try:
            vectors.append(amd(crystal))
        except ValueError as error:  # counted in left_out
            _log.debug("no AMD vector of %s: %s", crystal.digest, error)
            continue
        kept.append(crystal)
    return np.array(vectors).reshape(-1, 100), kept


def _over_rows(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    metric: Literal["chebyshev", "euclidean"],
    reduce: Callable[[NDArray[np.float64]], float],
) -> float:
    """Sum of `reduce` over blocks of rows of the distance matrix."""
    blocks = (a[i : i + _CHUNK] for i in range(0, len(a), _CHUNK))
    return math.fsum(reduce(cdist(block, b, metric)) for block in blocks)


def _total(block: NDArray[np.float64]) -> float:
    return float(block.sum())


def _nearest(block: NDArray[np.float64]) -> float:
    return float(block.min(axis=1).sum())


def _scale(features: NDArray[np.float64]) -> float:
    return float(np.sqrt(features.shape[1]))
