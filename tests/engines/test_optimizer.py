"""The optimiser on a potential that is known exactly, so without torch: Lennard-Jones."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.engines.neighbors import find_neighbors
from heliodor.engines.optimizer import minimize
from heliodor.engines.potentials import Evaluation

WELL, SIGMA, CUTOFF = 0.5, 2.5, 12.0  # eV, angstrom, angstrom


def lennard_jones(crystal):
    near = find_neighbors(crystal, CUTOFF)
    vectors = near.vectors(crystal)
    sixth = (SIGMA / near.distances) ** 6
    slope = -24 * WELL * (2 * sixth**2 - sixth) / near.distances**2  # (dE/dr) / r of a pair
    pull = slope[:, None] * vectors
    forces = np.zeros((len(crystal), 3))
    np.add.at(forces, near.first, pull)
    stress = 0.5 * np.einsum("bi,bj->ij", vectors, pull) / crystal.volume
    return Evaluation(float(2 * WELL * (sixth**2 - sixth).sum()), forces, stress)


def run(crystal, fmax=1e-3, smax=1e-5, max_steps=200):
    search = minimize(crystal, fmax, smax, max_steps)
    geometry, evaluations = next(search), 0
    while True:
        evaluations += 1
        try:
            geometry = search.send(lennard_jones(geometry))
        except StopIteration as done:
            return done.value, evaluations


def argon(seed=0, amount=0.15, strain=0.04, cubic=True):
    rng = np.random.default_rng(seed)
    atoms = bulk("Ar", "fcc", a=1.6 * SIGMA, cubic=cubic)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, amount, atoms.positions.shape)
    return from_atoms(atoms)


def test_finds_the_face_centred_lattice():
    """E = -8.610 eps and nearest neighbours at 1.0902 sigma (Kittel, Introduction to Solid State
    Physics, chapter 3).
    """
    minimum, evaluations = run(argon())
    assert minimum.converged
    tail = -8 / 3 * np.pi * 4 / minimum.state.crystal.volume * SIGMA**6 / CUTOFF**3  # beyond the cutoff
    assert minimum.state.energy / 4 + tail * WELL == pytest.approx(-8.610 * WELL, rel=1e-3)
    assert (minimum.state.crystal.volume * np.sqrt(2) / 4) ** (1 / 3) == pytest.approx(
        1.0902 * SIGMA, rel=2e-3
    )
    assert minimum.steps == evaluations - 1 <= 40


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_thresholds_hold_at_the_geometry_that_is_returned(seed):
    start = argon(seed, amount=0.1)
    minimum, _ = run(start, fmax=0.01, smax=1e-3)
    again = lennard_jones(minimum.state.crystal)
    assert minimum.converged
    assert again.energy == pytest.approx(minimum.state.energy, abs=1e-9)
    assert np.linalg.norm(again.forces, axis=1).max() <= 0.01 + 1e-9
    assert np.abs(again.stress).max() <= 1e-3 + 1e-9
    assert minimum.state.energy <= lennard_jones(start).energy
    assert np.array_equal(minimum.state.crystal.atomic_numbers, start.atomic_numbers)


def test_out_of_steps_is_not_converged_and_keeps_the_lowest():
    start = argon()
    minimum, evaluations = run(start, max_steps=4)
    assert not minimum.converged
    assert (minimum.steps, evaluations) == (4, 5)
    assert minimum.state.energy < lennard_jones(start).energy


def test_no_steps_judges_the_crystal_as_it_is():
    start = argon()
    minimum, evaluations = run(start, max_steps=0)
    assert (minimum.steps, evaluations, minimum.converged) == (0, 1, False)
    assert minimum.state.crystal == start
    relaxed = run(start)[0].state.crystal
    assert run(relaxed, max_steps=0)[0].converged


def test_rotating_the_crystal_rotates_the_answer():
    start = argon(seed=3)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turned = Crystal(start.lattice @ rotation, start.frac_coords, start.atomic_numbers)
    first, second = run(start)[0], run(turned)[0]
    assert first.state.energy == pytest.approx(second.state.energy, abs=1e-6)
    assert np.allclose(first.state.crystal.lattice @ rotation, second.state.crystal.lattice, atol=1e-3)


def test_symmetry_is_kept():
    """A body-centred crystal stays one, though the face-centred one is lower."""
    start = from_atoms(bulk("Ar", "bcc", a=1.3 * SIGMA, cubic=True))
    lattice = run(start)[0].state.crystal.lattice
    assert np.allclose(lattice, lattice[0, 0] * np.eye(3), atol=1e-6)
