"""The rules of other evaluators, on crystals whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.validators import lemat, mattergen
from heliodor.validators.disorder import DisorderMatcher, substitutable
from heliodor.validators.uniqueness import Uniqueness

SALT = ((11, 1), (17, 1))


def two_orders() -> tuple[Crystal, Crystal]:
    """NiMn on a body-centred lattice: CsCl's order, and layers of pairs."""
    cubic = Structure(Lattice.cubic(3.0), ["Ni", "Mn"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    sites = [[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]]
    layers = Structure(Lattice.tetragonal(3.0, 6.0), ["Ni", "Mn", "Mn", "Ni"], sites)
    return from_structure(cubic), from_structure(layers)


def test_two_orders_of_one_alloy_are_one_to_mattergen_and_two_to_the_plain_matcher():
    a, b = two_orders()
    assert DisorderMatcher().distinct([a, b]) == [True, False]
    assert DisorderMatcher().matches(b, [a, b]) == [0, 1]
    assert [v.passed for v in Uniqueness().check([a, b])] == [True, True]


def test_what_cannot_substitute_stays_apart(mgo, srtio3):
    assert substitutable(["Mg", "O"]) == []
    assert substitutable(["Co", "Fe", "Ni", "O"]) == [["Co", "Fe", "Ni"]]
    assert substitutable(["He", "Xe"]) == []
    wurtzite_like = Crystal(
        [[3.2, 0, 0], [-1.6, 2.771, 0], [0, 0, 5.1]],
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
        [12, 12, 8, 8],
    )
    again = Crystal(1.02 * mgo.lattice, mgo.frac_coords, mgo.atomic_numbers)
    assert DisorderMatcher().distinct([mgo, srtio3, wurtzite_like, again]) == [True, True, True, False]


def test_mattergens_structure_rule_ignores_a_sites_own_images(mgo):
    assert mattergen.structure_valid(mgo)
    near = Crystal(mgo.lattice, [[0, 0, 0], [0.05, 0.05, 0.05]], [12, 8])
    assert not mattergen.structure_valid(near)
    flat = Crystal(np.diag([3.0, 3.0, 0.4]), [[0, 0, 0]], [12])
    assert mattergen.structure_valid(flat), "the source looks at distances between sites only"
    assert not mattergen.structure_valid(Crystal(np.diag([0.4, 0.4, 0.4]), [[0, 0, 0]], [12]))


@pytest.mark.parametrize(
    ("composition", "valid"),
    [
        (SALT, True),
        (((11, 1), (17, 2)), False),
        (((26, 3), (13, 1)), True),  # an alloy
        (((14, 1),), True),
        (((3, 1), (15, 1), (26, 1), (8, 4)), True),
    ],
)
def test_mattergens_composition_rule(composition, valid):
    assert mattergen.composition_valid(tuple(sorted(composition))) is valid


def test_a_relaxation_that_cannot_be_followed_counts_as_half_a_spacing(mgo):
    assert mattergen.relaxation_rmsd(mgo, mgo) == pytest.approx(0, abs=1e-6)
    collapsed = Crystal(mgo.lattice * [[0.3], [1.9], [1.0]], mgo.frac_coords, mgo.atomic_numbers)
    spacing = (mgo.volume / 2) ** (1 / 3)
    assert mattergen.relaxation_rmsd(mgo, collapsed) == pytest.approx(0.5 * spacing, rel=0.5)


def test_lemats_rules(mgo, srtio3):
    assert lemat.distances_valid(mgo)
    assert lemat.distances_valid(srtio3)
    squeezed = Crystal(0.7 * mgo.lattice, mgo.frac_coords, mgo.atomic_numbers)  # 1.47 angstrom
    assert lemat.distances_valid(squeezed), "at least 0.5 (0.7 + 1.5 + 0.6) = 1.4 angstrom"
    assert not lemat.distances_valid(Crystal(0.65 * mgo.lattice, mgo.frac_coords, mgo.atomic_numbers))
    assert lemat.plausible(mgo)
    assert not lemat.plausible(Crystal(60 * mgo.lattice, mgo.frac_coords, mgo.atomic_numbers))
    assert lemat.charge_neutral(SALT)
    assert not lemat.charge_neutral(((11, 1), (17, 2)))
    assert lemat.charge_neutral(((13, 1), (26, 3)))


def test_cells_that_nothing_can_be_computed_for_match_nothing(mgo):
    nan = Crystal(mgo.lattice, [[0, 0, 0], [np.nan, 0, 0]], mgo.atomic_numbers)
    flat = Crystal(mgo.lattice * [[1], [1], [0]], mgo.frac_coords, mgo.atomic_numbers)
    assert DisorderMatcher().distinct([mgo, nan, flat, mgo]) == [True, True, True, False]
    with pytest.raises(ValueError, match="not finite"):
        mattergen.structure_valid(nan)
