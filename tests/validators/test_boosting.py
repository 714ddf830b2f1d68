"""Boosted trees in plain arrays."""

import numpy as np
import pytest

from heliodor.validators.boosting import Settings, grow


@pytest.fixture(scope="module")
def checkerboard():
    """Two features whose product decides: no single one tells anything. And four of noise."""
    rows = np.random.default_rng(0).normal(size=(3000, 6))
    return rows, rows[:, 0] * rows[:, 1] > 0


def test_it_learns_what_no_feature_tells_alone(checkerboard):
    rows, labels = checkerboard
    forest = grow(rows[:2000], labels[:2000], Settings(150, 4, 0.3), np.random.default_rng(0))
    assert ((forest.logits(rows[2000:]) > 0) == labels[2000:]).mean() > 0.9


def test_same_draws_same_forest(checkerboard):
    rows, labels = checkerboard
    one, two = (grow(rows, labels, Settings(3, 3), np.random.default_rng(5)) for _ in range(2))
    assert (one.threshold == two.threshold).all()
    assert (one.leaf == two.leaf).all()


def test_arrays_are_complete_trees(checkerboard):
    rows, labels = checkerboard
    steps = []
    forest = grow(rows, labels, Settings(5, 4), np.random.default_rng(0), lambda: steps.append(1))
    assert len(steps) == 5
    assert forest.feature.shape == forest.threshold.shape == (5, 15)
    assert forest.leaf.shape == (5, 16)
    assert forest.logits(np.empty((0, 6))).shape == (0,)


def test_logits_are_the_sum_of_the_leaves_that_a_row_falls_into(checkerboard):
    rows, labels = checkerboard
    forest = grow(rows, labels, Settings(6, 3), np.random.default_rng(0))
    for row in rows[:20].astype(np.float32):
        total = 0.0
        for feature, threshold, leaf in zip(forest.feature, forest.threshold, forest.leaf, strict=True):
            node = 0
            while node < 7:
                node = 2 * node + (2 if row[feature[node]] > threshold[node] else 1)
            total += float(leaf[node - 7])
        assert forest.logits(row[None])[0] == pytest.approx(total, rel=1e-6, abs=1e-9)


def test_nothing_to_split_gives_no_split():
    forest = grow(np.ones((50, 2)), np.arange(50) < 25, Settings(2, 2), np.random.default_rng(0))
    assert np.isinf(forest.threshold).all()
    assert forest.logits(np.ones((1, 2)))[0] == pytest.approx(0, abs=0.3)
