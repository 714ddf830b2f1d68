"""Random symmetric crystals: item i by (seed, i) alone, conditions, symmetry, distances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import spglib
from ase.data import covalent_radii

from heliodor.core.convert import to_structure
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError, MissingError
from heliodor.core.protocols import Generator
from heliodor.core.records import Candidate, Conditions, Failure, Reason
from heliodor.generators import random_symmetric
from heliodor.generators.charge import charge_balanced
from heliodor.generators.compositions import Compositions, _amounts
from heliodor.generators.random_symmetric import RandomGenerator
from heliodor.generators.volume import cell_volume

CONDITIONS = Conditions(("Li", "Mn", "O"), max_atoms=8)


@pytest.fixture(scope="module")
def items():
    return list(RandomGenerator().generate(14, seed=5, conditions=CONDITIONS))


def counts_of(crystal):
    numbers, n = np.unique(crystal.atomic_numbers, return_counts=True)
    return {SYMBOLS[z]: int(k) for z, k in zip(numbers, n, strict=True)}


def test_is_a_generator():
    assert isinstance(RandomGenerator(), Generator)


def test_most_draws_give_crystals_that_obey(items):
    crystals = [c.crystal for c in items if isinstance(c, Candidate)]
    assert len(crystals) >= 12
    assert all(CONDITIONS.admits(c) for c in crystals)
    assert all(charge_balanced(counts_of(c)) for c in crystals)
    assert len({c.digest for c in crystals}) == len(crystals)
    assert len({c.formula for c in crystals}) > 5


def test_volumes_and_distances_are_sane(items):
    for item in items:
        if isinstance(item, Failure):
            continue
        crystal = item.crystal
        assert 0.9 < crystal.volume / cell_volume(counts_of(crystal)) < 1.3
        structure = to_structure(crystal)
        first, second, _, distance = structure.get_neighbor_list(4.0)
        radii = covalent_radii[crystal.atomic_numbers]
        assert (distance > 0.55 * (radii[first] + radii[second])).all()


def test_item_depends_on_seed_and_index_alone(items):
    np.random.seed(1)  # noqa: NPY002 - to show that global state does not matter
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    part = list(RandomGenerator().generate(4, seed=5, conditions=CONDITIONS, start=8))
    assert part == items[8:12]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    other = list(RandomGenerator().generate(4, seed=6, conditions=CONDITIONS, start=8))
    assert other != part


def test_the_symmetry_is_there():
    generator = RandomGenerator(spacegroups=(12, 166, 225))
    seen = set()
    for item in generator.generate(8, seed=0, conditions=CONDITIONS):
        assert isinstance(item, Candidate)
        drawn = int(item.origin.source.split(",")[0].removeprefix("space group "))
        crystal = item.crystal
        cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
        found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
        # Special positions may carry more symmetry than the group drawn, never less.
        order = {12: 4, 166: 12, 225: 48}[drawn]
        assert len({r.tobytes() for r in found.rotations}) >= order
        seen.add(drawn)
    assert len(seen) > 1


def test_composition():
    conditions = Conditions(composition=(("O", 3), ("Sr", 1), ("Ti", 1)), max_atoms=10)
    items = list(RandomGenerator().generate(4, seed=0, conditions=conditions))
    assert {c.crystal.formula for c in items if isinstance(c, Candidate)} == {"SrTiO3"}


def test_subsystems():
    conditions = Conditions(("Li", "Mn", "O"), require_all=False, max_atoms=8)
    items = list(RandomGenerator().generate(15, seed=0, conditions=conditions))
    crystals = [c.crystal for c in items if isinstance(c, Candidate)]
    assert all(conditions.admits(c) for c in crystals)
    assert len({len(c.elements) for c in crystals}) > 1


def test_quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(RandomGenerator().generate(3, seed=2, conditions=CONDITIONS))
    assert capsys.readouterr().out == ""


def test_no_room_is_a_failure(monkeypatch):
    monkeypatch.setattr(random_symmetric, "_VOLUME_RANGE", (0.1, 0.12))
    monkeypatch.setattr(random_symmetric, "_TRIES", 1)
    conditions = Conditions(composition=(("O", 3), ("Sr", 1), ("Ti", 1)), max_atoms=5)
    (item,) = RandomGenerator().generate(1, seed=0, conditions=conditions, start=3)
    assert isinstance(item, Failure)
    assert item.reason is Reason.GENERATION
    assert item.origin is not None
    assert item.origin.index == 3


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyxtal", None)
    with pytest.raises(MissingError, match="pyxtal"):
        RandomGenerator().generate(1, seed=0, conditions=CONDITIONS)


@pytest.mark.parametrize(
    ("options", "conditions", "said"),
    [
        # Ia-3d has no Wyckoff position of fewer than 8 atoms in its primitive cell.
        (
            {"spacegroups": (230,)},
            Conditions(composition=(("Na", 1), ("Cl", 1)), max_atoms=6),
            "none of",
        ),
        ({}, Conditions(("Li", "Mn", "O"), max_atoms=2), "no composition"),
        ({}, Conditions(("He", "Ne")), "Ne"),
        ({}, Conditions(composition=(("Li", 5), ("O", 1))), "no composition"),
        ({}, Conditions(("Li", "O"), composition=(("Mn", 1), ("O", 1))), "disagree"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_call(options, conditions, said):
    with pytest.raises(InputError, match=said):
        RandomGenerator(**options).generate(1, seed=0, conditions=conditions)


def test_bad_space_group():
    with pytest.raises(InputError, match="231"):
        RandomGenerator(spacegroups=(231,))


def test_amounts_are_all_of_them():
    listed = list(_amounts(2, 5))
    assert sorted(listed) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 3), (3, 1), (3, 2), (4, 1)]


def test_many_elements_are_sampled():
    elements = ("Li", "Na", "K", "Mg", "Ca", "Al", "Ti", "O")
    drawn = Compositions(Conditions(elements, max_atoms=40), charge_balanced=True)
    cell = drawn.draw(np.random.default_rng(0))
    assert {s for s, _ in cell} == set(elements)
    assert sum(n for _, n in cell) <= 40
    assert charge_balanced(dict(cell))
