from collections import Counter

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.convert import from_atoms
from heliodor.core.errors import InputError
from heliodor.validators.splits import By, Fractions, Part, by_elements, by_groups, group_names


def _sizes(parts):
    counts = Counter(parts)
    return [counts[part] for part in Part]


def test_groups_stay_together_and_fractions_are_met():
    groups = np.random.default_rng(0).integers(0, 400, 3000)
    groups = np.unique(groups, return_inverse=True)[1]
    parts = by_groups(groups, Fractions(0.1, 0.2), 0, [])
    for group in range(groups.max() + 1):
        assert len({parts[i] for i in np.flatnonzero(groups == group)}) == 1
    assert _sizes(parts) == pytest.approx([2100, 300, 600], abs=15)
    assert parts == by_groups(groups, Fractions(0.1, 0.2), 0, [])
    assert parts != by_groups(groups, Fractions(0.1, 0.2), 1, [])


def test_a_giant_goes_to_training_whatever_the_draw():
    groups = np.concatenate([np.zeros(500, int), np.arange(1, 501)])
    for seed in range(20):
        parts = by_groups(groups, Fractions(0.1, 0.1), seed, [])
        assert parts[0] == Part.TRAIN
        assert _sizes(parts) == [800, 100, 100]


def test_small_and_large_groups_reach_the_test_set():
    sizes = np.arange(1, 60)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    parts = by_groups(groups, Fractions(0.0, 0.3), 3, [])
    in_test = {int(sizes[g]) for g, part in zip(groups, parts, strict=True) if part == Part.TEST}
    assert min(in_test) < 20
    assert max(in_test) > 40
    assert Part.VALIDATION not in parts


def test_one_cluster_cannot_be_split():
    with pytest.raises(InputError, match="holds 50 of 50 crystals"):
        by_groups(np.zeros(50, dtype=int), Fractions(), 0, [])


def test_held_out_groups_are_the_test_set():
    groups = np.repeat(np.arange(10), 5)
    parts = by_groups(groups, Fractions(0.1, 0.1), 0, [3])
    assert [g for g, part in zip(groups, parts, strict=True) if part == Part.TEST] == [3] * 5


@pytest.mark.parametrize("wrong", [(0.1, 0), (0.5, 0.5), (-0.1, 0.1), (0.1, 1.5)])
def test_fractions_are_checked(wrong):
    with pytest.raises(InputError):
        Fractions(*wrong)


CRYSTALS = [
    from_atoms(a)
    for a in (
        *(bulk("NaCl", "rocksalt", a=5.64), bulk("MgO", "rocksalt", a=4.21), bulk("Cu"), bulk("Ni")),
        *(bulk("NaF", "rocksalt", a=4.6), bulk("ZnS", "zincblende", a=5.4), bulk("Fe"), bulk("Mg")),
    )
]


def test_group_names():
    groups = [225, 225, 225, 225, 225, 216, 229, None]
    assert group_names(CRYSTALS, By.CHEMSYS, [])[:2] == ["Cl-Na", "Mg-O"]
    assert group_names(CRYSTALS, By.FORMULA, [])[5] == "ZnS"
    prototypes = group_names(CRYSTALS, By.PROTOTYPE, groups)
    assert prototypes[0] == prototypes[1] == prototypes[4] != prototypes[5]
    assert prototypes[2] == prototypes[3] != prototypes[6]
    assert len(set(prototypes)) == 5


def test_elements_held_out_are_unknown_to_training():
    parts, chosen = by_elements(CRYSTALS, Fractions(0.25, 0.25), 0, [])
    training = {e for c, p in zip(CRYSTALS, parts, strict=True) if p == Part.TRAIN for e in c.elements}
    assert chosen[Part.TEST]
    assert not training & {*chosen[Part.TEST], *chosen[Part.VALIDATION]}
    for crystal, part in zip(CRYSTALS, parts, strict=True):
        assert part == Part.TRAIN or set(crystal.elements) - training
    parts, _ = by_elements(CRYSTALS, Fractions(0, 0.1), 0, ["Na"])
    assert [i for i, part in enumerate(parts) if part == Part.TEST] == [0, 4]
    with pytest.raises(InputError, match="no crystal contains Xe"):
        by_elements(CRYSTALS, Fractions(), 0, ["Xe"])
