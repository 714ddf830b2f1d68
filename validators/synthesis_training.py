"""Train and measure the synthesizability model of `synthesis`.

Bagging for positive and unlabelled data (Mordelet and Vert, Pattern Recognit. Lett. 37, 201 (2014)):
each bag learns to tell all known compositions from as many unlabelled ones, drawn anew. What is measured
is measured on chemical systems that were left out: a composition next to a known one of its own system
is easy to recognise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from .boosting import Forest, Settings, grow
from .phases import Composition
from .synthesis import SynthesisModel, digests, features

Floats = NDArray[np.float64]

MIN_KNOWN = 100
"""Known compositions below which nothing is learned."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Args:
        bags: forests in the model. folds: parts by chemical system, each left out once to measure.
        fold_bags: forests of the model that is measured on each part; fewer, for time.
        seed: of all draws. forest: how each is grown.

    Raises:
        InputError: out of range.
    """

    bags: int = 8
    folds: int = 5
    fold_bags: int = 2
    seed: int = 0
    forest: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        given = {"bags": (self.bags, 1), "folds": (self.folds, 2), "fold_bags": (self.fold_bags, 1)}
        for name, (value, least) in {**given, "trees": (self.forest.trees, 1)}.items():
            if value < least:
                raise InputError(f"{name}: got {value}, expected at least {least}")

    @property
    def steps(self) -> int:
        """Trees in all."""
        return (self.bags + self.folds * self.fold_bags) * self.forest.trees


def train(
    known: Sequence[Composition],
    unlabelled: Mapping[str, Sequence[Composition]],
    options: TrainingOptions,
    step: Callable[[], None] = lambda: None,
) -> SynthesisModel:
    """A model of all the data, and in its card what its like reach on chemical systems left out.

    Args:
        known: different reduced compositions. unlabelled: by kind; none of them known.
        step: called `options.steps` times.

    Raises:
        InputError: too few compositions.
    """
    others = [c for part in unlabelled.values() for c in part]
    if len(known) < MIN_KNOWN or len(others) < MIN_KNOWN:
        raise InputError(
            f"{len(known)} known and {len(others)} unlabelled compositions: at least {MIN_KNOWN} of each"
        )
    rows = features([*known, *others])
    labels = np.arange(len(rows)) < len(known)
    kinds = np.repeat(["known", *unlabelled], [len(known), *map(len, unlabelled.values())])
    fold = np.array([_fold(c, options.folds) for c in (*known, *others)])
    measured = np.empty(len(rows))
    for k in range(options.folds):
        inside, seed = fold != k, [options.seed, 1, k]
        forests = _bags(rows[inside], labels[inside], options.fold_bags, options.forest, seed, step)
        measured[~inside] = _chance(forests.logits(rows[~inside]) / options.fold_bags)
    forests = _bags(rows, labels, options.bags, options.forest, [options.seed, 0], step)
    card = {
        "known": len(known),
        "unlabelled": {kind: len(part) for kind, part in unlabelled.items()},
        "bags": options.bags,
        "trees": options.forest.trees,
        "depth": options.forest.depth,
        "rate": options.forest.rate,
        "seed": options.seed,
        "folds": options.folds,
        "fold_bags": options.fold_bags,
        "measured": measures(measured, kinds),
    }
    return SynthesisModel(forests, options.bags, np.unique(digests(known)), card)


def measures(scores: Floats, kinds: NDArray[np.str_]) -> dict[str, Any]:
    """What scores of left-out compositions say, as plain numbers.

    Unlabelled compositions count as negatives in the areas, and some could be made: so the ROC area and
    the average precision are lower bounds of the true ones, and the share of unlabelled ones that are
    called synthesizable is no error rate.
    """
    known = scores[kinds == "known"]
    others = scores[kinds != "known"]
    names = [str(kind) for kind in dict.fromkeys(kinds.tolist()) if kind != "known"]
    return {
        "recall": _above(known, 0.5),
        "called": _above(others, 0.5),
        "called_by_kind": {name: _above(scores[kinds == name], 0.5) for name in names},
        "roc_area": roc_area(known, others),
        "roc_area_by_kind": {name: roc_area(known, scores[kinds == name]) for name in names},
        "average_precision": average_precision(known, others),
        "known_share": round(len(known) / len(scores), 4),
        "curve": [
            {"threshold": t / 10, "recall": _above(known, t / 10), "called": _above(others, t / 10)}
            for t in range(1, 10)
        ],
    }


def roc_area(positive: Floats, other: Floats) -> float:
    """Chance that a positive scores above another, ties by half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, other]))[: len(positive)].sum()
    pairs = len(positive) * len(other)
    return round(float((ranks - len(positive) * (len(positive) + 1) / 2) / pairs), 4)


def average_precision(positive: Floats, other: Floats) -> float:
    """Mean precision over the positives, each at its own score as threshold."""
    above_own = np.searchsorted(np.sort(positive), positive, side="left")
    above_other = np.searchsorted(np.sort(other), positive, side="left")
    hits, false = len(positive) - above_own, len(other) - above_other
    return round(float((hits / (hits + false)).mean()), 4)


def _above(scores: Floats, threshold: float) -> float:
    return round(float((scores > threshold).mean()), 4) if len(scores) else 0.0


def _bags(
    rows: Floats,
    labels: NDArray[np.bool_],
    bags: int,
    settings: Settings,
    seed: Sequence[int],
    step: Callable[[], None],
) -> Forest:
    """Forests side by side, each of all positives and as many of the others."""
    positive, other = np.flatnonzero(labels), np.flatnonzero(~labels)
    forests = []
    for bag in range(bags):
        rng = np.random.default_rng([*seed, bag])
        drawn = rng.choice(other, min(len(positive), len(other)), replace=False)
        used = np.concatenate([positive, drawn])
        forests.append(grow(rows[used], labels[used], settings, rng, step))
    return Forest(
        np.concatenate([f.feature for f in forests]),
        np.concatenate([f.threshold for f in forests]),
        np.concatenate([f.leaf for f in forests]),
    )


def _fold(composition: Composition, folds: int) -> int:
    """The part of a composition: one for each chemical system, the same in every run."""
    system = "-".join(str(z) for z, _ in composition)
    return int.from_bytes(hashlib.sha256(system.encode()).digest()[:8], "big") % folds


def _chance(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))
