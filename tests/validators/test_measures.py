"""Continuous uniqueness and novelty."""

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.validators.fingerprint import amd
from heliodor.validators.measures import (
    PROPERTIES,
    composition_features,
    continuous_novelty,
    continuous_uniqueness,
)

CRYSTALS = [
    from_atoms(bulk("Cu")),
    from_atoms(bulk("Si")),
    from_atoms(bulk("NaCl", "rocksalt", a=5.64)),
    from_atoms(bulk("CsCl", "cesiumchloride", a=4.12)),
    from_atoms(bulk("ZnS", "zincblende", a=5.41)),
]
BAD = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])


def test_uniqueness_is_the_mean_over_pairs():
    result = continuous_uniqueness(CRYSTALS)
    vectors, features = [amd(c) for c in CRYSTALS], composition_features(CRYSTALS)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    structure = np.mean([np.abs(vectors[i] - vectors[j]).max() for i, j in pairs])
    composition = np.mean([np.sqrt(np.mean((features[i] - features[j]) ** 2)) for i, j in pairs])
    assert result.structure == pytest.approx(structure)
    assert result.composition == pytest.approx(composition)
    assert (result.n, result.left_out) == (5, 0)


def test_uniqueness_does_not_depend_on_order_and_repeats_lower_it():
    result = continuous_uniqueness(CRYSTALS)
    turned = continuous_uniqueness(CRYSTALS[::-1])
    assert (turned.structure, turned.composition) == pytest.approx(
        (result.structure, result.composition)
    )
    repeated = continuous_uniqueness([*CRYSTALS, *CRYSTALS])
    assert repeated.structure < result.structure
    assert continuous_uniqueness([CRYSTALS[0]] * 3).structure == 0


def test_novelty_is_the_distance_to_the_nearest():
    known = CRYSTALS[:3]
    assert continuous_novelty(known, CRYSTALS).structure == pytest.approx(0, abs=1e-9)
    assert continuous_novelty(known, CRYSTALS).composition == pytest.approx(0, abs=1e-9)
    one = continuous_novelty([CRYSTALS[4]], known)
    expected = min(np.abs(amd(CRYSTALS[4]) - amd(c)).max() for c in known)
    assert one.structure == pytest.approx(expected)
    assert one.composition > 0


def test_structure_and_composition_are_apart():
    """Sylvite on halite's cell: another composition, the same structure."""
    halite = CRYSTALS[2]
    sylvite = Crystal(halite.lattice, halite.frac_coords, np.where(halite.atomic_numbers == 11, 19, 17))
    result = continuous_uniqueness([halite, sylvite])
    assert result.structure == pytest.approx(0, abs=1e-9)
    assert result.composition > 0.1
    other = continuous_uniqueness([halite, from_atoms(bulk("NaCl", "cesiumchloride", a=3.4))])
    assert other.composition == 0
    assert other.structure > 0.1


def test_chemically_near_compositions_are_near():
    salts = [from_atoms(bulk(f, "rocksalt", a=5.6)) for f in ("NaCl", "KCl", "TiC")]
    a, b, c = composition_features(salts)
    assert a.shape == (3 * len(PROPERTIES),)
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)
    assert np.isfinite(composition_features([from_atoms(bulk("Ar")), from_atoms(bulk("Po"))])).all()
    copper = composition_features([CRYSTALS[0]])[0]
    assert (copper[len(PROPERTIES) :] == 0).all()  # an element has no deviation and no range


def test_what_has_no_vector_is_left_out_and_counted():
    result = continuous_uniqueness([*CRYSTALS, BAD])
    assert (result.n, result.left_out) == (5, 1)
    assert result.structure == pytest.approx(continuous_uniqueness(CRYSTALS).structure)
    assert continuous_novelty([CRYSTALS[0], BAD], CRYSTALS).left_out == 1


def test_too_few_crystals_are_refused():
    with pytest.raises(InputError, match="two crystals"):
        continuous_uniqueness([CRYSTALS[0], BAD])
    with pytest.raises(InputError, match="0 known"):
        continuous_novelty(CRYSTALS, [BAD])
