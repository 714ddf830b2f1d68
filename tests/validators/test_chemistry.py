"""Neutrality, SMACT's test and oxidation states of compositions."""

import random
import warnings

import numpy as np
import pytest
from pymatgen.core import Composition

from heliodor.core.crystal import Crystal
from heliodor.core.elements import ATOMIC_NUMBERS, SYMBOLS
from heliodor.core.records import Judged
from heliodor.validators.chemistry import Chemistry, chemistry, smact_valid
from heliodor.validators.oxidation import assign, state_frequencies


def of(formula):
    amounts = Composition(formula).reduced_composition.get_el_amt_dict()
    return tuple(sorted((ATOMIC_NUMBERS[s], int(n)) for s, n in amounts.items()))


@pytest.mark.parametrize(
    ("formula", "states"),
    [
        ("NaCl", "Na+1 Cl-1"),
        ("LiFePO4", "Li+1 O-2 P+5 Fe+2"),
        ("FePO4", "O-2 P+5 Fe+3"),
        ("LiCoO2", "Li+1 O-2 Co+3"),
        ("BaTiO3", "O-2 Ti+4 Ba+2"),
        ("CsPbI3", "I-1 Cs+1 Pb+2"),
        ("Cu2O", "O-2 Cu+1"),
        ("Fe3O4", "O-2 Fe+2 Fe+3"),
        ("YBa2Cu3O7", "O-2 Cu+2 Cu+3 Y+3 Ba+2"),
        ("Na2O2", "O-1 Na+1"),
        ("NH4NO3", None),
    ],
)
def test_states_are_those_of_the_textbook(formula, states):
    found = assign(of(formula))
    if formula == "NH4NO3":  # both nitrogens cannot differ: neutral only with an unusual state
        assert found.frequency < 0.05
        return
    assert str(found) == states
    assert found.ordered
    assert 0 < found.frequency <= 1
    assert 0 < found.likelihood <= 1


def test_mixed_valence_counts_the_atoms():
    assert assign(of("Fe3O4")).states == (("O", -2, 4), ("Fe", 2, 1), ("Fe", 3, 2))


def test_a_peroxide_has_a_rare_state_and_an_oxide_has_not():
    assert assign(of("Na2O2")).frequency < 0.01
    assert assign(of("Na2O")).frequency > 0.9


def test_a_doubtful_assignment_has_a_lower_likelihood():
    # Pyrite: Fe2+ (S2)2- beside Fe4+ S2-; rock salt has one way only.
    assert assign(of("FeS2")).likelihood < 0.9
    assert assign(of("NaCl")).likelihood == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("formula", ["NaCl3", "HeO2", "Li7F", "Fe", "NiAl"])
def test_no_states_where_nothing_balances_or_no_charges_are_whole(formula):
    assert assign(of(formula)) is None


def test_columns_of_a_composition():
    found = chemistry(of("Fe3O4"))
    assert found["charge_neutral"] is True
    assert found["smact_valid"] is False  # SMACT's default knows no mixed valence
    assert chemistry(of("NaCl"))["smact_valid"] is True
    assert chemistry(of("NiAl")) == {
        "charge_neutral": True,
        "smact_valid": True,
        "oxidation_states": None,
        "oxidation_state_likelihood": None,
        "oxidation_state_frequency": None,
        "pauling_ordered": None,
    }
    absurd = chemistry(of("NaCl3"))
    assert absurd["charge_neutral"] is False
    assert absurd["smact_valid"] is False
    assert chemistry(of("HeO2"))["charge_neutral"] is None


def test_pauling_order_fails_where_an_anion_is_less_electronegative():
    assert chemistry(of("NH4Cl"))["pauling_ordered"] is True
    assert chemistry(of("PH3"))["pauling_ordered"] is False  # P-3 (2.19) below H+1 (2.20)


def test_frequencies_are_shares():
    for states in state_frequencies().values():
        assert sum(states.values()) == pytest.approx(1)
        assert 0 not in states
    assert "He" not in state_frequencies()
    assert set(state_frequencies()["Na"]) == {1}


def test_smact_valid_is_smacts_own_verdict():
    from smact.screening import smact_validity

    draw = random.Random(1)
    symbols = [s for s in SYMBOLS[1:95] if s not in {"Po", "At", "Rn", "Fr", "Ra"}]
    compositions = [of("LiFePO4"), of("Fe3O4"), of("NiAl"), of("H2O"), of("Si"), of("XeF4"), of("ArF2")]
    for _ in range(150):
        picked = draw.sample(symbols, draw.choice([2, 3]))
        compositions.append(of("".join(f"{s}{draw.randint(1, 4)}" for s in picked)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [smact_validity(Composition({SYMBOLS[z]: n for z, n in c})) for c in compositions]
    assert [smact_valid(c) for c in compositions] == expected
    assert 20 < sum(expected) < 140


def test_every_element_and_a_large_formula_are_answered():
    every = [Crystal(np.eye(3) * 3, [[0, 0, 0], [0.5, 0.5, 0.5]], [z, 8]) for z in range(1, 119)]
    wide = Crystal(
        np.eye(3) * 30, np.random.default_rng(0).random((400, 3)), [8] * 250 + [26] * 99 + [25] * 51
    )
    batch = [Judged(c.digest, c) for c in (*every, wide)]
    rows = Chemistry().score(batch)
    names = {column.name for column in Chemistry.columns}
    assert len(rows) == 119
    assert all(set(row) == names for row in rows)
