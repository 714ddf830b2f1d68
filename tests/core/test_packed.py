"""Many crystals at once are identified as one by one."""

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.packed import identify, pack


def random_crystals(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Crystal(
            rng.normal(size=(3, 3)) * 5,
            np.round(rng.random((size, 3)), rng.integers(1, 9)),
            rng.choice([1, 8, 14, 26, 118], size),
        )
        for size in rng.integers(1, 30, n)
    ]


ODD = [
    Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6]),
    Crystal(np.eye(3), [[0, 0, np.inf], [0, 0, 0]], [6, 6]),
    Crystal(np.full((3, 3), -np.inf), [[0, 0, 0]], [6]),
    Crystal(-np.eye(3), [[0.9999999, 0, 0], [1e-9, 0.5, 0.4999999]], [8, 1]),
]


@pytest.mark.parametrize("seed", range(3))
def test_digest_and_composition_are_those_of_the_crystal(seed):
    crystals = [*random_crystals(60, seed), *ODD]
    twins = [Crystal(c.lattice, c.frac_coords, c.atomic_numbers) for c in crystals]
    identify(twins, pack(twins))
    assert [c.digest for c in twins] == [c.digest for c in crystals]
    assert [c.reduced_composition for c in twins] == [c.reduced_composition for c in crystals]
    assert "digest" in vars(twins[0])


def test_finite_says_which_crystals_are():
    crystals = [*random_crystals(3), *ODD]
    assert pack(crystals).finite().tolist() == [True] * 3 + [False] * 3 + [True]
