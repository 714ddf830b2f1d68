"""The generator with the weights that ship: valid crystals, in order, the same every time."""

from __future__ import annotations

import pytest
import spglib

from heliodor.core.errors import InputError, MissingError
from heliodor.core.records import Candidate, Conditions, Failure
from heliodor.generators.diffusion import generator as module
from heliodor.generators.diffusion.generator import DiffusionGenerator, Sampling
from heliodor.generators.diffusion.request import Request
from heliodor.generators.diffusion.weights import FOLDER, default_weights, shipped_adapters
from heliodor.validators.uniqueness import Uniqueness
from heliodor.validators.validity import Validity

N = 24


def crystals(generator, n=N, start=0, **conditions):
    items = list(generator.generate(n, seed=3, conditions=Conditions(**conditions), start=start))
    assert len(items) == n
    return [item.crystal for item in items if isinstance(item, Candidate)]


def group(crystal):
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    return spglib.get_symmetry_dataset(cell, 0.1).number


@pytest.fixture(scope="module")
def made():
    return list(DiffusionGenerator().generate(N, seed=3, conditions=Conditions(max_atoms=10)))


def test_most_are_valid_and_none_is_made_twice(made):
    found = [item.crystal for item in made]
    assert sum(bool(v.passed) for v in Validity().check(found)) >= 0.75 * N
    assert sum(bool(v.passed) for v in Uniqueness().check(found)) >= 0.9 * N
    assert all(len(c) <= 10 for c in found)


def test_the_origin_names_the_weights(made):
    digest = DiffusionGenerator().provenance["weights"]
    assert len(digest) == 64
    assert {item.origin.checkpoint_sha256 for item in made} == {digest}
    assert [item.origin.index for item in made] == list(range(N))


@pytest.mark.parametrize("batch", [1, 5])
def test_neither_batch_nor_start_changes_a_crystal(made, batch):
    again = DiffusionGenerator(sampling=Sampling(batch=batch))
    part = crystals(again, n=6, start=4, max_atoms=10)
    assert [c.digest for c in part] == [item.crystal.digest for item in made[4:10]]


def test_the_space_group_of_the_template_is_there(made):
    from pymatgen.symmetry.groups import SpaceGroup

    exact = 0
    for item in made:
        asked = int(item.origin.source.removeprefix("space group ") or 1)
        crystal = item.crystal
        cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
        found = spglib.get_symmetry_dataset(cell, 0.1)
        exact += found.number == asked
        operations = SpaceGroup.from_int_number(asked).symmetry_ops
        turns = {op.rotation_matrix.astype(int).tobytes() for op in operations}
        assert len({r.tobytes() for r in found.rotations}) >= len(turns)
    assert exact >= 0.8 * N


@pytest.mark.parametrize("number", [225, 62])
def test_a_space_group_that_is_asked_for(number):
    found = crystals(DiffusionGenerator(request=Request(spacegroups=(number,))), n=6, max_atoms=20)
    assert [group(c) for c in found] == [number] * len(found)


def test_without_symmetry_and_symmetrised():
    free = Request(symmetric=False)
    plain = crystals(DiffusionGenerator(request=free), n=8, max_atoms=4)
    refine = Sampling(symmetrize=True)
    refined = crystals(DiffusionGenerator(request=free, sampling=refine), n=8, max_atoms=4)
    tight = [
        spglib.get_symmetry_dataset((c.lattice, c.frac_coords, c.atomic_numbers), 1e-4).number
        for c in refined
    ]
    assert sum(a == group(b) for a, b in zip(tight, plain, strict=True)) >= 7
    assert any(number > 2 for number in tight)


def test_the_quality_mode_makes_crystals():
    assert len(crystals(DiffusionGenerator(sampling=Sampling(mode="quality")), n=4, max_atoms=4)) == 4


@pytest.mark.parametrize("name", ["bulk_modulus", "band_gap", "e_above_hull"])
def test_every_adapter_that_ships_fits_the_weights(name):
    assert name in shipped_adapters()
    target = {"bulk_modulus": 200.0, "band_gap": (1.0, 2.0), "e_above_hull": 0.0}[name]
    assert crystals(DiffusionGenerator(request=Request(targets={name: target})), n=2, max_atoms=4)


def test_a_failed_crystal_is_a_failure_with_its_place(monkeypatch):
    from heliodor.generators.diffusion import sampler

    monkeypatch.setattr(sampler, "crystal_of", lambda *_: sampler.Impossible("the cell is flat"))
    items = list(DiffusionGenerator().generate(3, seed=0, conditions=Conditions(max_atoms=4)))
    assert all(isinstance(i, Failure) and i.detail == "the cell is flat" for i in items)
    assert [i.origin.index for i in items] == [0, 1, 2]


def test_missing_things_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no weights at"):
        DiffusionGenerator(tmp_path / "none.safetensors").generate(1, seed=0, conditions=Conditions())
    with pytest.raises(InputError, match="no adapter for 'hardness'"):
        DiffusionGenerator(request=Request(targets={"hardness": 3.0})).planner(Conditions())
    with pytest.raises(InputError, match="far from the values"):
        DiffusionGenerator(request=Request(targets={"bulk_modulus": 1e5})).planner(Conditions())
    monkeypatch.setattr(module, "default_weights", lambda: tmp_path / "base.safetensors")
    with pytest.raises(MissingError, match="the weights that ship are not there"):
        DiffusionGenerator().planner(Conditions())


def test_what_ships_is_small_and_has_its_card():
    assert default_weights().stat().st_size <= 16_000_000
    card = (FOLDER / "MODEL_CARD.md").read_text()
    assert DiffusionGenerator().provenance["weights"] in card
