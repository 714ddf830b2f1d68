"""The convex hull of formation energies, as one small linear programme per query.

The lowest energy of a composition x (atomic fractions) among mixtures of known phases is
    min  sum_j w_j e_j   subject to  sum_j w_j a_ij = x_i,  w_j >= 0
with the atomic fractions a_ij of phase j, its formation energy e_j (eV/atom), and its share of the atoms
w_j. The elements in their reference states are phases with e = 0, so every composition can be made.
The signed distance to the hull is the decomposition energy of Bartel et al., npj Comput. Mater. 6, 97
(2020), doi:10.1038/s41524-020-00362-y.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.elements import SYMBOLS
from ..core.errors import InputError
from .phases import Composition, System, system_of, within

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..core.protocols import Phase

ELEMENT_ID = "element"
"""Id of an elemental reference state (0 eV/atom by definition) that the reference has no entry for."""

_TOLERANCE = 1e-10
_CACHED_SYSTEMS = 4096


class HullDistance(NamedTuple):
    """A composition and energy against the hull of the known phases.

    decomposition_energy: eV/atom above (positive) or below (negative) that hull.
    decomposition: (formula, material id, fraction of atoms) of the phases it falls into, largest first.
    """

    decomposition_energy: float
    decomposition: tuple[tuple[str, str, float], ...]

    @property
    def energy_above_hull(self) -> float:
        """eV/atom above the hull of the known phases and the crystal itself; never negative."""
        return max(0.0, self.decomposition_energy)


class Hull:
    """The lower convex hull of phases by formation energy.

    Phases without an energy are left out. Order and repetition of the phases do not matter. Elements
    need no entry. Safe to query from several threads.

    Args:
        phases: known phases, of any number of chemical systems.

    Raises:
        InputError: a formation energy is NaN or infinite; names the phase.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        best: dict[Composition, Phase] = {}
        for phase in phases:
            energy = phase.formation_energy_per_atom
            if energy is None:
                continue
            if not math.isfinite(energy):
                raise InputError(
                    f"phase {phase.material_id}: formation energy is {energy}, expected eV/atom or none"
                )
            if len(phase.composition) > 1 and energy >= 0:
                continue  # never below the elements
            known = best.get(phase.composition)
            if known is None or _rank(phase) < _rank(known):
                best[phase.composition] = phase
        self._by_system: dict[System, list[Phase]] = {}
        for composition in sorted(best):
            self._by_system.setdefault(system_of(composition), []).append(best[composition])
        self._system = lru_cache(maxsize=_CACHED_SYSTEMS)(self._gather)

    def query(self, composition: Composition, formation_energy_per_atom: float) -> HullDistance:
        """Distance of a crystal to the hull of the known phases.

        Args:
            composition: ((atomic number, count), ...) with positive counts; need not be reduced.
            formation_energy_per_atom: eV/atom, in the scheme of the phases.

        Raises:
            InputError: no atoms, a count that is not positive, or an energy that is not finite.
        """
        if not math.isfinite(formation_energy_per_atom):
            raise InputError(f"formation energy is {formation_energy_per_atom}, expected eV/atom")
        energy, decomposition = self.ground_state(composition)
        return HullDistance(formation_energy_per_atom - energy, decomposition)

    def ground_state(self, composition: Composition) -> tuple[float, tuple[tuple[str, str, float], ...]]:
        """Hull energy (eV/atom, <= 0) at a composition, and the phases that make it.

        Raises:
            InputError: no atoms, or a count that is not positive.
        """
        if not composition or any(n <= 0 or not 1 <= z <= 118 for z, n in composition):
            raise InputError(
                f"composition is {composition!r}, expected ((atomic number, count > 0), ...)"
            )
        counts: dict[int, int] = {}
        for z, n in composition:
            counts[z] = counts.get(z, 0) + n
        elements = tuple(sorted(counts))
        amounts = np.array([counts[z] for z in elements], dtype=np.float64)
        fractions = amounts / amounts.sum()
        phases, matrix, energies = self._system(elements)
        basis, weights = _minimise(matrix, energies, fractions)
        parts = sorted(
            (
                (*_label(phases[j]), float(w))
                for j, w in zip(basis, weights, strict=True)
                if w > _TOLERANCE
            ),
            key=lambda part: (-round(part[2], 9), part[0]),
        )
        return float(weights @ energies[basis]), tuple(parts)

    def _gather(
        self, elements: tuple[int, ...]
    ) -> tuple[list[Phase | int], NDArray[np.float64], NDArray[np.float64]]:
        """What can compete in a system, its fractions (k, m) and energies (m,); the k elements first."""
        elemental = [self._element(z) for z in elements]
        compounds = list(self._compounds(elements))
        matrix = np.zeros((len(elements), len(elements) + len(compounds)))
        np.fill_diagonal(matrix, 1.0)
        row = {z: i for i, z in enumerate(elements)}
        for j, phase in enumerate(compounds, start=len(elements)):
            total = sum(n for _, n in phase.composition)
            for z, n in phase.composition:
                matrix[row[z], j] = n / total
        phases = [*elemental, *compounds]
        energies = [0.0 if isinstance(p, int) else p.formation_energy_per_atom for p in phases]
        return phases, matrix, np.array(energies, dtype=np.float64)

    def _element(self, z: int) -> Phase | int:
        """The entry of an element, if it is its reference state; a polymorph above 0 is not."""
        for phase in self._by_system.get(frozenset((z,)), ()):
            if (phase.formation_energy_per_atom or 0.0) <= _TOLERANCE:
                return phase
        return z

    def _compounds(self, elements: Sequence[int]) -> Iterator[Phase]:
        """Phases of two or more elements, all of them among `elements`."""
        for system in within(frozenset(elements), self._by_system):
            if len(system) > 1:
                yield from self._by_system[system]


def _rank(phase: Phase) -> tuple[float, str]:
    return (phase.formation_energy_per_atom or 0.0, phase.material_id)


def _label(phase: Phase | int) -> tuple[str, str]:
    if isinstance(phase, int):
        return _formula(((phase, 1),)), ELEMENT_ID
    return _formula(phase.composition), phase.material_id


@lru_cache(maxsize=100_000)
def _formula(composition: Composition) -> str:
    from pymatgen.core import Composition as Formula

    return Formula({SYMBOLS[z]: n for z, n in composition}).reduced_formula


def _minimise(
    matrix: NDArray[np.float64], energies: NDArray[np.float64], fractions: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Basis (columns) and weights of the optimum.

    Primal simplex from the basis of pure elements (the first columns, a unit matrix): always feasible,
    so no phase 1. Accepted only with its certificate: weights >= 0 and no column with a negative reduced
    cost, both recomputed from the final basis. Else (cycling, a basis gone singular) HiGHS decides.
    """
    size = len(fractions)
    basis = np.arange(size)
    inverse = np.eye(size)
    weights = fractions.copy()
    for _ in range(50 * size):
        reduced = energies - (energies[basis] @ inverse) @ matrix
        entering = int(reduced.argmin())
        if reduced[entering] > -_TOLERANCE:
            return _certified(matrix, energies, fractions, basis)
        direction = inverse @ matrix[:, entering]
        rows = np.flatnonzero(direction > _TOLERANCE)
        ratios = weights[rows] / direction[rows]
        leaving = int(rows[ratios.argmin()])
        pivot = inverse[leaving] / direction[leaving]
        inverse -= np.outer(direction, pivot)
        inverse[leaving] = pivot
        basis[leaving] = entering
        weights = inverse @ fractions
    return _highs(matrix, energies, fractions)


def _certified(
    matrix: NDArray[np.float64],
    energies: NDArray[np.float64],
    fractions: NDArray[np.float64],
    basis: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The basis with its weights if both certificates hold, else what HiGHS finds."""
    columns = matrix[:, basis]
    try:
        weights = np.linalg.solve(columns, fractions)
        potentials = np.linalg.solve(columns.T, energies[basis])
    except np.linalg.LinAlgError:
        return _highs(matrix, energies, fractions)
    optimal = (energies - potentials @ matrix).min() > -1e-8 and weights.min() > -1e-8
    return (basis, np.maximum(weights, 0.0)) if optimal else _highs(matrix, energies, fractions)


def _highs(
    matrix: NDArray[np.float64], energies: NDArray[np.float64], fractions: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    from scipy.optimize import linprog

    result = linprog(energies, A_eq=matrix, b_eq=fractions, method="highs")
    if result.x is None:  # cannot be infeasible or unbounded; say so rather than return a wrong hull
        raise ArithmeticError(f"the hull's linear programme failed: {result.message}")
    basis = np.flatnonzero(result.x > _TOLERANCE)
    return basis, result.x[basis]
