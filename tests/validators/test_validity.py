"""Validity: what is no crystal is rejected with the reason and the numbers, real crystals are kept."""

import time

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure
from smact.screening import MIXED_VALENCE_ELEMENTS, smact_validity

from heliodor.core.convert import from_atoms, from_structure
from heliodor.core.crystal import Crystal
from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.errors import InputError
from heliodor.core.protocols import Validator
from heliodor.core.records import Conditions, Reason
from heliodor.validators.charge import charge_neutral
from heliodor.validators.validity import Validity

ROCKSALT = from_structure(
    Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
)
PEROVSKITE = from_structure(
    Structure.from_spacegroup(
        221, Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
    )
)


def one(crystal, conditions=None, **options):
    verdict = Validity(conditions, **options).check([crystal])[0]
    assert verdict.key == crystal.digest
    assert verdict.check == "validity"
    return verdict


def scaled(crystal, factor):
    return Crystal(crystal.lattice * factor, crystal.frac_coords, crystal.atomic_numbers)


def composition(formula):
    amounts = Composition(formula).reduced_composition.get_el_amt_dict()
    return tuple(sorted((ATOMIC_NUMBERS[s], int(n)) for s, n in amounts.items()))


@pytest.mark.parametrize(
    "crystal",
    [
        ROCKSALT,
        PEROVSKITE,
        *(from_atoms(bulk(s)) for s in ("Cu", "Fe", "Mg", "Si", "C", "Cs", "Be")),
        from_atoms(bulk("ZnO", "wurtzite", a=3.25, c=5.2)),
    ],
    ids=lambda c: c.formula,
)
def test_real_crystals_pass(crystal):
    verdict = one(crystal)
    assert verdict.passed is True
    assert verdict.reason is None


def test_score_is_the_shortest_distance():
    assert isinstance(Validity(), Validator)
    verdict = one(ROCKSALT)
    assert verdict.score == pytest.approx(2.82)
    assert verdict.unit == "angstrom"
    assert one(from_atoms(bulk("Cu"))).score == pytest.approx(3.61 / 2**0.5, abs=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(value):
    lattice, frac = ROCKSALT.lattice.copy(), ROCKSALT.frac_coords.copy()
    lattice[1, 2] = value
    assert one(Crystal(lattice, frac, ROCKSALT.atomic_numbers)).reason is Reason.NOT_FINITE
    frac[3, 0] = value
    with np.errstate(invalid="ignore"):
        bad = Crystal(ROCKSALT.lattice, frac, ROCKSALT.atomic_numbers)
    assert one(bad).reason is Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("lattice", "reason"),
    [
        (np.zeros((3, 3)), Reason.VOLUME),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], Reason.VOLUME),
        (np.eye(3) * 1.5, Reason.VOLUME),
        (np.eye(3) * 5.4, Reason.VOLUME),
        (np.eye(3) * 1e200, Reason.VOLUME),
        (np.eye(3) * 1e-200, Reason.VOLUME),
        (np.diag([1.7, 5, 5]), Reason.CELL),
        (np.diag([1e-4, 1e3, 1e3]), Reason.CELL),
        (np.diag([1.0, 1.0, 100.0]), Reason.CELL),
        ([[5, 0, 0], [0, 5, 0], [6.2, 0.1, 4]], None),  # skewed, but a good cell when reduced
        ([[3, 0, 0], [0, 3, 0], [3000, 3000, 8]], None),
    ],
)
def test_cells(lattice, reason):
    start = time.process_time()
    verdict = one(Crystal(np.array(lattice, float), np.zeros((1, 3)), np.array([79])))
    assert verdict.reason is reason
    assert verdict.passed is (reason is None)
    assert time.process_time() - start < 2
    if reason:
        assert "expected" in verdict.detail


@given(st.floats(0.3, 0.9), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_distances_are_judged_by_covalent_radii(factor, place):
    """Na-Cl along an edge; radii of Cordero et al.: Na 1.66, Cl 1.02 angstrom."""
    sum_of_radii = 1.66 + 1.02
    offset = np.array([[0, 0, 0], [0.99, 0.99, 0.99], [0.5, 0, 0.3], [0.2, 0.7, 0.95]])[place]
    frac = offset + np.array([[0, 0, 0], [factor * sum_of_radii / 4.5, 0, 0]])
    verdict = one(Crystal(4.5 * np.eye(3), frac, [11, 17]))
    assert verdict.score == pytest.approx(
        min(factor, 4.5 / sum_of_radii - factor) * sum_of_radii, abs=1e-6
    )
    if factor > 0.56:
        assert verdict.passed is True
    elif factor < 0.54:
        assert verdict.reason is Reason.DISTANCE
        assert verdict.detail.startswith("Cl-Na ")
        assert "at least 1.47" in verdict.detail


def test_self_images_count():
    """A cesium chain of 2 angstrom: Cs-Cs by the cell alone (radius 2.44)."""
    chain = Crystal(np.diag([2.0, 6.0, 6.0]), np.zeros((1, 3)), np.array([55]))
    verdict = one(chain)
    assert verdict.reason is Reason.DISTANCE
    assert "Cs-Cs 2.00" in verdict.detail
    assert one(chain, min_distance_ratio=0.4).passed is True


def test_the_floor_holds_whatever_the_ratio():
    close = Crystal(5 * np.eye(3), [[0, 0, 0], [0.09, 0, 0], [0.5, 0.5, 0.5]], [1, 1, 8])
    verdict = one(close, min_distance_ratio=0.01)
    assert verdict.reason is Reason.DISTANCE
    assert "at least 0.50" in verdict.detail


def test_atoms_on_one_another_are_found():
    verdict = one(Crystal(4 * np.eye(3), [[0.2] * 3, [0.2] * 3], [12, 8]))
    assert verdict.reason is Reason.DISTANCE
    assert verdict.score == 0


@given(st.integers(0, 1000), st.floats(0.2, 1.2))
@settings(max_examples=20, deadline=None)
def test_the_verdict_does_not_depend_on_the_cell(seed, factor):
    rng = np.random.default_rng(seed)
    base = scaled(PEROVSKITE, factor)
    matrix = np.eye(3)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        step = np.eye(3)
        step[i, j] = rng.integers(-3, 4)
        matrix = step @ matrix
    frac = (base.frac_coords + rng.random(3)) @ np.linalg.inv(matrix)
    other = one(Crystal(matrix @ base.lattice, frac, base.atomic_numbers))
    verdict = one(base)
    assert (other.passed, other.reason) == (verdict.passed, verdict.reason)
    assert other.score == (verdict.score and pytest.approx(verdict.score, abs=1e-6))


def test_number_of_atoms_is_looked_at_first():
    rng = np.random.default_rng(0)
    for lattice in (np.eye(3) * 50, np.diag([1e-3, 1e4, 1e4])):
        big = Crystal(lattice, rng.random((10_000, 3)), np.full(10_000, 14))
        start = time.process_time()
        assert one(big).reason is Reason.TOO_MANY_ATOMS
        verdict = one(big, max_atoms=10_000)
        assert verdict.reason in {Reason.DISTANCE, Reason.CELL}
        assert time.process_time() - start < 5
    assert one(ROCKSALT, Conditions(max_atoms=7)).reason is Reason.TOO_MANY_ATOMS
    assert one(ROCKSALT, max_atoms=7).detail == "8 atoms, at most 7"


def test_composition_must_be_what_was_asked_for():
    asked = Conditions(elements=("Cl", "K", "Na"))
    verdict = one(ROCKSALT, asked)
    assert verdict.reason is Reason.COMPOSITION
    assert "Cl-K-Na" in verdict.detail
    assert one(ROCKSALT, Conditions(elements=("Cl", "K", "Na"), require_all=False)).passed is True
    exact = Conditions(elements=("Cl", "Na"), composition=(("Cl", 2), ("Na", 1)))
    assert one(ROCKSALT, exact).reason is Reason.COMPOSITION


@pytest.mark.parametrize(
    ("formula", "neutral"),
    [
        ("NaCl", True),
        ("NaCl2", False),
        ("LiFePO4", True),
        ("Fe3O4", True),  # mixed valence
        ("MgO3", False),
        ("Al2O3", True),
        ("Cu3Au", True),  # an alloy
        ("LaB6", True),  # metalloids alone do not call for whole charges
        ("O2", True),  # an element
        ("XeHe", None),  # no oxidation states
    ],
)
def test_charge_neutrality(formula, neutral):
    assert charge_neutral(composition(formula)) is neutral


def test_charge_is_judged_and_can_be_left_out():
    bad = Crystal(ROCKSALT.lattice, ROCKSALT.frac_coords, [11, 11, 11, 11, 17, 17, 8, 8])
    worse = Crystal(ROCKSALT.lattice, ROCKSALT.frac_coords, [12] * 6 + [17] * 2)
    assert one(bad, min_distance_ratio=0.1).passed == charge_neutral(bad.reduced_composition)
    verdict = one(worse)
    assert verdict.reason is Reason.CHARGE
    assert "Mg3Cl" in verdict.detail
    assert one(worse, charge_neutral=False).passed is True


def test_unknown_oxidation_states_are_noted_not_rejected():
    crystal = Crystal(ROCKSALT.lattice, ROCKSALT.frac_coords, [2] * 4 + [11] * 4)
    verdict = one(crystal)
    assert verdict.passed is True
    assert "not checked" in verdict.detail


METALS = st.sampled_from("Li Na Mg Al Ca Ti Mn Fe Co Ni Zn Y Zr La Ba Bi".split())


@given(st.dictionaries(METALS, st.integers(1, 2), min_size=1, max_size=2), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_agrees_with_smact(metals, oxygens):
    """SMACT's neutrality without the Pauling test, with mixed valence where it applies."""
    formula = "".join(f"{s}{n}" for s, n in metals.items()) + f"O{oxygens}"
    mixed = bool(set(metals) & set(MIXED_VALENCE_ELEMENTS))
    expected = smact_validity(formula, use_pauling_test=False, mixed_valence=mixed)
    assert charge_neutral(composition(formula)) == expected


def test_order_and_length_of_a_batch_are_kept():
    nan = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])
    batch = [ROCKSALT, nan, PEROVSKITE, scaled(ROCKSALT, 0.4)]
    verdicts = Validity().check(batch)
    assert [v.key for v in verdicts] == [c.digest for c in batch]
    assert [v.passed for v in verdicts] == [True, False, True, False]


@pytest.mark.parametrize(
    "options", [{"min_distance_ratio": 0}, {"min_distance_ratio": 2}, {"max_atoms": 0}]
)
def test_bad_settings_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Validity(**options)


@pytest.mark.shared
def test_keeps_the_materials_project(mp_table):
    rows = mp_table.sample(2000, random_state=8)
    crystals = [
        Crystal(np.reshape(r.lattice, (3, 3)), np.reshape(r.frac_coords, (-1, 3)), r.atomic_numbers)
        for r in rows.itertuples()
    ]
    verdicts = Validity().check(crystals)
    rejected = [v.reason for v in verdicts if not v.passed]
    assert sum(r is not Reason.CHARGE for r in rejected) <= 0.001 * len(rows)
    assert 0 < sum(r is Reason.CHARGE for r in rejected) <= 0.03 * len(rows)
