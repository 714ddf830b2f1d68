"""Many relaxations in one batch, with CHGNet: the answers of one by one, faults contained."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.records import Failure, Reason, Relaxed
from heliodor.engines.batching import BatchSize
from heliodor.engines.driver import Driver
from heliodor.engines.messages import Order
from heliodor.engines.potentials import KNOWN, Loaded, load

pytest.importorskip("chgnet")


@pytest.fixture(scope="module")
def chgnet():
    return load("chgnet", "cpu", MlipChoice()).potential


class Faulty:
    """A potential that fails as a machine would: out of memory, or on one crystal."""

    def __init__(self, potential, max_atoms=10**9, poison=0):
        self.potential, self.max_atoms, self.poison = potential, max_atoms, poison
        self.cutoff = potential.cutoff
        self.largest = 0

    def evaluate(self, batch):
        atoms = sum(len(crystal) for crystal, _ in batch)
        if atoms > self.max_atoms:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if any(self.poison in crystal.atomic_numbers for crystal, _ in batch):
            raise ValueError("poisoned")
        self.largest = max(self.largest, atoms)
        return self.potential.evaluate(batch)


def crystals():
    cells = [
        bulk("Si", "diamond", a=5.6),
        bulk("NaCl", "rocksalt", a=5.5),
        bulk("MgO", "rocksalt", a=4.3),
        bulk("Cu", "fcc", a=3.7, cubic=True),
        bulk("ZnS", "zincblende", a=5.3),
        bulk("Fe", "bcc", a=2.8),
        bulk("GaAs", "zincblende", a=5.6),
        bulk("LiF", "rocksalt", a=4.1),
    ]
    for seed, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=seed)
    return [from_atoms(atoms) for atoms in cells]


def relax(potential, batch, pairs=1, **settings):
    by = Loaded(KNOWN["chgnet"], potential)
    driver = Driver(by, MlipChoice(**settings), BatchSize(pairs))
    for number, crystal in enumerate(batch):
        driver.add(number, Order(crystal))
    results = {}
    while driver.busy:
        results.update(driver.step())
    return [results[number] for number in range(len(batch))]


def test_a_batch_relaxes_as_each_alone(chgnet):
    faulty = Faulty(chgnet)
    alone, together = relax(chgnet, crystals()), relax(faulty, crystals(), pairs=10**6)
    assert faulty.largest == sum(map(len, crystals()))  # they did share evaluations
    for crystal, one, other in zip(crystals(), alone, together, strict=True):
        assert one.key == other.key == crystal.digest
        assert one.converged
        assert other.converged
        assert other.energy == pytest.approx(one.energy, abs=1e-4 * len(crystal))
        assert np.allclose(other.crystal.lattice, one.crystal.lattice, atol=5e-3)


def test_running_out_of_memory_makes_the_batch_smaller(chgnet):
    faulty = Faulty(chgnet, max_atoms=6)
    results = relax(faulty, crystals(), pairs=10**6)
    assert all(isinstance(result, Relaxed) and result.converged for result in results)
    assert 4 <= faulty.largest <= 6


def test_one_crystal_too_large_for_the_memory(chgnet):
    results = relax(Faulty(chgnet, max_atoms=3), crystals(), pairs=10**6)
    failed = {
        len(c): r.reason for c, r in zip(crystals(), results, strict=True) if isinstance(r, Failure)
    }
    assert failed == {4: Reason.MEMORY_LIMIT}


def test_an_error_stays_with_its_crystal(chgnet):
    results = relax(Faulty(chgnet, poison=14), crystals(), pairs=10**6)
    assert results[0] == Failure(crystals()[0].digest, Reason.WORKER_DIED, "ValueError: poisoned")
    assert all(isinstance(result, Relaxed) for result in results[1:])


def test_bad_crystals_among_good_ones(chgnet):
    salt = crystals()[1]
    bad = {
        Reason.DISTANCE: Crystal(np.eye(3) * 5, [[0, 0, 0], [0.06, 0, 0]], [11, 17]),
        Reason.EXPLODED: Crystal(salt.lattice * 4.64, salt.frac_coords, salt.atomic_numbers),
        Reason.VOLUME: Crystal(salt.lattice * 0.2, salt.frac_coords, salt.atomic_numbers),
    }
    results = relax(chgnet, [*bad.values(), salt], pairs=10**6)
    assert [result.reason for result in results[:3]] == list(bad)
    assert results[3].converged


def test_time_limit_counts_the_crystal_s_own_share(chgnet):
    results = relax(chgnet, crystals(), pairs=10**6, time_limit=1e-3)
    assert {result.reason for result in results} == {Reason.TIME_LIMIT}


def test_not_converged_is_said(chgnet):
    for result in relax(chgnet, crystals()[:3], max_steps=1):
        assert (result.converged, result.steps) == (False, 1)
        assert result.max_force > 0.05 or result.max_stress > 0.003
