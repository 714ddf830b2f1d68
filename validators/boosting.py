"""Gradient-boosted trees in plain arrays: small enough to ship, nothing to install, no pickle.

Friedman, Ann. Stat. 29, 1189 (2001), for the logistic loss, with half of the rows and a half of the
features for each tree (Friedman, Comput. Stat. Data Anal. 38, 367 (2002)); splits at quantiles of the
features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BINS = 64
_SUBSAMPLE = 0.5  # of the rows and of the features, for each tree
_MIN_ROWS = 10  # in a leaf
_RIDGE = 1.0  # added to the second derivative in a leaf


@dataclass(frozen=True)
class Settings:
    """How a forest is grown.

    Args:
        trees: their number. depth: of each, complete. rate: share of each that is added.
    """

    trees: int = 80
    depth: int = 6
    rate: float = 0.15


@dataclass(frozen=True)
class Forest:
    """Complete binary trees of one depth d; a row goes right where its feature exceeds the threshold.

    Args:
        feature: (trees, 2^d - 1) uint8, column of each inner node, level by level.
        threshold: (trees, 2^d - 1) float32; infinity where a node does not split.
        leaf: (trees, 2^d) float16, what each tree adds to the logit.
    """

    feature: NDArray[np.uint8]
    threshold: NDArray[np.float32]
    leaf: NDArray[np.float16]

    def logits(self, rows: Floats) -> Floats:
        """(n,): sum of the trees for each row of (n, features)."""
        rows = rows.astype(np.float32)
        at = np.arange(len(rows))[:, None]
        trees = np.arange(len(self.leaf))
        node = np.zeros((len(rows), len(trees)), dtype=np.int64)
        for _ in range(self.leaf.shape[1].bit_length() - 1):
            right = rows[at, self.feature[trees, node]] > self.threshold[trees, node]
            node = 2 * node + 1 + right
        leaves = self.leaf[trees, node - self.threshold.shape[1]]
        return np.asarray(leaves.sum(axis=1, dtype=np.float64))


def grow(
    rows: Floats,
    labels: NDArray[np.bool_],
    settings: Settings,
    rng: np.random.Generator,
    step: Callable[[], None] = lambda: None,
) -> Forest:
    """A forest whose logits tell the labels apart.

    Args:
        rows: (n, at most 256 features), finite. labels: (n,).
        step: called after each tree.
    """
    edges = np.quantile(rows, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0).T.astype(np.float32)
    single = rows.astype(np.float32)
    bins = np.stack(
        [np.searchsorted(e, x, side="left") for e, x in zip(edges, single.T, strict=True)], axis=1
    ).astype(np.uint8)
    target, logit = labels.astype(np.float64), np.zeros(len(rows))
    features, thresholds, leaves = [], [], []
    for _ in range(settings.trees):
        chance = 1 / (1 + np.exp(-logit))
        used = rng.random(len(rows)) < _SUBSAMPLE
        columns = np.sort(rng.permutation(rows.shape[1])[: max(1, int(_SUBSAMPLE * rows.shape[1]))])
        feature, cut = _split(bins, target - chance, np.flatnonzero(used), columns, settings.depth)
        node = _route(bins, feature, cut, settings.depth)
        size = 2**settings.depth
        down = np.bincount(node[used], (target - chance)[used], size)
        curve = np.bincount(node[used], (chance * (1 - chance))[used], size)
        leaf = (settings.rate * down / (curve + _RIDGE)).astype(np.float16)  # as it is kept
        logit += leaf[node]
        # One edge more than there are: of a node that does not split.
        padded = np.concatenate([edges, np.full((len(edges), 1), np.inf, np.float32)], axis=1)
        features.append(feature)
        thresholds.append(padded[feature, cut])
        leaves.append(leaf)
        step()
    return Forest(np.array(features, np.uint8), np.array(thresholds), np.array(leaves))


def _split(
    bins: NDArray[np.uint8],
    slope: Floats,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    depth: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column and bin of the split of each inner node: right of it are the bins above."""
    feature, cut = np.zeros(2**depth - 1, np.int64), np.full(2**depth - 1, _BINS - 1)
    some, slope = bins[np.ix_(rows, columns)], slope[rows]
    place = some.astype(np.int64) + _BINS * np.arange(len(columns))
    node = np.zeros(len(rows), np.int64)
    for level in range(depth):
        first, width = 2**level - 1, 2**level
        flat = (place + (node * (_BINS * len(columns)))[:, None]).ravel()
        shape = (width, len(columns), _BINS)
        size = width * len(columns) * _BINS
        total = np.bincount(flat, np.repeat(slope, len(columns)), size).reshape(shape).cumsum(axis=2)
        count = np.bincount(flat, minlength=size).reshape(shape).cumsum(axis=2)
        best = _gains(total, count).reshape(width, -1)
        choice = best.argmax(axis=1)
        good = best[np.arange(width), choice] > 0
        feature[first : first + width] = np.where(good, columns[choice // _BINS], 0)
        cut[first : first + width] = np.where(good, choice % _BINS, _BINS - 1)
        column = np.where(good, choice // _BINS, 0)
        right = some[np.arange(len(rows)), column[node]] > cut[first + node]
        node = 2 * node + right
    return feature, cut


def _gains(total: Floats, count: NDArray[np.int64]) -> Floats:
    """How much of the squared slope each split explains; -1 where a side would be too small."""
    whole, n = total[:, :, -1:], count[:, :, -1:]
    rest, others = whole - total, n - count
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = total**2 / count + rest**2 / others - whole**2 / n
    return np.where((count >= _MIN_ROWS) & (others >= _MIN_ROWS), gain, -1.0)


def _route(
    bins: NDArray[np.uint8], feature: NDArray[np.int64], cut: NDArray[np.int64], depth: int
) -> NDArray[np.int64]:
    """The leaf of each row."""
    node, rows = np.zeros(len(bins), np.int64), np.arange(len(bins))
    for _ in range(depth):
        node = 2 * node + 1 + (bins[rows, feature[node]] > cut[node])
    return node - len(feature)
