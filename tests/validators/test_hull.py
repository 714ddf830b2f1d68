"""The hull: agreement with pymatgen's PhaseDiagram, and what any convex hull must obey."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.core.protocols import Phase
from heliodor.validators import simplex
from heliodor.validators.hull import ELEMENT_ID, Hull

LI, O, P, FE = 3, 8, 15, 26


def phase(composition, energy, name="x"):
    return Phase(name, composition, energy)


def pymatgen_distance(phases, composition, energy):
    """Signed distance by PhaseDiagram over the phases inside the composition's chemical system."""
    elements = {z for z, _ in composition}
    entries = [PDEntry(Composition(SYMBOLS[z]), 0.0) for z in elements]
    for p in phases:
        if p.formation_energy_per_atom is not None and {z for z, _ in p.composition} <= elements:
            formula = Composition({SYMBOLS[z]: n for z, n in p.composition})
            entries.append(PDEntry(formula, p.formation_energy_per_atom * formula.num_atoms))
    formula = Composition({SYMBOLS[z]: n for z, n in composition})
    query = PDEntry(formula, energy * formula.num_atoms)
    diagram = PhaseDiagram(entries)
    return diagram.get_decomp_and_e_above_hull(query, allow_negative=True, check_stable=False)[1]


compositions = st.dictionaries(
    st.sampled_from([LI, O, P, FE, 11]), st.integers(1, 6), min_size=1, max_size=5
).map(lambda counts: tuple(sorted(counts.items())))
random_phases = st.lists(st.tuples(compositions, st.floats(-3, 0.5)), max_size=25).map(
    lambda drawn: [Phase(f"p-{i}", c, e if len(c) > 1 else abs(e)) for i, (c, e) in enumerate(drawn)]
)


def test_textbook_binary():
    hull = Hull([phase(((LI, 2), (O, 1)), -2.0, "mp-1960")])
    distance = hull.query(((LI, 1), (O, 1)), -1.0)
    # Li2O holds 3/4 of the atoms of LiO, oxygen the rest.
    assert distance.decomposition_energy == pytest.approx(-1.0 + 0.75 * 2.0)
    assert distance.decomposition == (
        ("Li2O", "mp-1960", pytest.approx(0.75)),
        ("O2", ELEMENT_ID, pytest.approx(0.25)),
    )


def test_below_the_known_hull_is_negative_but_energy_above_hull_is_zero():
    distance = Hull([phase(((LI, 2), (O, 1)), -2.0)]).query(((LI, 2), (O, 1)), -2.3)
    assert distance.decomposition_energy == pytest.approx(-0.3)
    assert distance.energy_above_hull == 0


def test_composition_on_the_hull_is_compared_with_its_phase():
    phases = [phase(((LI, 2), (O, 1)), -2.0, "a"), phase(((LI, 2), (O, 1)), -1.9, "b")]
    distance = Hull(phases).query(((LI, 4), (O, 2)), -1.95)
    assert distance.energy_above_hull == pytest.approx(0.05)
    assert distance.decomposition == (("Li2O", "a", pytest.approx(1.0)),)


def test_elements_without_any_phase_stand_at_zero():
    distance = Hull([]).query(((FE, 1), (P, 3)), 0.4)
    assert distance.decomposition_energy == pytest.approx(0.4)
    assert {name for _, name, _ in distance.decomposition} == {ELEMENT_ID}
    assert Hull([]).query(((FE, 2),), 0.1).decomposition_energy == pytest.approx(0.1)


def test_an_elemental_polymorph_is_not_the_reference_state():
    hull = Hull([phase(((FE, 1),), 0.05, "bct"), phase(((LI, 1),), 0.0, "ground")])
    assert hull.query(((FE, 1),), 0.05).energy_above_hull == pytest.approx(0.05)
    assert hull.query(((LI, 1),), 0.0).decomposition == (("Li", "ground", 1.0),)


@given(random_phases, compositions, st.floats(-3, 1))
@settings(max_examples=60, deadline=None)
def test_agrees_with_pymatgen_on_random_phases(phases, composition, energy):
    ours = Hull(phases).query(composition, energy).decomposition_energy
    assert ours == pytest.approx(pymatgen_distance(phases, composition, energy), abs=1e-6)


@given(random_phases, compositions)
@settings(max_examples=60, deadline=None)
def test_the_decomposition_is_a_balanced_reaction_of_that_energy(phases, composition):
    energy, parts = Hull(phases).ground_state(composition)
    named = {p.material_id: p for p in phases}
    amounts, total = Counter(), 0.0
    for formula, name, fraction in parts:
        for element, share in Composition(formula).fractional_composition.items():
            amounts[element.Z] += fraction * share
        total += fraction * named[name].formation_energy_per_atom if name != ELEMENT_ID else 0.0
    size = sum(n for _, n in composition)
    assert dict(amounts) == pytest.approx({z: n / size for z, n in composition}, abs=1e-6)
    assert total == pytest.approx(energy, abs=1e-6)


@given(random_phases)
@settings(max_examples=40, deadline=None)
def test_no_phase_lies_below_the_hull_it_spans(phases):
    hull = Hull(phases)
    for p in phases:
        assert hull.query(p.composition, p.formation_energy_per_atom).decomposition_energy >= -1e-8


@given(random_phases, compositions, st.floats(-3, 0))
@settings(max_examples=40, deadline=None)
def test_another_phase_never_raises_the_hull(phases, composition, energy):
    extra = phase(composition, energy if len(composition) > 1 else 0.0, "new")
    before, after = Hull(phases), Hull([*phases, extra])
    for p in [*phases, extra]:
        assert after.ground_state(p.composition)[0] <= before.ground_state(p.composition)[0] + 1e-9


@given(random_phases, compositions, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_and_repetition_of_the_phases_do_not_matter(phases, composition, rng):
    shuffled = [*phases, *phases[:3]]
    rng.shuffle(shuffled)
    assert Hull(phases).ground_state(composition) == Hull(shuffled).ground_state(composition)


NINE = [1, 3, 7, 8, 11, 15, 16, 17, 26]
many_elements = st.dictionaries(st.sampled_from(NINE), st.integers(1, 4), min_size=1, max_size=9).map(
    lambda counts: tuple(sorted(counts.items()))
)
# Energies on a coarse grid, so that points coincide with tie lines and facets.
degenerate_phases = st.lists(st.tuples(many_elements, st.integers(-6, 0)), max_size=30).map(
    lambda drawn: [Phase(f"p-{i}", c, e / 4 if len(c) > 1 else 0.0) for i, (c, e) in enumerate(drawn)]
)


@given(degenerate_phases, st.lists(many_elements, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_agrees_with_pymatgen_in_up_to_nine_elements_and_on_degenerate_points(phases, compositions):
    energies = Hull(phases).ground_states(compositions).energies
    for composition, energy in zip(compositions, energies, strict=True):
        assert pymatgen_distance(phases, composition, float(energy)) == pytest.approx(0.0, abs=1e-6)


@given(random_phases, st.lists(compositions, max_size=12))
@settings(max_examples=60, deadline=None)
def test_many_at_once_are_the_same_as_one_by_one(phases, asked):
    hull = Hull(phases)
    states = hull.ground_states(asked)
    alone = [hull.ground_state(c) for c in asked]
    assert [(float(e), states.decomposition(i)) for i, e in enumerate(states.energies)] == alone


def test_a_query_of_more_elements_than_codes_hold():
    eleven = tuple((z, 1 + z % 3) for z in range(3, 14))
    phases = [
        phase(eleven, -0.5, "all"),
        phase(eleven[:10], -0.8, "ten"),
        phase(eleven[:2], -0.3, "two"),
    ]
    phases.append(phase(((90, 1), (92, 1)), -5.0, "foreign"))
    hull = Hull(phases)
    assert hull.query(eleven, 0.0).decomposition_energy == pytest.approx(
        pymatgen_distance(phases[:3], eleven, 0.0), abs=1e-9
    )
    assert {name for _, name, _ in hull.ground_state(eleven)[1]} == {"ten", ELEMENT_ID}


def test_counts_of_an_element_that_is_named_twice_add_up():
    hull = Hull([phase(((LI, 2), (O, 1)), -2.0)])
    assert hull.ground_state(((O, 1), (LI, 1), (LI, 1))) == hull.ground_state(((LI, 2), (O, 1)))


def test_highs_decides_where_there_is_no_proof(monkeypatch):
    rng = random.Random(4)
    phases = [
        phase(
            tuple(sorted({z: rng.randint(1, 5) for z in rng.sample([LI, O, P, FE], k)}.items())),
            -3 * rng.random(),
            f"p{i}",
        )
        for i, k in enumerate([2, 3, 4] * 12)
    ]
    asked = [((LI, 1), (O, 4), (P, 1), (FE, 1)), ((LI, 3), (O, 1)), ((O, 5), (P, 2), (FE, 2))]
    right = Hull(phases).ground_states(asked)
    calls = []
    highs = simplex.highs
    monkeypatch.setattr(simplex, "highs", lambda *problem: calls.append(1) or highs(*problem))
    monkeypatch.setattr(simplex, "_STEPS", 0)  # the simplex stops at the elements: no optimum
    other = Hull(phases).ground_states(asked)
    assert len(calls) == 3
    assert other.energies == pytest.approx(right.energies, abs=1e-9)
    for i in range(3):
        assert dict(p[1:] for p in other.decomposition(i)) == pytest.approx(
            dict(p[1:] for p in right.decomposition(i)), abs=1e-7
        )


def test_a_singular_basis_costs_only_its_own_problem():
    unit = np.eye(2)
    matrices = np.stack([np.hstack([unit, unit]), np.hstack([unit, [[0.5, 0.5], [0.5, 0.5]]])])
    energies = np.array([[0, 0, -1.0, -1.0], [0, 0, -1.0, -1.0]])
    fractions = np.array([[0.3, 0.7], [0.5, 0.5]])
    singular = np.array([[2, 3], [2, 3]])  # of the second problem: two equal columns
    weights, proven = simplex._proof(matrices, energies, fractions, singular)
    assert proven.tolist() == [True, False]
    assert weights[0] == pytest.approx([0.3, 0.7])
    basis, weights = simplex.minimise(matrices, energies, fractions)
    assert (weights * np.take_along_axis(energies, basis, 1)).sum(axis=1) == pytest.approx([-1, -1])


@pytest.mark.parametrize(
    ("composition", "energy", "says"),
    [
        ((), -1.0, "composition"),
        (((LI, 0),), -1.0, "count > 0"),
        (((LI, 1), (O, -1)), -1.0, "count > 0"),
        (((300, 1),), -1.0, "atomic number"),
        (((0, 1),), -1.0, "atomic number"),
        (((LI, 1),), float("nan"), "nan"),
    ],
)
def test_senseless_queries_are_refused(composition, energy, says):
    with pytest.raises(InputError, match=says):
        Hull([]).query(composition, energy)


def test_a_phase_with_an_infinite_energy_is_named():
    with pytest.raises(InputError, match="mp-7"):
        Hull([phase(((LI, 1), (O, 1)), float("inf"), "mp-7")])


@pytest.mark.shared
def test_agrees_with_pymatgen_on_the_materials_project(mp_table):
    phases = [_row_phase(row) for row in mp_table.itertuples()]
    hull = Hull(phases)
    by_system = {}
    for p in phases:
        by_system.setdefault(frozenset(z for z, _ in p.composition), []).append(p)
    rng = random.Random(1)
    chosen = rng.sample(phases, 60)
    chosen += [p for p in phases if len(p.composition) == 1][:10]
    chosen += [p for p in phases if len(p.composition) >= 5][:15]
    sizes = Counter(len(p.composition) for p in chosen)
    assert set(sizes) >= {1, 2, 3, 4, 5}
    for p in chosen:
        elements = [z for z, _ in p.composition]
        near = [
            q
            for k in range(1, len(elements) + 1)
            for subset in combinations(elements, k)
            for q in by_system.get(frozenset(subset), [])
        ]
        energy = p.formation_energy_per_atom
        for others in (near, [q for q in near if q.composition != p.composition]):
            ours = (hull if others is near else Hull(others)).query(p.composition, energy)
            theirs = pymatgen_distance(others, p.composition, energy)
            assert ours.decomposition_energy == pytest.approx(theirs, abs=1e-6)


def _row_phase(row):
    counts = Counter(row.atomic_numbers.tolist())
    factor = math.gcd(*counts.values())
    composition = tuple((z, counts[z] // factor) for z in sorted(counts))
    return Phase(row.material_id, composition, row.formation_energy_per_atom)
