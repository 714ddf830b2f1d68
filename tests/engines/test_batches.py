"""Batches, memory, two stages and early stops, with a pair potential that costs microseconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.choices.relaxers import FirstStage, MlipChoice
from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.records import Failure, Reason, Relaxed
from heliodor.engines.batching import TARGET, BatchSize
from heliodor.engines.driver import Driver
from heliodor.engines.early_stop import PATIENCE, WINDOW, EarlyStop
from heliodor.engines.guards import Unphysical
from heliodor.engines.messages import Order
from heliodor.engines.neighbors import find_neighbors
from heliodor.engines.potentials import Evaluation, Loaded


@dataclass
class Morse:
    """A Morse pair potential (eV, angstrom) on a machine whose memory holds so many pairs."""

    length: float = 2.8
    depth: float = 0.3
    memory: float = 1e9
    poison: int = 0
    cutoff: float = 7.0

    def __post_init__(self):
        self.batches = []
        self.peak = 0.0

    def used(self):
        """Share of the memory that was taken at most since it was asked last."""
        share, self.peak = self.peak / self.memory, 0.0
        return share

    def evaluate(self, batch):
        pairs = sum(len(near.first) for _, near in batch)
        if pairs > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.peak = max(self.peak, pairs)
        self.batches.append([len(crystal) for crystal, _ in batch])
        return [self._one(crystal, near) for crystal, near in batch]

    def _one(self, crystal, near):
        if self.poison in crystal.atomic_numbers:
            raise ValueError("poisoned")
        vectors, decay = near.vectors(crystal), 2.5
        x = np.exp(-decay * (near.distances - self.length))
        energy = 0.5 * self.depth * float((x * x - 2 * x).sum())
        pull = self.depth * 2 * decay * (x - x * x)  # dE/dr of a pair
        along = (pull / near.distances)[:, None] * vectors
        forces = np.zeros((len(crystal), 3))
        np.add.at(forces, near.first, along)
        return Evaluation(energy, forces, 0.5 * np.einsum("ki,kj", along, vectors) / crystal.volume)


@dataclass(frozen=True)
class Info:
    model: str = "morse"
    elements: frozenset = frozenset(range(1, 119))
    energies: tuple = (-30.0, 10.0)


def driver(potential, pairs=1, used=None):
    return Driver(Loaded(Info(), potential), MlipChoice(), BatchSize(pairs, used))


def run(driver, *orders):
    for number, order in enumerate(orders):
        driver.add(number, order)
    found = {}
    while driver.busy:
        found.update(driver.step())
    return [found[number] for number in range(len(orders))]


def copper(n=1, a=3.8, seed=0, amount=0.1):
    atoms = bulk("Cu", "fcc", a=a).repeat((n, 1, 1))
    atoms.rattle(amount, seed=seed)
    return from_atoms(atoms)


def pairs_of(crystal):
    return len(find_neighbors(crystal, 7.0).first)


def test_the_potential_of_these_tests_is_one():
    """Forces and stress are derivatives of the energy."""
    potential, crystal = Morse(), copper(3)

    def energy(c):
        return potential.evaluate([(c, find_neighbors(c, 7.0))])[0].energy

    found = potential.evaluate([(crystal, find_neighbors(crystal, 7.0))])[0]
    cart, h = crystal.frac_coords @ crystal.lattice, 1e-4
    shift = np.zeros_like(cart)
    shift[1, 2] = h
    up, down = (
        Crystal(crystal.lattice, (cart + s * shift) @ np.linalg.inv(crystal.lattice), [29] * 3)
        for s in (1, -1)
    )
    assert found.forces[1, 2] == pytest.approx((energy(down) - energy(up)) / (2 * h), abs=1e-3)
    strain = np.diag([0, h, 0])
    up, down = (
        Crystal(crystal.lattice @ (np.eye(3) + s * strain), crystal.frac_coords, [29] * 3)
        for s in (1, -1)
    )
    per_volume = (energy(up) - energy(down)) / (2 * h * crystal.volume)
    assert found.stress[1, 1] == pytest.approx(per_volume, abs=1e-3)


def test_crystals_share_evaluations_up_to_the_size():
    potential = Morse()
    batch = [copper(n, seed=n) for n in (1, 2, 3, 1, 2)]
    limit = sum(pairs_of(c) for c in batch[:3]) + 5
    results = run(driver(potential, limit), *map(Order, batch))
    assert potential.batches[:2] == [[1, 2, 3], [1, 2]]  # in the order they came
    alone = run(driver(Morse()), *map(Order, batch))
    for one, other in zip(alone, results, strict=True):
        assert one.converged
        assert one.crystal == other.crystal  # bit by bit: nothing is shared between crystals
        assert one.energy == other.energy


def test_a_crystal_larger_than_the_size_goes_alone():
    potential = Morse()
    run(driver(potential, pairs_of(copper(1)) * 2), *map(Order, [copper(1), copper(4), copper(1)]))
    assert potential.batches[:2] == [[1], [4]]


def test_memory_runs_out_then_the_size_recovers():
    """Too large at first: halved until it fits; then towards the target, never to what failed."""
    batch = [copper(2, seed=k) for k in range(12)]
    total = sum(map(pairs_of, batch))
    potential = Morse(memory=total / 2.5)
    working = driver(potential, 10 * total, used=potential.used)
    for number, crystal in enumerate(batch):
        working.add(number, Order(crystal))
    first = working.step()
    assert len(potential.batches) == 4  # 12 and 6 did not fit, 3 did
    assert working.size.pairs < total / 2
    results = dict(first)
    while working.busy:
        results.update(working.step())
    assert all(isinstance(r, Relaxed) and r.converged for r in results.values())
    assert len(results) == 12
    sizes = [len(b) for b in potential.batches]
    assert sizes[0] == 3
    assert max(sizes) == 4 - 1  # 4 of 12 would take 0.83 of the memory, over the target
    assert working.size.pairs <= TARGET * potential.memory * 1.05


def test_the_size_grows_to_the_target():
    potential = Morse(memory=1e6)
    size = BatchSize(1000, potential.used)
    grown = []
    for _ in range(12):
        potential.peak = size.pairs
        size.succeeded(size.pairs)
        grown.append(size.pairs)
    assert grown[0] == 2000  # doubles at most
    assert grown[-1] == pytest.approx(TARGET * 1e6, rel=0.01)
    size.ran_out(size.pairs)
    assert size.pairs == pytest.approx(TARGET * 1e6 / 2, rel=0.01)
    for _ in range(5):
        potential.peak = size.pairs
        size.succeeded(size.pairs)
    assert size.pairs <= 0.8 * TARGET * 1e6  # what failed is not tried again


def test_a_small_evaluation_does_not_shrink_the_size():
    """The memory of a few pairs is mostly the potential's own."""
    size = BatchSize(10_000, lambda: 0.4)
    size.succeeded(100)
    assert size.pairs == 10_000


def test_capacity_follows_the_crystals_at_hand():
    working = driver(Morse(), 20 * pairs_of(copper(1)))
    assert working.capacity == 1  # nothing is known yet
    for number in range(3):
        working.add(number, Order(copper(2, seed=number)))
    assert 9 <= working.capacity <= 11
    tiny = driver(Morse(), 1)
    tiny.add(0, Order(copper(4)))
    assert tiny.capacity == 1


def test_crystals_that_come_later_join_the_next_evaluation():
    potential = Morse()
    working = driver(potential, 10**6)
    working.add(0, Order(copper(1)))
    working.add(1, Order(copper(4, amount=0.2)))
    results, added = {}, 2
    while working.busy:
        for number, result in working.step():
            results[number] = result
            if added < 6:
                working.add(added, Order(copper(2, seed=added)))
                added += 1
    assert sorted(results) == list(range(6))
    assert any(sorted(b) == [2, 4] for b in potential.batches)  # refilled beside one in progress


# --- two stages -----------------------------------------------------------------------------------


def stage(potential, model="cheap", **info):
    return Loaded(replace(Info(), model=model, **info), potential)


def two_stages(potential, first, pairs=1, **info):
    settings = MlipChoice(first=FirstStage(potential="chgnet"))
    return Driver(Loaded(replace(Info(), **info), potential), settings, BatchSize(pairs), first)


def test_the_second_stage_starts_where_the_first_ended():
    cheap, dear = Morse(length=2.75), Morse()
    (alone,) = run(driver(Morse()), Order(copper(4, a=4.2)))
    (result,) = run(two_stages(dear, stage(cheap)), Order(copper(4, a=4.2)))
    assert result.converged
    assert result.energy == pytest.approx(alone.energy, abs=1e-3 * 4)
    assert result.model == "morse"
    assert result.prepared.model == "cheap"
    assert result.prepared.steps + 1 == len(cheap.batches)
    assert result.steps + 1 == len(dear.batches) < alone.steps
    assert result.prepared.seconds > 0
    assert result.prepared.detail == ""


@pytest.mark.parametrize(
    ("cheap", "detail"),
    [
        (stage(Morse(poison=29)), "ValueError: poisoned"),
        (stage(Morse(memory=10)), "out of memory"),
        (stage(Morse(), elements=frozenset([1])), "an element that it does not know"),
        (stage(Morse(depth=300.0)), "eV/atom, outside"),
    ],
)
def test_a_first_stage_that_fails_costs_nothing_but_time(cheap, detail):
    (result,) = run(two_stages(Morse(), cheap), Order(copper(2)))
    (alone,) = run(driver(Morse()), Order(copper(2)))
    assert result.crystal == alone.crystal
    assert result.steps == alone.steps
    assert detail in result.prepared.detail


def test_a_first_stage_that_leads_astray_is_left_out():
    """Where it leads, the second potential finds no crystal: relaxed from the start after all."""
    cheap = stage(Morse(length=2.0, depth=3.0))  # squeezes copper to a third of its volume
    (result,) = run(two_stages(Morse(), cheap, energies=(-10.0, 10.0)), Order(copper(2)))
    (alone,) = run(driver(Morse()), Order(copper(2)))
    assert result.crystal == alone.crystal
    assert result.prepared.detail


def test_both_potentials_of_a_batch_are_asked_in_turn():
    """Crystals in different stages never share an evaluation."""
    cheap, dear = Morse(length=2.75), Morse()
    working = two_stages(dear, stage(cheap), 10**6)
    orders = [Order(copper(n, seed=n)) for n in (1, 2, 3)] + [Order(copper(2), "evaluate")]
    results = run(working, *orders)
    assert all(isinstance(r, Relaxed) and r.converged for r in results[:3])
    assert dear.batches[0] == [2]  # the single point is the second potential's alone
    assert cheap.batches[0] == [1, 2, 3]


# --- early stop -----------------------------------------------------------------------------------


def test_a_hopeless_crystal_is_given_up_and_others_are_not():
    crystal = copper(3, a=4.3, amount=0.3)
    (end,) = run(driver(Morse()), Order(crystal))
    ceilings = [end.energy + 0.5, end.energy - 1.0, None]
    fine, hopeless, free = run(driver(Morse()), *(Order(crystal, "relax", c) for c in ceilings))
    for same in (fine, free):
        assert (same.crystal, same.steps, same.stopped) == (end.crystal, end.steps, "")
    assert not hopeless.converged
    assert WINDOW + PATIENCE - 1 <= hopeless.steps < end.steps
    assert hopeless.energy >= end.energy
    assert "above the ceiling" in hopeless.stopped


def test_what_still_falls_is_not_given_up():
    """By what the model predicts, or by what it fell lately; nor before enough was seen."""
    falling = EarlyStop(ceiling=0.0, n_atoms=1)
    assert not any(falling.look(3 - 0.25 * k, 0.0) for k in range(12))
    promising = EarlyStop(ceiling=0.0, n_atoms=1)
    assert not any(promising.look(1.0, 0.4) for _ in range(50))
    resting = EarlyStop(ceiling=0.0, n_atoms=1)
    ends = [bool(resting.look(1.0, 0.1)) for _ in range(20)]
    assert ends.index(True) == WINDOW + PATIENCE - 1


def test_converged_is_converged_whatever_the_ceiling():
    (end,) = run(driver(Morse()), Order(copper(2)))
    (again,) = run(driver(Morse()), Order(end.crystal, "relax", end.energy - 100))
    assert again.converged
    assert again.stopped == ""


def test_guards_come_before_everything():
    overlapping = Crystal(np.eye(3) * 5, [[0, 0, 0], [0.06, 0, 0]], [29, 29])
    relaxed, evaluated, fine = run(
        driver(Morse(), 10**6), Order(overlapping), Order(overlapping, "evaluate"), Order(copper(2))
    )
    for failure in (relaxed, evaluated):
        assert isinstance(failure, Failure)
        assert failure.reason == Reason.DISTANCE
    assert fine.converged
    with pytest.raises(Unphysical):
        next(driver(Morse())._search(Order(overlapping)))
