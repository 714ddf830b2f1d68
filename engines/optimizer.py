"""Relaxation of one crystal, atoms and cell together: a trust-region quasi-Newton method.

Variables at each step are displacements of the atoms u (n, 3) in angstrom and a symmetric strain e
(3, 3) of the present cell: positions r -> (r + u) exp(e), lattice L -> L exp(e). The gradient in them is
(-forces, V stress). Working in the frame of the present cell and carrying the Hessian along unchanged is
BFGS on the group of affine deformations; a symmetric strain leaves out rotations of the cell.

The Hessian starts diagonal, from a stiffness of the atoms and an elastic modulus of the cell, which
weighs displacements against strains as real crystals do. It is updated by damped BFGS (Nocedal and
Wright, Numerical Optimization, procedure 18.2). Steps that raise the energy are taken back and the
trust radius shrinks. (Springs between neighbours as the start, after Lindh et al., Chem. Phys. Lett.
241, 423 (1995), were tried: 2 % fewer evaluations, not worth their code.)

Written as a coroutine that yields geometries and is sent evaluations, so that one driver serves one
crystal on a CPU core or hundreds in one batch on a GPU.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .early_stop import Watch
from .potentials import Evaluation

Array = NDArray[np.float64]

# Chosen on 64 strained and rattled crystals of the Materials Project; the count is flat around them.
_STIFFNESS = 6.0  # eV/angstrom^2, of an atom against its neighbours
_ELASTIC = 0.7  # eV/angstrom^3 (110 GPa), of the cell
_START_RADIUS = 0.2  # angstrom: longest displacement of an atom in one step
_MAX_RADIUS = 0.3
_STRAIN_LENGTH = 4.0  # angstrom: a strain e counts as a displacement of this length times e
_NOISE = 2e-6  # eV/atom below which energies in single precision cannot be told apart


@dataclass(frozen=True)
class State:
    """A geometry with what the potential says about it."""

    crystal: Crystal
    energy: float
    forces: Array
    stress: Array

    @property
    def max_force(self) -> float:
        """Largest force on an atom, eV/angstrom."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    @property
    def max_stress(self) -> float:
        """Largest absolute stress component, eV/angstrom^3."""
        return float(np.abs(self.stress).max())


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended. `steps` counts evaluations after the first.

    `stopped` says why a watch ended it; empty: none did.
    """

    state: State
    steps: int
    converged: bool
    stopped: str = ""


Minimization = Generator[Crystal, Evaluation, Minimum]


def minimize(
    crystal: Crystal, fmax: float, smax: float, max_steps: int, watch: Watch | None = None
) -> Minimization:
    """Coroutine: yields crystals, is sent their evaluations, returns the minimum.

    Ends when both thresholds hold (eV/angstrom; eV/angstrom^3) at the last geometry, or after
    `max_steps` or when `watch` says so, with the lowest geometry found.
    """
    state = yield from _evaluate(crystal)
    hessian = _first_hessian(state)
    radius = _START_RADIUS
    for step in range(max_steps + 1):
        if state.max_force <= fmax and state.max_stress <= smax:
            return Minimum(state, step, converged=True)
        if step == max_steps:
            break
        gradient = _gradient(state)
        newton = np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
        stopped = watch.look(state.energy, -0.5 * float(gradient @ newton)) if watch else ""
        if stopped:
            return Minimum(state, step, converged=False, stopped=stopped)
        move = _shortened(newton, radius)
        trial = yield from _evaluate(_displaced(state.crystal, move))
        predicted = float(gradient @ move + 0.5 * move @ hessian @ move)
        change = trial.energy - state.energy
        hessian = _bfgs(hessian, move, _gradient(trial) - gradient)
        noise = _NOISE * len(crystal)
        if change > noise:
            radius = 0.4 * min(radius, _length(move))
            if radius < 1e-4:
                hessian, radius = _first_hessian(state), 0.25 * _START_RADIUS
            continue
        state = trial
        if change < 0.75 * predicted and _length(move) > 0.8 * radius:
            radius = min(1.5 * radius, _MAX_RADIUS)
        elif change > 0.1 * predicted + noise:
            radius = max(0.5 * radius, 1e-3)
    return Minimum(state, max_steps, converged=False)


def _evaluate(crystal: Crystal) -> Generator[Crystal, Evaluation, State]:
    found = yield crystal
    return State(crystal, found.energy, found.forces, found.stress)


# --- vectors: 3n displacements, then the strain as xx yy zz and sqrt(2) times yz xz xy ---------------

_ROW = np.array([0, 1, 2, 1, 0, 0])
_COLUMN = np.array([0, 1, 2, 2, 2, 1])
_WEIGHT = np.array([1, 1, 1, np.sqrt(2), np.sqrt(2), np.sqrt(2)])


def _gradient(state: State) -> Array:
    virial = state.crystal.volume * state.stress
    return np.concatenate([-state.forces.ravel(), virial[_ROW, _COLUMN] * _WEIGHT])


def _strain(move: Array) -> Array:
    strain = np.zeros((3, 3))
    strain[_ROW, _COLUMN] = strain[_COLUMN, _ROW] = move[-6:] / _WEIGHT
    return strain


def _displaced(crystal: Crystal, move: Array) -> Crystal:
    values, vectors = np.linalg.eigh(_strain(move))
    deformation = (vectors * np.exp(values)) @ vectors.T
    cart = crystal.frac_coords @ crystal.lattice + move[:-6].reshape(-1, 3)
    # Fractional coordinates do not see the deformation, which moves atoms and lattice alike.
    return Crystal(
        crystal.lattice @ deformation, cart @ np.linalg.inv(crystal.lattice), crystal.atomic_numbers
    )


def _length(move: Array) -> float:
    """Size of a step in angstrom: the longest displacement, or the strain's."""
    longest = np.linalg.norm(move[:-6].reshape(-1, 3), axis=1).max()
    return float(max(longest, _STRAIN_LENGTH * np.abs(np.linalg.eigvalsh(_strain(move))).max()))


# --- the model of the energy surface ----------------------------------------------------------------


def _first_hessian(state: State) -> Array:
    """Diagonal: springs that hold each atom, and a bulk modulus times the volume."""
    strain = _ELASTIC * state.crystal.volume
    return np.diag(np.concatenate([np.full(state.forces.size, _STIFFNESS), np.full(6, strain)]))


def _bfgs(hessian: Array, move: Array, change: Array) -> Array:
    """Damped update, which keeps the Hessian positive definite."""
    expected = hessian @ move
    curvature = float(move @ expected)
    measured = float(move @ change)
    if measured < 0.2 * curvature:
        theta = 0.8 * curvature / (curvature - measured)
        change = theta * change + (1 - theta) * expected
        measured = float(move @ change)
    return np.asarray(
        hessian + np.outer(change, change) / measured - np.outer(expected, expected) / curvature
    )


def _shortened(move: Array, radius: float) -> Array:
    """The quasi-Newton step, made to fit in the trust radius."""
    length = _length(move)
    return move if length <= radius else move * (radius / length)
