"""Compositions that nobody has reported."""

import math
from collections import Counter

import numpy as np
import pytest

from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.generators.charge import charge_balanced
from heliodor.generators.hypothetical import Kind, hypothetical

KNOWN = [
    ((11, 1), (17, 1)),
    ((8, 1), (12, 1)),
    ((8, 3), (22, 1), (56, 1)),
    ((3, 1), (8, 4), (15, 1), (26, 1)),
    ((8, 3), (26, 2)),
    ((16, 2), (42, 1)),
    ((31, 1), (33, 1)),
    ((19, 1), (35, 1)),
]


@pytest.mark.parametrize("kind", list(Kind))
def test_they_are_new_different_and_reduced(kind):
    found = hypothetical(KNOWN, kind, 20, np.random.default_rng(0), taken=[((9, 1), (11, 1))])
    assert len(set(found)) == 20
    assert not set(found) & {*KNOWN, ((9, 1), (11, 1))}
    for composition in found:
        assert len(composition) > 1
        assert math.gcd(*(n for _, n in composition)) == 1
        assert [z for z, _ in composition] == sorted({z for z, _ in composition})
    assert found == hypothetical(KNOWN, kind, 20, np.random.default_rng(0), taken=[((9, 1), (11, 1))])


@pytest.mark.parametrize("kind", [Kind.SWAP, Kind.FILL])
def test_some_kinds_are_in_charge_balance(kind):
    for composition in hypothetical(KNOWN, kind, 40, np.random.default_rng(1)):
        assert charge_balanced({SYMBOLS[z]: n for z, n in composition})


def test_a_swap_changes_one_element_and_no_count():
    patterns = {tuple(sorted(n for _, n in c)) for c in KNOWN}
    for composition in hypothetical(KNOWN, Kind.SWAP, 40, np.random.default_rng(2)):
        if tuple(sorted(n for _, n in composition)) in patterns:
            shared = max(sum((Counter(dict(c)) & Counter(dict(composition))).values()) for c in KNOWN)
            assert shared > 0


@pytest.mark.parametrize("kind", [Kind.RECOUNT, Kind.AMOUNTS])
def test_other_counts_keep_the_elements(kind):
    systems = {tuple(z for z, _ in c) for c in KNOWN}
    for composition in hypothetical(KNOWN, kind, 20, np.random.default_rng(3)):
        assert tuple(z for z, _ in composition) in systems


def test_it_says_when_there_are_no_more():
    with pytest.raises(InputError, match="only"):
        hypothetical([((11, 1), (17, 1))], Kind.RECOUNT, 5, np.random.default_rng(0))
    with pytest.raises(InputError, match="two or more"):
        hypothetical([((11, 1),)], Kind.SWAP, 5, np.random.default_rng(0))
