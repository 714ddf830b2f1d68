"""Magpie's features of compositions."""

import numpy as np
import pytest

from heliodor.validators.magpie import STATISTICS, magpie_features, magpie_names

LIFEPO4 = ((3, 1), (8, 4), (15, 1), (26, 1))


def of(composition):
    return dict(zip(magpie_names(), magpie_features([composition])[0], strict=True))


def test_values_are_those_of_matminer():
    """matminer 0.10.1, ElementProperty.from_preset("magpie").featurize(Composition("LiFePO4"))."""
    found = of(LIFEPO4)
    expected = {
        "Number minimum": 3.0,
        "Number maximum": 26.0,
        "Number range": 23.0,
        "Number mean": 10.857142857142858,
        "Number avg_dev": 5.5102040816326525,
        "Number mode": 8.0,
        "MendeleevNumber avg_dev": 23.755102040816325,
        "Electronegativity minimum": 0.98,
        "Electronegativity maximum": 3.44,
        "GSmagmom mean": 0.30152325714285716,
        "SpaceGroupNumber avg_dev": 89.38775510204083,
        "SpaceGroupNumber mode": 12.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert len(found) == 132


def test_multiples_of_a_composition_are_the_same():
    doubled = tuple((z, 2 * n) for z, n in LIFEPO4)
    assert np.allclose(*magpie_features([LIFEPO4, doubled]), rtol=1e-12)


def test_of_equally_frequent_elements_the_smallest_value_is_the_mode():
    assert of(((11, 1), (17, 1)))["Number mode"] == 11
    assert of(((11, 1), (17, 1)))["Electronegativity mode"] == 0.93


def test_an_element_alone_has_no_spread():
    features = magpie_features([((z, 3),) for z in range(1, 119)]).reshape(118, 22, len(STATISTICS))
    assert np.isfinite(features).all()
    assert (features[:, :, [2, 4]] == 0).all()
    assert (features[:, :, [1, 3, 5]] == features[:, :, [0]]).all()


def test_a_composition_does_not_depend_on_its_company():
    alone = magpie_features([((6, 1),)])
    assert (magpie_features([LIFEPO4, ((6, 1),)])[1] == alone[0]).all()
    assert magpie_features([]).shape == (0, 132)
