"""Requests become plans that obey them, or a clear refusal before any work."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.records import Conditions
from heliodor.generators.diffusion.planar import hold
from heliodor.generators.diffusion.request import Request, parse_targets
from heliodor.generators.diffusion.steering import Planner, arrangements
from heliodor.generators.diffusion.symmetry import TemplateLibrary, find_template

SEEN = np.zeros(119, bool)
SEEN[1:90] = True

STRUCTURES = {
    225: (Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    221: (Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    136: (Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    194: (Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
}


def crystal_of(group):
    structure = Structure.from_spacegroup(group, *STRUCTURES[group]).get_primitive_structure()
    cell = structure.get_reduced_structure("niggli")
    return Crystal(cell.lattice.matrix, cell.frac_coords, np.array(cell.atomic_numbers))


@pytest.fixture(scope="module")
def library():
    return TemplateLibrary.from_templates([find_template(crystal_of(g))[0] for g in STRUCTURES])


def planner(library, conditions=None, **request):
    return Planner(conditions or Conditions(), Request(**request), library, SEEN, 20)


def plans(p, n=40):
    return [p.plan(np.random.default_rng([7, i])) for i in range(n)]


def test_plans_depend_on_the_random_state_alone(library):
    one, two = plans(planner(library)), plans(planner(library))
    assert [p.template.key for p in one] == [p.template.key for p in two]
    assert len({p.template.spacegroup for p in one}) == 4


def test_elements_space_group_and_size(library):
    c = Conditions(elements=("Sr", "Ti", "O"), max_atoms=5)
    p = planner(library, c)
    for plan in plans(p):
        assert plan.template.spacegroup == 221  # the only one with three orbits
        assert np.flatnonzero(plan.allowed).tolist() == [8, 22, 38]
        assert plan.required == (38, 22, 8)
    groups = {p.template.spacegroup for p in plans(planner(library, crystal_system="cubic"))}
    assert groups == {221, 225}
    assert {len(p) for p in plans(planner(library, min_atoms=4))} == {5, 6}


def test_elements_are_put_in_charge_balance(library):
    oxide = Conditions(elements=("Li", "Ti", "O"))
    assert all(p.balanced for p in plans(planner(library, oxide), 5))
    assert not any(p.balanced for p in plans(planner(library, oxide, charge_balanced=False), 5))
    assert not any(p.balanced for p in plans(planner(library), 5))
    salt = Conditions(elements=("Na", "Cl"))
    assert {p.template.spacegroup for p in plans(planner(library, salt))} == {225}
    assert {p.template.spacegroup for p in plans(planner(library, salt, charge_balanced=False))} > {225}


def test_a_composition_fills_the_orbits(library):
    c = Conditions(elements=("O", "Sr", "Ti"), composition=(("O", 3), ("Sr", 1), ("Ti", 1)))
    seen = Counter()
    every = plans(planner(library, c), 80)
    within = [plan for plan in every if plan.template.spacegroup > 1]
    assert 25 < len(within) < 55  # half of the tries impose no symmetry
    assert all(sorted(plan.numbers.tolist()) == [8, 8, 8, 22, 38] for plan in every if len(plan) == 5)
    for plan in within:
        assert plan.template.spacegroup == 221
        assert sorted(plan.numbers.tolist()) == [8, 8, 8, 22, 38]
        for orbit in range(plan.template.n_orbits):
            assert len(set(plan.numbers[plan.template.orbit == orbit].tolist())) == 1
        seen[tuple(plan.numbers.tolist())] += 1
    assert len(seen) == 2  # strontium and titanium on either of the two single sites


def test_a_composition_without_a_template_is_made_without_symmetry(library):
    c = Conditions(elements=("O", "Sr"), composition=(("O", 7), ("Sr", 1)))
    for plan in plans(planner(library, c), 5):
        assert plan.template.spacegroup == 1
        assert Counter(plan.numbers.tolist()) == {8: 7 * len(plan) // 8, 38: len(plan) // 8}


def test_planar_sites_come_first_and_hold_the_cell(library):
    held = hold("kagome", "Co")
    for plan in plans(planner(library, planar=held), 8):
        assert len(plan) >= 4
        assert plan.fixed.numbers.tolist() == [27, 27, 27]
        a = np.exp(plan.fixed.channels[0]) * len(plan) ** (1 / 3)
        assert a == pytest.approx(held.cell[0])
        assert np.isnan(plan.fixed.channels[[2, 4, 5]]).all()


@pytest.mark.parametrize(
    ("conditions", "request_", "told"),
    [
        (Conditions(elements=("Og",)), {}, "never seen Og"),
        (Conditions(), {"min_atoms": 25}, "at most 20"),
        (Conditions(max_atoms=4), {"min_atoms": 6}, "above max_atoms"),
        (Conditions(composition=(("Li", 20), ("O", 9)), elements=("Li", "O")), {}, "29 atoms"),
        (Conditions(elements=("Sr", "O", "Ti")), {"n_elements": 2}, "n_elements"),
        (Conditions(), {"spacegroups": (231,)}, "no space groups"),
        (Conditions(), {"spacegroups": (227,)}, "space group 227"),
        (
            Conditions(composition=(("O", 3), ("Ti", 1)), elements=("O", "Ti")),
            {"spacegroups": (136,)},
            "136",
        ),
        (Conditions(), {"crystal_system": "kubic"}, "known: triclinic"),
        (Conditions(), {"crystal_system": "cubic", "spacegroups": (62,)}, "not cubic"),
        (Conditions(max_atoms=2), {"planar": hold("kagome", "Co")}, "do not fit"),
        (Conditions(elements=("Li", "O")), {"planar": hold("kagome", "Co")}, "Co is not among"),
        (Conditions(), {"start": (crystal_of(225),), "level": 0.0}, "level"),
        (Conditions(elements=("Li", "O")), {"start": (crystal_of(225),), "keep_types": True}, "Mg"),
        (Conditions(elements=("Li", "O"), max_atoms=1), {}, "2 elements"),
    ],
)
def test_what_cannot_be_is_refused_at_once(library, conditions, request_, told):
    with pytest.raises(InputError, match=told):
        planner(library, conditions, **request_)


@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_arrangements_are_all_and_each_once(sizes, elements, seed):
    """Against trying every assignment of elements to orbits."""
    sizes = tuple(sorted(sizes))
    rng = np.random.default_rng(seed)
    one = rng.integers(0, elements, len(sizes))
    per = tuple(int(sum(s for s, e in zip(sizes, one, strict=True) if e == k)) for k in range(elements))
    wanted = set()
    for way in product(range(elements), repeat=len(sizes)):
        if all(
            sum(s for s, e in zip(sizes, way, strict=True) if e == k) == per[k] for k in range(elements)
        ):
            wanted.add(tuple(sorted(zip(sizes, way, strict=True))))
    found = arrangements(sizes, per)
    assert len(found) == len(wanted)
    assert {tuple(sorted(zip(sizes, way, strict=True))) for way in found} == wanted


def test_targets():
    assert parse_targets({"band_gap": 2, "bulk_modulus": [100, 200]}) == {
        "band_gap": 2.0,
        "bulk_modulus": (100.0, 200.0),
    }
    for wrong in ([3, 2], [1], [1, 2, 3]):
        with pytest.raises(InputError, match="band_gap"):
            parse_targets({"band_gap": wrong})
