"""Supply, abundance and hazards of the elements."""

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.records import Judged
from heliodor.validators.supply import RADIOACTIVE, Supply, supply

PBTE = ((52, 1), (82, 1))
LIFEPO4 = ((3, 1), (8, 4), (15, 1), (26, 1))


def test_indices_of_elements_are_the_papers():
    """Gaultois et al., Chem. Mater. 25, 2911 (2013): neodymium 9500 / 3100, platinum 5500 / 9100."""
    for z, production, reserve in ((60, 9500, 3100), (78, 5500, 9100), (26, 2400, 1400), (8, 500, 500)):
        found = supply(((z, 1),))
        assert (found["hhi_production"], found["hhi_reserve"]) == (production, reserve)


def test_indices_of_compounds_are_weighted_by_mass():
    from pymatgen.analysis.hhi import HHIModel

    for composition, formula in ((PBTE, "PbTe"), (LIFEPO4, "LiFePO4"), (((52, 3), (83, 2)), "Bi2Te3")):
        found = supply(composition)
        expected = HHIModel().get_hhi(formula)
        assert (found["hhi_production"], found["hhi_reserve"]) == pytest.approx(expected, rel=1e-3)


def test_no_index_where_the_paper_has_none():
    assert supply(((1, 1), (11, 1)))["hhi_production"] is None


def test_the_scarcest_element():
    assert (supply(PBTE)["scarcest_element"], supply(PBTE)["crustal_abundance"]) == ("Te", 0.001)
    assert supply(LIFEPO4)["scarcest_element"] == "Li"
    assert supply(((8, 1), (61, 1)))["scarcest_element"] is None


def flags(*composition):
    found = supply(composition)
    return found["restricted"], found["toxic"], found["radioactive"]


def test_flags():
    assert flags(*LIFEPO4) == (False, False, False)
    assert flags(*PBTE) == (True, True, False)
    assert flags((33, 1), (31, 1)) == (False, True, False)  # GaAs
    assert flags((8, 2), (92, 1)) == (False, True, True)  # UO2
    assert flags((34, 1), (48, 1)) == (True, True, False)  # CdSe
    assert flags((16, 1), (48, 1)) == (True, False, False)  # CdS is listed by itself, not as a group


def test_chromium_counts_in_its_sixth_state_only():
    assert flags((8, 3), (24, 2)) == (False, False, False)  # Cr2O3
    assert flags((8, 4), (19, 2), (24, 1)) == (True, True, False)  # K2CrO4
    assert flags((24, 1), (26, 1)) == (False, False, False)


def test_bismuth_counts_as_stable():
    assert 83 not in RADIOACTIVE
    assert {43, 61, 84, 90, 92, 118} <= RADIOACTIVE


def test_every_element_has_a_row():
    batch = [Judged("k", Crystal(np.eye(3) * 3, [[0, 0, 0]], [z])) for z in range(1, 119)]
    names = {column.name for column in Supply.columns}
    assert all(set(row) == names for row in Supply().score(batch))
