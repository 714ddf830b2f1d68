"""Sampling: exact limits, obedience by construction (with an untrained network), determinism."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import spglib
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from heliodor.core.crystal import Crystal
from heliodor.generators.charge import charge_balanced
from heliodor.generators.diffusion.codes import element_codes
from heliodor.generators.diffusion.model import CrystalTransformer, Shape
from heliodor.generators.diffusion.plan import Fixed, Plan, Start, settle
from heliodor.generators.diffusion.process import Process
from heliodor.generators.diffusion.sampler import Impossible, Steps, _Run, crystal_of, sample
from heliodor.generators.diffusion.symmetry import find_template, p1

ANY = np.ones(119, bool)
QUICK = Steps(count=6)


def untrained(std=0.0):
    torch.manual_seed(0)
    made = Process(
        CrystalTransformer(Shape(width=32, depth=2, heads=4, pair=16)), torch.as_tensor(element_codes())
    )
    made.seen[1:90] = True
    made.centre += torch.tensor([0.9, 0.9, 0.9, -0.2, -0.2, -0.2])
    made.scale *= 0.05
    if std:
        for parameter in made.network.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return made.eval()


def made_by(process, plans, seeds=None, steps=QUICK, batch=8):
    return [
        c
        for _, c in sample(
            process, plans, seeds or [(5, i) for i in range(len(plans))], steps, batch=batch
        )
    ]


@pytest.mark.parametrize("steps", [Steps(count=40), Steps(count=40, churn=0.6)])
def test_the_prior_is_sampled_exactly(steps):
    """A zeroed network is the exact denoiser of unit normal channels: samples must be unit normal."""
    process = untrained()
    process.centre.zero_()
    process.scale.fill_(1.0)
    plans = [Plan(p1(1), ANY)] * 600
    run = _Run(process, plans, [(1, i) for i in range(600)], steps, {}, 1.0)
    levels = run.levels()
    with torch.no_grad():
        state = run.first(levels[:, 0])
        for i in range(steps.count - 1):
            state = run.step(state, levels[:, i], levels[:, i + 1], first=i == 0)
    assert float(state.channels.mean()) == pytest.approx(0, abs=0.06)
    assert float(state.channels.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("group", "lattice", "species", "coords"),
    [
        (225, Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        (136, Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        (186, Lattice.hexagonal(3.25, 5.2), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.38]]),
        (
            62,
            Lattice.orthorhombic(5.4, 7.6, 5.3),
            ["Ca", "Ti", "O", "O"],
            [[0.03, 0.25, 0.99], [0, 0, 0.5], [0.48, 0.25, 0.07], [0.29, 0.04, 0.71]],
        ),
    ],
)
def test_the_space_group_is_kept_whatever_the_network_says(group, lattice, species, coords):
    structure = Structure.from_spacegroup(group, lattice, species, coords).get_primitive_structure()
    reduced = structure.get_reduced_structure("niggli")
    crystal = Crystal(reduced.lattice.matrix, reduced.frac_coords, np.array(reduced.atomic_numbers))
    template, _ = find_template(crystal)
    assert template.spacegroup == group
    found = made_by(untrained(0.05), [Plan(template, ANY)] * 6)
    for made in (c for c in found if isinstance(c, Crystal)):
        data = spglib.get_symmetry_dataset((made.lattice, made.frac_coords, made.atomic_numbers), 1e-3)
        own = spglib.get_symmetry_dataset(
            (made.lattice, made.frac_coords, np.unique(template.orbit, return_inverse=True)[1] + 1), 1e-3
        )
        assert len(own.rotations) >= len(
            spglib.get_symmetry((crystal.lattice, crystal.frac_coords, crystal.atomic_numbers))[
                "rotations"
            ]
        )
        assert data is not None
    assert sum(isinstance(c, Crystal) for c in found) >= 4


def test_only_allowed_elements_and_every_required_one():
    allowed = np.zeros(119, bool)
    allowed[[3, 8, 22]] = True
    plans = [Plan(p1(n), allowed, required=(3, 8, 22)) for n in (3, 4, 7, 12)] * 3
    for crystal in made_by(untrained(0.05), plans):
        assert isinstance(crystal, Crystal)
        assert set(crystal.atomic_numbers.tolist()) == {3, 8, 22}


def test_the_number_of_elements_is_met():
    plans = [Plan(p1(8), ANY, n_elements=k) for k in (1, 2, 3, 5)] * 2
    for plan, crystal in zip(plans, made_by(untrained(0.05), plans), strict=True):
        assert len(crystal.elements) == plan.n_elements


def test_a_composition_is_kept():
    numbers = np.array([38, 22, 8, 8, 8])
    for crystal in made_by(untrained(0.05), [Plan(p1(5), ANY, numbers=numbers)] * 4):
        assert crystal.formula == "SrTiO3"


def test_what_is_held_comes_out_as_it_was():
    channels = np.array([np.log(5.3) - np.log(6) / 3, np.log(5.3 * np.sqrt(0.75)) - np.log(6) / 3])
    fixed = Fixed(
        np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]),
        np.array([27, 27, 27]),
        np.array([*channels, np.nan, -0.5, np.nan, np.nan]),
    )
    for crystal in made_by(untrained(0.05), [Plan(p1(6), ANY, fixed=fixed)] * 3):
        cobalt = np.flatnonzero(crystal.atomic_numbers == 27)[:3]
        structure = Structure(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords)
        distances = [
            structure.get_distance(*pair) for pair in ((cobalt[0], cobalt[1]), (cobalt[0], cobalt[2]))
        ]
        assert distances == pytest.approx([2.65, 2.65], abs=2e-3)


def test_a_start_at_a_low_level_stays_close():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    cell = salt.get_primitive_structure().get_reduced_structure("niggli")
    from heliodor.generators.diffusion.lattice import channels_of

    process = untrained()
    process.centre.copy_(torch.as_tensor(channels_of(cell.lattice.matrix, 2)))
    start = Start(
        cell.frac_coords, np.array(cell.atomic_numbers), channels_of(cell.lattice.matrix, 2), 0.05
    )
    plan = Plan(p1(2), ANY, numbers=np.array(cell.atomic_numbers), start=start)
    for crystal in made_by(process, [plan] * 4):
        structure = Structure(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords)
        assert structure.get_distance(0, 1) == pytest.approx(2.82, abs=0.25)
        assert crystal.volume == pytest.approx(cell.volume, rel=0.1)


def test_batches_do_not_change_the_result():
    process = untrained(0.05)
    plans = [Plan(p1(n), ANY) for n in (2, 5, 5, 9, 3, 14)]
    base = made_by(process, plans, batch=1, steps=Steps(count=8, churn=0.5))
    for batch in (2, 4, 6):
        for a, b in zip(
            base, made_by(process, plans, batch=batch, steps=Steps(count=8, churn=0.5)), strict=True
        ):
            assert np.array_equal(a.atomic_numbers, b.atomic_numbers)
            assert a.lattice == pytest.approx(b.lattice, abs=1e-3)


def test_memory_that_runs_out_halves_the_batch(monkeypatch):
    from heliodor.generators.diffusion import sampler

    whole, sizes = sampler._batch, []

    def small(process, plans, *rest):
        sizes.append(len(plans))
        if len(plans) > 2:
            raise torch.OutOfMemoryError
        return whole(process, plans, *rest)

    monkeypatch.setattr(sampler, "_batch", small)
    found = made_by(untrained(), [Plan(p1(2), ANY)] * 6, batch=8)
    assert len(found) == 6
    assert sizes == [6, 4, 2, 2, 2]


def test_impossible_cells_are_values():
    eye, frac, z = np.eye(3) * 4, np.zeros((1, 3)), np.array([3])
    assert isinstance(crystal_of(eye, frac, z), Crystal)
    for bad in (eye * np.nan, eye * [1, 1, 0], eye * [1, 1, 1e6]):
        assert isinstance(crystal_of(bad, frac, z), Impossible)
    assert isinstance(crystal_of(eye, frac + np.inf, z), Impossible)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 2))
@limits(max_examples=60, deadline=None)
def test_settling_takes_the_most_probable_that_is_allowed(seed, orbits, n_required):
    """Against trying every assignment."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, orbits)
    orbit = np.repeat(np.arange(orbits), sizes)
    log_p = np.full((orbits, 119), -np.inf)
    among = [3, 8, 22, 26]
    log_p[:, among] = rng.normal(size=(orbits, 4)) * 2
    required = tuple(among[: min(n_required, orbits)])
    found = settle(log_p[orbit], orbit, required)
    assert set(required) <= set(found.tolist())

    def value(choice):
        return sum(log_p[o, z] * sizes[o] for o, z in enumerate(choice))

    best = max(value(c) for c in product(among, repeat=orbits) if set(required) <= set(c))
    assert value(found[[int(np.argmax(orbit == o)) for o in range(orbits)]]) == pytest.approx(best)


@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
@limits(max_examples=40, deadline=None)
def test_balanced_settling_is_the_best_in_balance(seed, orbits, all_three):
    """Against trying every assignment."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, orbits)
    orbit = np.repeat(np.arange(orbits), sizes)
    names = {3: "Li", 8: "O", 22: "Ti"}
    log_p = np.full((orbits, 119), -np.inf)
    log_p[:, list(names)] = rng.normal(size=(orbits, 3)) * 2
    required = tuple(names) if all_three and orbits > 2 else ()

    def fits(choice):
        counts = Counter()
        for o, z in enumerate(choice):
            counts[names[z]] += int(sizes[o])
        return set(required) <= set(choice) and charge_balanced(counts)

    def value(choice):
        return sum(log_p[o, z] * sizes[o] for o, z in enumerate(choice))

    found = settle(log_p[orbit], orbit, required, balanced=True)
    chosen = tuple(found[[int(np.argmax(orbit == o)) for o in range(orbits)]].tolist())
    possible = [c for c in product(names, repeat=orbits) if fits(c)]
    if possible:
        assert fits(chosen)
        assert value(chosen) == pytest.approx(max(value(c) for c in possible))
    else:
        assert set(required) <= set(chosen)


def test_more_elements_than_places_is_an_error():
    log_p = np.zeros((2, 119))
    with pytest.raises(ValueError, match="orbits"):
        settle(log_p, np.array([0, 0]), (3, 8))
