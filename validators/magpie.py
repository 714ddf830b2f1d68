"""Magpie's features of compositions.

Statistics of elemental properties over the atoms (Ward et al., npj Comput. Mater. 2, 16028 (2016),
doi:10.1038/npjcompumats.2016.28), equal to matminer 0.10.1's `ElementProperty.from_preset("magpie")` to
rounding. The table of properties is matminer's (`data/magpie.json`, with its licence); matminer itself
asks for pandas below 3 and takes 2 s to import and 4 ms a composition; this takes 0.02 ms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Composition = tuple[tuple[int, int], ...]
"""((atomic number, count), ...), as `Crystal.reduced_composition`."""

STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
"""Of each property, weighted by the atoms; mode: the value of the most frequent element, of several
the smallest."""

_BLOCK = 8192  # compositions at once: bounds the memory


def magpie_features(compositions: Sequence[Composition]) -> NDArray[np.float64]:
    """The 132 Magpie features of each composition, (n, 132), in the order of `magpie_names`.

    Units are those of the properties (K, u, pm, eV ...), so features differ in size by orders of
    magnitude. A property that is not known of an element counts as its mean over the elements, as in
    matminer (it concerns noble gases' electronegativity, At, Fr and the actinides from Bk on).

    Args:
        compositions: at least one element each, atomic numbers 1 to 118, positive counts.
    """
    blocks = [compositions[i : i + _BLOCK] for i in range(0, len(compositions), _BLOCK)]
    return np.concatenate([np.empty((0, 132)), *map(_features, blocks)])


@cache
def magpie_names() -> tuple[str, ...]:
    """Names of the features: the property and the statistic, for example "MeltingT mean"."""
    return tuple(f"{name} {statistic}" for name in _properties() for statistic in STATISTICS)


def _features(compositions: Sequence[Composition]) -> NDArray[np.float64]:
    """Of one block: elements in columns, unused ones of weight 0."""
    widest = max(map(len, compositions))
    padded = [(*c, *[(0, 0)] * (widest - len(c))) for c in compositions]
    numbers, counts = np.moveaxis(np.array(padded, dtype=np.int64), 2, 0)
    weights = (counts / counts.sum(axis=1, keepdims=True))[:, :, None]
    used = weights > 0
    values = _table()[numbers]
    low = np.where(used, values, np.inf).min(axis=1)
    high = np.where(used, values, -np.inf).max(axis=1)
    mean = (weights * values).sum(axis=1)
    deviation = (weights * np.abs(values - mean[:, None])).sum(axis=1)
    most = counts[:, :, None] == counts.max(axis=1)[:, None, None]
    mode = np.where(most, values, np.inf).min(axis=1)
    return np.stack([low, high, high - low, mean, deviation, mode], axis=2).reshape(len(numbers), -1)


@cache
def _properties() -> dict[str, list[float | None]]:
    """Value of each property for the elements 1 to 118."""
    text = resources.files(__package__).joinpath("data/magpie.json").read_text("utf-8")
    properties: dict[str, list[float | None]] = json.loads(text)["properties"]
    return properties


@cache
def _table() -> NDArray[np.float64]:
    """(119, 22): row z is the element of atomic number z; what is not known is the mean."""
    raw = np.array(list(_properties().values()), dtype=np.float64).T
    filled = np.where(np.isnan(raw), np.nanmean(raw, axis=0), raw)
    return np.concatenate([np.zeros((1, filled.shape[1])), filled])
