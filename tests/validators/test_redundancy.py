import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.validators.redundancy import (
    Measure,
    clusters,
    composition_measure,
    matched_clusters,
    matched_representatives,
    near_any,
    nearest,
    representatives,
    scaled_amd,
    structure_measure,
)


def _nothing(_):
    pass


def _measures(n=300, thresholds=(0.35, 0.2), seed=0):
    """Random points in the shapes of the two measures, alike in both, dense enough to chain."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    composition = hidden @ rng.normal(size=(3, 12)) * 0.2
    structure = hidden @ rng.normal(size=(3, 100)) * 0.1
    return [
        Measure("composition", composition, "euclidean", thresholds[0], range(8)),
        structure_measure(structure, thresholds[1]),
    ]


def _near_matrix(measures):
    """By the definition, without bounds."""
    near = True
    for m in measures:
        gap = m.vectors[:, None] - m.vectors
        far = np.linalg.norm(gap, axis=2) if m.metric == "euclidean" else np.abs(gap).max(axis=2)
        near = near & (far < m.threshold)
    return near


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
def test_greedy_choice_is_the_definition(which):
    measures = [_measures()[k] for k in which]
    near = _near_matrix(measures)
    order = np.random.default_rng(1).permutation(len(near))
    kept, expected = [], {}
    for i in order:
        hits = [k for k in kept if near[i, k]]
        expected[i] = hits[0] if hits else i
        if not hits:
            kept.append(i)
    found = representatives(measures, order, _nothing)
    assert 1 < len(kept) < len(near)
    assert found.tolist() == [expected[i] for i in range(len(near))]


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
def test_clusters_are_the_connected_components(which):
    measures = [_measures()[k] for k in which]
    reach = _near_matrix(measures)
    for _ in range(9):
        reach = reach.astype(np.float32) @ reach > 0
    n = len(reach)
    found = clusters(measures, np.arange(n), _nothing)
    assert ((found[:, None] == found) == reach).all()
    assert 1 < found.max() + 1 == len(np.unique(found)) < 0.9 * n


def test_clusters_join_what_was_labelled_alike():
    measures = _measures(60, (1e-9, 1e-9))
    labels = np.arange(60) % 7
    found = clusters(measures, labels, _nothing)
    assert ((found[:, None] == found) == (labels[:, None] == labels)).all()


def test_nearest_is_the_smallest_distance_of_all_pairs():
    measures = _measures(200, (0.1, 0.08))
    rows, columns = np.arange(150), np.arange(150, 200)
    found = nearest(measures, rows, columns)
    gap = measures[1].vectors[:150, None] - measures[1].vectors[150:]
    assert found.distances["structure"] == pytest.approx(np.abs(gap).max(axis=2).min())
    near = _near_matrix(measures)[:150, 150:]
    assert (found.ratio >= 1) == (not near.any())
    assert near_any(measures, rows, columns, _nothing).tolist() == near.any(axis=1).tolist()
    with pytest.raises(ValueError, match="no pairs"):
        nearest(measures, rows, columns[:0])


def test_structure_is_blind_to_elements_and_composition_to_structure():
    crystals = [
        from_atoms(a)
        for a in (
            bulk("NaCl", "rocksalt", a=5.64),
            bulk("MgO", "rocksalt", a=4.21),
            bulk("NaCl", "cesiumchloride", a=3.5),
        )
    ]
    composition = composition_measure(crystals)
    structure = structure_measure(np.array([scaled_amd(c) for c in crystals]))
    every = np.arange(3)
    c, s = composition.distances(every, every), structure.distances(every, every)
    assert c[0, 2] == pytest.approx(0, abs=1e-9)
    assert c[0, 1] > 0.1
    assert s[0, 1] == pytest.approx(0, abs=1e-9)
    assert s[0, 2] > 0.05
    assert (composition.bound(every, every) <= c + 1e-12).all()


def _copies():
    """Rutile-like TiO2 three times (one strained, one doubled), and rock salt."""
    cell = np.diag([4.594, 4.594, 2.959])
    u = 0.305
    frac = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5]]
    frac.append([0.5 - u, 0.5 + u, 0.5])
    numbers = np.array([22, 22, 8, 8, 8, 8])
    rutile = Crystal(cell, np.array(frac), numbers)
    strained = Crystal(cell * 1.02, np.array(frac) + 0.1, numbers)
    half = np.array(frac) / [1, 1, 2]
    doubled = Crystal(
        np.diag([4.594, 4.594, 5.918]),
        np.vstack([half, half + np.array([0, 0, 0.5])]),
        np.tile(numbers, 2),
    )
    return [rutile, from_atoms(bulk("MgO", "rocksalt", a=4.21)), strained, doubled]


def test_matcher_finds_copies_in_the_order_asked_for():
    crystals = _copies()
    found, failed = matched_representatives(crystals, np.arange(4), _nothing)
    assert (found.tolist(), failed) == ([0, 1, 0, 0], [])
    found, _ = matched_representatives(crystals, np.array([3, 2, 1, 0]), _nothing)
    assert found.tolist() == [3, 1, 3, 3]
    vectors = np.array([scaled_amd(c) for c in crystals])
    labels = matched_clusters(crystals, vectors, np.arange(4), _nothing)
    assert labels[0] == labels[2] == labels[3] != labels[1]


def test_what_cannot_be_compared_is_kept_and_named():
    needle = Crystal(np.diag([1e4, 3.0, 3.0]), np.zeros((1, 3)), np.array([29]))
    crystals = [from_atoms(bulk("Cu")), needle, from_atoms(bulk("Cu", a=3.7))]
    found, failed = matched_representatives(crystals, np.arange(3), _nothing)
    assert (found.tolist(), failed) == ([0, 1, 0], [1])
