"""Redundancy of a set of crystals: who is too near to whom, which to keep, what hangs together.

The greedy choice is that of CD-HIT, brought to materials as MD-HIT: Li, Fu, Omee, Hu, "MD-HIT: Machine
learning for material property prediction with dataset redundancy control", npj Comput. Mater. 10 (2024),
doi:10.1038/s41524-024-01426-z. The distances are ours: composition features and scaled AMD vectors, or
the matcher alone. All costs grow with the square of the number of crystals, held down by a lower bound
that sorts out most pairs; memory grows with the number of crystals only.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ..core.crystal import Crystal
from ..core.packed import pack
from .element_features import composition_features
from .fingerprint import amd
from .index import AMD_RADIUS, StructureIndex
from .matching import Matcher, ReducedStructure, prepare

_log = logging.getLogger("heliodor.validators")

Step = Callable[[int], None]
"""Told how many more crystals are done."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLOCK = 128  # rows of a distance matrix held at once
_PAIRS = 50_000  # pairs whose whole vectors are held at once
_HEAD = 8  # entries that the lower bound looks at
_AMD_HEAD = [0, 1, 2, 3, 5, 7, 11, 17]  # of the scaled AMD: where crystals differ most
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Measure:
    """A distance between crystals, and how near is too near.

    Args:
        name: composition or structure.
        vectors: (n, d); the distance is Euclidean or the largest difference.
        metric: which of the two.
        threshold: two crystals nearer than this are near; infinite where it is only to be measured.
        head: columns of `vectors` that bound the distance from below.
    """

    name: str
    vectors: Floats
    metric: Literal["euclidean", "chebyshev"]
    threshold: float
    head: Sequence[int]

    @cached_property
    def heads(self) -> Floats:
        """The columns of the lower bound, contiguous."""
        return np.ascontiguousarray(self.vectors[:, self.head])

    def bound(self, rows: Ints, columns: Ints) -> Floats:
        """Lower bounds of the distances, (rows, columns)."""
        bounds: Floats = cdist(self.heads[rows], self.heads[columns], self.metric)
        return bounds

    def distances(self, rows: Ints, columns: Ints) -> Floats:
        """The distances, (rows, columns)."""
        matrix: Floats = cdist(self.vectors[rows], self.vectors[columns], self.metric)
        return matrix

    def between(self, rows: Ints, columns: Ints) -> Floats:
        """The distance of each pair (rows[k], columns[k])."""
        found = []
        for i in range(0, len(rows), _PAIRS):
            gap = self.vectors[rows[i : i + _PAIRS]] - self.vectors[columns[i : i + _PAIRS]]
            chebyshev = self.metric == "chebyshev"
            found.append(np.abs(gap).max(axis=1) if chebyshev else np.linalg.norm(gap, axis=1))
        return np.concatenate(found) if found else np.empty(0)


def composition_measure(crystals: Sequence[Crystal], threshold: float = np.inf) -> Measure:
    """Root mean square difference of `composition_features`, without unit; 0 at equal composition.

    The features are turned onto their principal axes, which changes no distance: the first axes bound it
    closest.
    """
    features = composition_features(crystals)
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.shape[1])
    _, axes = np.linalg.eigh(scaled.T @ scaled)
    return Measure("composition", scaled @ axes[:, ::-1], "euclidean", threshold, range(_HEAD))


def structure_measure(vectors: Floats, threshold: float = np.inf) -> Measure:
    """Largest difference of scaled AMD vectors (`scaled_amd`), in (volume per atom)^(1/3)."""
    return Measure("structure", vectors, "chebyshev", threshold, _AMD_HEAD)


def scaled_amd(crystal: Crystal) -> Floats:
    """AMD(100) at equal density. Blind to elements: rock salt and its ordered variants have about one.

    Raises:
        ValueError: as `fingerprint.amd`.
    """
    return amd(crystal, 100, scaled=True)


def near_pairs(
    measures: Sequence[Measure], rows: Ints, columns: Ints, wanted: NDArray[np.bool_]
) -> tuple[Ints, Ints]:
    """Positions in `rows` and `columns` of the wanted pairs that are near by every measure."""
    mask = wanted
    for measure in measures:
        mask = mask & (measure.bound(rows, columns) < measure.threshold + _ROUNDING)
    i, j = np.nonzero(mask)
    for measure in measures:
        near = measure.between(rows[i], columns[j]) < measure.threshold
        i, j = i[near], j[near]
    return i, j


# --- which to keep -------------------------------------------------------------------------------


def representatives(measures: Sequence[Measure], order: Ints, step: Step) -> Ints:
    """For each crystal the first kept one that is near by every measure; itself where it is kept.

    Crystals are taken in `order`; one is kept iff no kept one is near.
    """
    found = np.full(len(order), -1)
    kept = np.empty(0, dtype=np.int64)
    for block in _blocks(order):
        wanted = np.ones((len(block), len(kept)), dtype=bool)
        i, j = near_pairs(measures, block, kept, wanted)
        first = np.full(len(block), len(kept))
        np.minimum.at(first, i, j)
        old = first < len(kept)
        found[block[old]] = kept[first[old]]
        _within(measures, block[~old], found)
        kept = np.concatenate([kept, block[found[block] == block]])
        step(len(block))
    return found


def _within(measures: Sequence[Measure], block: Ints, found: Ints) -> None:
    """Go through crystals that are near to none kept before, one after the other."""
    later = np.triu(np.ones((len(block), len(block)), dtype=bool), 1)
    near = np.zeros_like(later)
    near[near_pairs(measures, block, block, later)] = True
    for position, crystal in enumerate(block):
        if found[crystal] < 0:
            found[crystal] = crystal
            covered = block[near[position]]
            found[covered[found[covered] < 0]] = crystal


def matched_representatives(
    crystals: Sequence[Crystal], order: Ints, step: Step
) -> tuple[Ints, list[int]]:
    """As `representatives`, where near means that the matcher finds the two the same.

    Returns also the crystals that could not be compared: they are kept, for nothing says that they are
    duplicates.
    """
    index = StructureIndex()
    found = np.arange(len(crystals))
    failed = []
    for position in order.tolist():
        crystal = crystals[position]
        try:
            match = index.earliest_match(crystal)
        except ValueError as error:
            _log.debug("%s could not be compared: %s", crystal.formula, error)
            failed.append(position)
        else:
            if match is None:
                index.add([str(position)], [crystal], pack([crystal]))
            else:
                found[position] = int(match.name)
        step(1)
    return found, failed


def near_any(measures: Sequence[Measure], rows: Ints, columns: Ints, step: Step) -> NDArray[np.bool_]:
    """Whether each of `rows` is near, by every measure, to any of `columns`."""
    near = np.zeros(len(rows), dtype=bool)
    for start, block in enumerate(_blocks(rows)):
        wanted = np.ones((len(block), len(columns)), dtype=bool)
        near[start * _BLOCK + near_pairs(measures, block, columns, wanted)[0]] = True
        step(len(block))
    return near


# --- what hangs together -------------------------------------------------------------------------


def clusters(measures: Sequence[Measure], labels: Ints, step: Step) -> Ints:
    """Connected components (single linkage) where near pairs are linked, numbered from 0.

    Args:
        labels: (n,) crystals of one label hang together to begin with; `np.arange(n)` where none do.
        measures: near is near by every one. step: progress.
    """
    first = min(measures, key=lambda m: m.threshold / np.ptp(m.heads[:, 0]).clip(1e-12))
    order = np.argsort(first.heads[:, 0], kind="stable")
    along = first.heads[order, 0]
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        reach = along[start + len(rows) - 1] + first.threshold + _ROUNDING
        columns = order[start : np.searchsorted(along, reach, side="right")]
        i, j = near_pairs(measures, rows, columns, labels[rows][:, None] != labels[columns])
        labels = _joined(labels, labels[rows[i]], labels[columns[j]])
        step(len(rows))
    return _joined(labels, labels[:0], labels[:0])


def matched_clusters(crystals: Sequence[Crystal], vectors: Floats, labels: Ints, step: Step) -> Ints:
    """As `clusters`, where near means that the matcher finds the two the same, either way round.

    Args:
        crystals: the crystals. vectors: their scaled AMD vectors, which propose the pairs.
        labels: as in `clusters`. step: progress.
    """
    buckets = defaultdict(list)
    for position, crystal in enumerate(crystals):
        buckets[crystal.reduced_composition].append(position)
    matcher = Matcher()
    for members in buckets.values():
        reduced = [_reduced(crystals[position]) for position in members] if len(members) > 1 else []
        for later in range(1, len(reduced)):
            b = members[later]
            gaps = np.abs(vectors[members[:later]] - vectors[b]).max(axis=1)
            for earlier in np.flatnonzero(gaps <= AMD_RADIUS).tolist():
                a = members[earlier]
                if labels[a] != labels[b] and _same(matcher, reduced[earlier], reduced[later]):
                    labels = np.where(labels == labels[b], labels[a], labels)
        step(len(members))
    return _joined(labels, labels[:0], labels[:0])


def _reduced(crystal: Crystal) -> ReducedStructure | None:
    try:
        return prepare(crystal)
    except Exception as error:  # of any kind, as above: it matches nothing
        _log.debug("%s could not be reduced: %r", crystal.formula, error)
        return None


def _same(matcher: Matcher, a: ReducedStructure | None, b: ReducedStructure | None) -> bool:
    """Whether the matcher finds them the same; what it cannot tell apart in time stays together."""
    if a is None or b is None:
        return False
    try:
        return matcher.matches(a, b) or matcher.matches(b, a)
    except ValueError:
        return True


def _joined(labels: Ints, a: Ints, b: Ints) -> Ints:
    """Labels after joining label a[k] with label b[k], numbered anew from 0."""
    n = int(labels.max()) + 1 if len(labels) else 0
    links = coo_array((np.ones(len(a)), (a, b)), shape=(n, n))
    joined = connected_components(links, directed=False)[1].astype(np.int64)
    numbered: Ints = np.unique(joined[labels], return_inverse=True)[1]
    return numbered


# --- the check -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearest:
    """Smallest distances between two sets of crystals.

    Args:
        distances: by the name of the measure, each over all pairs on its own.
        ratio: smallest over all pairs of (largest over the measures of distance over threshold): at
            least 1 iff no pair is near. None where no measure has a threshold.
    """

    distances: dict[str, float]
    ratio: float | None


def nearest(measures: Sequence[Measure], rows: Ints, columns: Ints) -> Nearest:
    """Measured over all pairs, without the lower bounds that the choice went by.

    Raises:
        ValueError: one side is empty.
    """
    if not len(rows) or not len(columns):
        raise ValueError(f"no pairs: {len(rows)} crystals on one side, {len(columns)} on the other")
    smallest = dict.fromkeys((m.name for m in measures), np.inf)
    ratio = np.inf
    limited = any(np.isfinite(m.threshold) for m in measures)
    for block in _blocks(rows):
        worst = np.zeros((len(block), len(columns)))
        for measure in measures:
            distances = measure.distances(block, columns)
            smallest[measure.name] = min(smallest[measure.name], float(distances.min()))
            np.maximum(worst, distances / measure.threshold, out=worst)
        ratio = min(ratio, float(worst.min()))
    return Nearest(smallest, ratio if limited else None)


def _blocks(positions: Ints) -> Iterator[Ints]:
    return (positions[i : i + _BLOCK] for i in range(0, len(positions), _BLOCK))
