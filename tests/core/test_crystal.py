from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from heliodor.core.crystal import Crystal

finite = st.floats(-20, 20, allow_nan=False)


@st.composite
def crystals(draw):
    n = draw(st.integers(1, 8))
    return Crystal(
        draw(arrays(np.float64, (3, 3), elements=finite)),
        draw(arrays(np.float64, (n, 3), elements=finite)),
        draw(arrays(np.int64, (n,), elements=st.integers(1, 118))),
    )


@given(crystals())
@settings(max_examples=50, deadline=None)
def test_packed_form_is_exact(crystal):
    again = Crystal.from_bytes(crystal.to_bytes())
    assert np.array_equal(again.lattice, crystal.lattice)
    assert np.array_equal(again.frac_coords, crystal.frac_coords)
    assert np.array_equal(again.atomic_numbers, crystal.atomic_numbers)
    assert again.digest == crystal.digest


@given(crystals(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_digest_ignores_order_of_atoms_and_whole_translations(crystal, random):
    order = list(range(len(crystal)))
    random.shuffle(order)
    moved = Crystal(
        crystal.lattice, crystal.frac_coords[order] + [1, -2, 3], crystal.atomic_numbers[order]
    )
    # Adding whole numbers costs digits: compare at the digest's own resolution.
    if np.allclose(np.sort(moved.frac_coords, axis=0), np.sort(crystal.frac_coords, axis=0), atol=1e-13):
        rounded = np.round(crystal.frac_coords, 5)
        exact = Crystal(crystal.lattice, rounded, crystal.atomic_numbers)
        same = Crystal(crystal.lattice, rounded[order], crystal.atomic_numbers[order])
        assert exact.digest == same.digest


def test_digest_tells_crystals_apart(mgo):
    longer = Crystal(mgo.lattice * 1.001, mgo.frac_coords, mgo.atomic_numbers)
    other = Crystal(mgo.lattice, mgo.frac_coords, [20, 8])
    assert len({mgo.digest, longer.digest, other.digest}) == 3


def test_facts(mgo, srtio3):
    assert mgo.formula == "MgO"
    assert mgo.chemsys == "Mg-O"
    assert mgo.volume == pytest.approx(4.21**3 / 4)
    assert srtio3.reduced_composition == ((8, 3), (22, 1), (38, 1))
    assert len(srtio3) == 5


def test_supercell_has_the_same_reduced_composition(mgo):
    twice = Crystal(
        mgo.lattice * [[2], [1], [1]],
        np.vstack([mgo.frac_coords / [2, 1, 1], mgo.frac_coords / [2, 1, 1] + [0.5, 0, 0]]),
        np.tile(mgo.atomic_numbers, 2),
    )
    assert twice.reduced_composition == mgo.reduced_composition


def test_is_immutable(mgo):
    with pytest.raises(ValueError, match="read-only"):
        mgo.lattice[0, 0] = 1
    with pytest.raises(AttributeError):
        mgo.lattice = np.eye(3)


@pytest.mark.parametrize(
    ("lattice", "frac", "numbers", "message"),
    [
        (np.eye(2), [[0, 0, 0]], [1], "lattice has shape"),
        (np.eye(3), [[0, 0]], [1], "frac_coords has shape"),
        (np.eye(3), np.zeros((0, 3)), np.zeros(0, int), "n >= 1"),
        (np.eye(3), [[0, 0, 0]], [0], "1 to 118"),
        (np.eye(3), [[0, 0, 0]], [119], "1 to 118"),
        (np.eye(3), [[0, 0, 0]], [1.5], "1 to 118"),
    ],
)
def test_bad_shapes_are_refused(lattice, frac, numbers, message):
    with pytest.raises(ValueError, match=message):
        Crystal(lattice, np.array(frac), np.array(numbers))


def test_nan_is_kept_for_the_validity_check(mgo):
    crystal = Crystal(mgo.lattice * np.nan, mgo.frac_coords, mgo.atomic_numbers)
    assert Crystal.from_bytes(crystal.to_bytes()).digest == crystal.digest


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-4], lambda b: b"XXX" + b[3:], lambda b: b[:7] + b"abc"]
)
def test_damaged_bytes_are_refused(mgo, damage):
    with pytest.raises(ValueError, match="packed crystal|damaged|truncated"):
        Crystal.from_bytes(damage(mgo.to_bytes()))
