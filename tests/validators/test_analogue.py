"""The nearest synthesised analogue, in the embedded table."""

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.records import Judged
from heliodor.validators.analogue import Analogue, pattern_of, substitutions


@pytest.fixture(scope="module")
def analogue():
    from heliodor.validators.reference_embedded import EmbeddedReference

    return Analogue(lambda: EmbeddedReference().known)


@pytest.fixture(scope="module")
def ktao3(srtio3):
    """Cubic potassium tantalate, mp-3614."""
    return swapped(swapped(srtio3, 38, 19), 22, 73)


def swapped(crystal, old, new):
    numbers = np.where(crystal.atomic_numbers == old, new, crystal.atomic_numbers)
    return Crystal(crystal.lattice, crystal.frac_coords, numbers)


def row(analogue, crystal):
    return analogue.score([Judged(crystal.digest, crystal)])[0]


def test_a_known_phase_is_its_own_analogue(analogue, ktao3):
    assert row(analogue, ktao3) == {
        "analogue_id": "mp-3614",
        "analogue_formula": "KTaO3",
        "analogue_substitutions": "",
        "analogue_distance": 0,
        "analogue_same_spacegroup": True,
    }


def test_one_substitution_leads_to_the_neighbour_in_the_scale(analogue, ktao3):
    found = row(analogue, swapped(ktao3, 19, 37))  # cubic RbTaO3, which the table has not
    assert found["analogue_formula"] == "KTaO3"
    assert found["analogue_substitutions"] == "K->Rb"
    assert found["analogue_distance"] == pytest.approx(1 / 5)


def test_another_space_group_is_said(analogue, srtio3):
    stretched = Crystal(
        srtio3.lattice * [[1.0], [1.1], [1.3]],
        srtio3.frac_coords + [[0, 0, 0.05]] * 5,
        srtio3.atomic_numbers,
    )
    assert row(analogue, stretched)["analogue_same_spacegroup"] is False


def test_no_such_counts_no_analogue(analogue):
    odd = Crystal(np.eye(3) * 20, np.random.default_rng(0).random((48, 3)), [11] * 7 + [17] * 41)
    assert row(analogue, odd) == {}


def test_an_absurd_cell_is_compared_by_composition(analogue, mgo):
    broken = Crystal(mgo.lattice * np.nan, mgo.frac_coords, mgo.atomic_numbers)
    found = row(analogue, broken)
    assert found["analogue_formula"] == "MgO"
    assert found["analogue_same_spacegroup"] is None


def test_substitutions_pair_by_count_and_leave_what_stays():
    lfp, other = ((3, 1), (8, 4), (15, 1), (26, 1)), ((8, 4), (11, 1), (15, 1), (25, 1))
    assert substitutions(lfp, other) == [("Li", "Na"), ("Fe", "Mn")]
    assert substitutions(((8, 3), (26, 2)), ((8, 2), (26, 3))) == [("Fe", "O"), ("O", "Fe")]
    assert pattern_of(lfp) == (1, 1, 1, 4)


def test_the_distance_is_that_of_the_substitutions(analogue):
    """The best pairing overall keeps shared elements in place."""
    from heliodor.core.elements import ATOMIC_NUMBERS
    from heliodor.validators.analogue import _places, _scale

    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = sorted(rng.integers(1, 3, 4).tolist())
        old, new = (
            tuple(
                sorted(zip(rng.choice(np.arange(1, 95), 4, replace=False).tolist(), counts, strict=True))
            )
            for _ in range(2)
        )
        moved = np.abs(np.subtract(_places(old), _places(new))) @ np.array(counts)
        count_of = dict(old)
        pairs = [(ATOMIC_NUMBERS[a], ATOMIC_NUMBERS[b]) for a, b in substitutions(old, new)]
        assert moved == pytest.approx(
            sum(count_of[a] * abs(_scale()[a] - _scale()[b]) for a, b in pairs)
        )
