"""Energies, forces and stresses of both potentials: derivatives, units, invariance."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.convert import from_atoms, to_atoms
from heliodor.core.crystal import Crystal
from heliodor.engines.neighbors import find_neighbors
from heliodor.engines.potentials import KNOWN, load

pytest.importorskip("torch")


@pytest.fixture(
    scope="module",
    params=[
        "chgnet",
        "sevennet",
        pytest.param("sevennet-mf-pbe", marks=pytest.mark.slow),
        pytest.param("sevennet-mf-r2scan", marks=pytest.mark.slow),
    ],
)
def potential(request):
    pytest.importorskip(KNOWN[request.param].package)
    loaded = load(request.param, "cpu", MlipChoice()).potential
    loaded.name = request.param
    return loaded


def rattled(name="NaCl", structure="rocksalt", a=5.5, amount=0.12, seed=0, **kwargs):
    atoms = bulk(name, structure, a=a, **kwargs)
    strain = np.array([[1.02, 0.01, 0], [0.01, 0.97, 0], [0, 0, 1.01]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, amount, atoms.positions.shape)
    return from_atoms(atoms)


def evaluate(potential, *crystals):
    return potential.evaluate([(c, find_neighbors(c, potential.cutoff)) for c in crystals])


def energy(potential, lattice, cart, numbers):
    crystal = Crystal(lattice, cart @ np.linalg.inv(lattice), numbers)
    return evaluate(potential, crystal)[0].energy


@pytest.mark.parametrize("name", ["NaCl", "MgO"])
def test_forces_are_minus_the_gradient(potential, name):
    crystal = rattled(name, a={"NaCl": 5.5, "MgO": 4.2}[name])
    cart = crystal.frac_coords @ crystal.lattice
    forces = evaluate(potential, crystal)[0].forces
    for atom, axis in [(0, 0), (0, 2), (1, 1)]:
        shift = np.zeros_like(cart)
        shift[atom, axis] = 0.01
        up, down = (
            energy(potential, crystal.lattice, cart + s * shift, crystal.atomic_numbers) for s in (1, -1)
        )
        assert forces[atom, axis] == pytest.approx(-(up - down) / 0.02, abs=5e-3, rel=1e-2)
    assert np.abs(forces).max() > 0.05  # the test sees something
    assert np.abs(forces.sum(axis=0)).max() < 1e-4  # no net force


def test_stress_is_the_strain_derivative_per_volume(potential):
    crystal = rattled()
    stress = evaluate(potential, crystal)[0].stress
    cart = crystal.frac_coords @ crystal.lattice
    assert np.allclose(stress, stress.T)
    for i, j in [(0, 0), (1, 1), (0, 1), (1, 2)]:
        strain = np.zeros((3, 3))
        strain[i, j] = strain[j, i] = 0.004 if i == j else 0.002
        up, down = (
            energy(
                potential,
                crystal.lattice @ (np.eye(3) + s * strain),
                cart @ (np.eye(3) + s * strain),
                crystal.atomic_numbers,
            )
            for s in (1, -1)
        )
        assert stress[i, j] == pytest.approx((up - down) / (0.008 * crystal.volume), abs=2e-4, rel=2e-2)
    assert np.abs(stress).max() > 1e-3


def test_stress_is_negative_under_compression(potential):
    small, large = (from_atoms(bulk("Cu", "fcc", a=a)) for a in (3.4, 3.9))
    squeezed, stretched = evaluate(potential, small, large)
    assert np.trace(squeezed.stress) < -0.05 < 0.05 < np.trace(stretched.stress)


@pytest.mark.slow
def test_agrees_with_the_package_s_own_calculator(potential):
    if potential.name == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    else:
        from sevenn.calculator import SevenNetCalculator

        channel = KNOWN[potential.name].channel
        options = {"modal": channel} if channel else {}
        name = "7net-mf-0" if channel else "7net-0"
        calculator = SevenNetCalculator(name, device="cpu", **options)
    crystal = rattled()
    found = evaluate(potential, crystal)[0]
    atoms = to_atoms(crystal)
    atoms.calc = calculator
    assert found.energy == pytest.approx(float(atoms.get_potential_energy()), abs=1e-5)
    assert np.allclose(found.forces, atoms.get_forces(), atol=2e-5)
    assert np.allclose(found.stress, atoms.get_stress(voigt=False), atol=2e-6)


def test_a_batch_gives_what_each_gives_alone(potential):
    crystals = [rattled(seed=k) for k in range(4)] + [
        rattled("MgO", a=4.2, cubic=True),
        rattled("Si", "diamond", a=5.5),
        rattled("Cu", "fcc", a=3.6),
        rattled("ZnS", "zincblende", a=5.4),
    ]
    for crystal, together in zip(crystals, evaluate(potential, *crystals), strict=True):
        alone = evaluate(potential, crystal)[0]
        assert together.energy == pytest.approx(alone.energy, abs=1e-6 * len(crystal))
        assert np.allclose(together.forces, alone.forces, atol=1e-5)
        assert np.allclose(together.stress, alone.stress, atol=1e-6)


def test_invariance(potential):
    crystal = rattled()
    found = evaluate(potential, crystal)[0]
    angle = 0.7
    rotation = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    turned = Crystal(crystal.lattice @ rotation, crystal.frac_coords, crystal.atomic_numbers)
    moved = Crystal(crystal.lattice, crystal.frac_coords + 0.37, crystal.atomic_numbers)
    swapped = Crystal(crystal.lattice, crystal.frac_coords[::-1], crystal.atomic_numbers[::-1])
    doubled = from_atoms(to_atoms(crystal).repeat((2, 1, 1)))
    for other, factor in ((turned, 1), (moved, 1), (swapped, 1), (doubled, 2)):
        assert evaluate(potential, other)[0].energy == pytest.approx(factor * found.energy, abs=2e-5)
    assert np.allclose(evaluate(potential, turned)[0].forces, found.forces @ rotation, atol=1e-4)
    assert np.allclose(
        evaluate(potential, turned)[0].stress, rotation.T @ found.stress @ rotation, atol=1e-5
    )


def test_elements_are_those_that_were_trained():
    """SevenNet lists its elements, and CHGNet learned from the same set."""
    pytest.importorskip("sevenn")
    from sevenn.util import load_checkpoint

    elements = KNOWN["sevennet"].elements
    assert set(load_checkpoint("7net-0").config["_type_map"]) == elements
    assert KNOWN["chgnet"].elements == elements
    assert len(elements) == 89
    assert 84 not in elements


def test_importing_is_light():
    code = (
        "import sys, heliodor.engines.mlip; "
        "print([m for m in ('torch', 'pymatgen', 'ase', 'prefect', 'chgnet') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
