"""Elastic constants of finalists by finite strains: does the crystal withstand every small deformation?

Six strains of either sign give the stiffness with the ions clamped. What the ions give way is added from
the same kind of single points: with the forces per strain L (N x 6, N = 3 per atom) and the force
constants at Gamma K (N x N), both by central differences,

    C = C_clamped - L^T K^+ L / V

(X. Wu, D. Vanderbilt, D. Hamann, Phys. Rev. B 72, 035105 (2005), doi:10.1103/PhysRevB.72.035105). So
nothing is relaxed at fixed strain, and all single points of all crystals are one batch.

Born's criteria, in any Laue class: C is positive definite (F. Mouhat, F.-X. Coudert, Phys. Rev. B 90,
224104 (2014), doi:10.1103/PhysRevB.90.224104). The eigenvalues given are those in Kelvin's notation,
which do not depend on the axes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Column, Value
from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.records import Evaluated, Failure, Judged, Reason
from .finalists import Finalists
from .symmetry import SYMPREC

Floats = NDArray[np.float64]

log = logging.getLogger("heliodor.engines")

STRAIN = 0.005
DISPLACEMENT = 0.01  # angstrom
GPA = 160.21766208  # per eV/angstrom^3
SOFT = 0.05  # eV/angstrom^2: force constants below are noise, or the ions are not at a minimum
BORN = 1.0  # GPa: smaller eigenvalues are within the error of the strains

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_SOURCE = "finite strains of 0.5 %, ions relaxed in the harmonic limit, the campaign's potential"
_LIMITS = (
    "at 0 K; null where the crystal is no finalist (review.within) or it could not be computed: see "
    "elastic_detail. Universal potentials err by 10 to 30 %, mostly too soft"
)


@dataclass(frozen=True, eq=False)
class Elasticity:
    """The stiffness of a crystal.

    Args:
        stiffness: (6, 6) in GPa, Voigt order, axes of the standard cell; symmetric in the Laue class.
        clamped: the same with the ions held where the strain carries them.
    """

    stiffness: Floats
    clamped: Floats

    @property
    def min_eigenvalue(self) -> float:
        """Smallest eigenvalue in GPa, Kelvin notation."""
        weights = np.array([1.0, 1.0, 1.0, *[np.sqrt(2.0)] * 3])
        return float(np.linalg.eigvalsh(self.stiffness * np.outer(weights, weights)).min())

    @property
    def moduli(self) -> tuple[float, float]:
        """Bulk and shear modulus in GPa, the mean of Voigt's and Reuss's."""
        from pymatgen.analysis.elasticity import ElasticTensor

        tensor = ElasticTensor.from_voigt(self.stiffness)
        return float(tensor.k_vrh), float(tensor.g_vrh)


class ElasticScorer:
    """Elastic stability of finalists.

    Args:
        finalists: which crystals, and their minima; their potential gives forces and stresses.
    """

    name = "elastic"
    columns = (
        Column("bulk_modulus", "float64", "Voigt-Reuss-Hill", "GPa", _SOURCE, _LIMITS),
        Column("shear_modulus", "float64", "Voigt-Reuss-Hill", "GPa", _SOURCE, _LIMITS),
        Column(
            "elastic_min_eigenvalue",
            "float64",
            "smallest eigenvalue of the stiffness",
            "GPa",
            _SOURCE,
            _LIMITS,
        ),
        Column(
            "elastically_stable",
            "boolean",
            "Born's criteria: the smallest eigenvalue is above 1 GPa",
            "",
            _SOURCE,
            _LIMITS,
        ),
        Column("elastic_detail", "string", "why there are no elastic constants", "", _SOURCE),
    )

    def __init__(self, finalists: Finalists) -> None:
        self._finalists = finalists

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [_row(found) for found in self.elasticities(batch)]

    def elasticities(self, batch: Sequence[Judged]) -> list[Elasticity | Failure]:
        """The stiffness of each crystal."""
        minima = self._finalists.minima(batch)
        plans = {c.digest: Plan(c) for c in minima if isinstance(c, Crystal)}
        cells = {cell.digest: cell for plan in plans.values() for cell in plan.cells}
        found = {r.key: r for r in self._finalists.potential.evaluate(list(cells.values()))}
        done = {key: plan.elasticity(found) for key, plan in plans.items()}
        return [m if isinstance(m, Failure) else done[m.digest] for m in minima]


def _row(found: Elasticity | Failure) -> Mapping[str, Value]:
    if isinstance(found, Failure):
        return {"elastic_detail": f"not computed: {found.detail or found.reason}"}
    lowest = found.min_eigenvalue
    stable = lowest > BORN
    bulk, shear = found.moduli if stable else (None, None)  # averages of what is unstable mean nothing
    return {
        "bulk_modulus": bulk,
        "shear_modulus": shear,
        "elastic_min_eigenvalue": lowest,
        "elastically_stable": stable,
    }


class Plan:
    """The single points that the stiffness of a crystal takes.

    Args:
        crystal: at its minimum, in its symmetry.
    """

    def __init__(self, crystal: Crystal) -> None:
        self.crystal = crystal
        self._strained = [
            (strained(crystal, voigt, STRAIN), strained(crystal, voigt, -STRAIN)) for voigt in range(6)
        ]
        # A lone atom of the primitive cell cannot move against another.
        moves = 3 * len(crystal) if len(crystal) > 1 else 0
        self._moved = [
            (moved(crystal, i, DISPLACEMENT), moved(crystal, i, -DISPLACEMENT)) for i in range(moves)
        ]

    @property
    def cells(self) -> list[Crystal]:
        """What is to be evaluated."""
        return [cell for pair in (*self._strained, *self._moved) for cell in pair]

    def elasticity(self, found: Mapping[str, Evaluated | Failure]) -> Elasticity | Failure:
        """The stiffness from the single points (by key)."""
        for cell in self.cells:
            result = found[cell.digest]
            if isinstance(result, Failure):
                return result

        def of(cell: Crystal) -> Evaluated:
            result = found[cell.digest]
            assert isinstance(result, Evaluated)
            return result

        clamped = np.zeros((6, 6))
        by_strain = np.zeros((3 * len(self.crystal), 6))
        for i, (plus, minus) in enumerate(self._strained):
            change = (of(plus).stress - of(minus).stress) / (2 * STRAIN)
            clamped[:, i] = [change[a, b] for a, b in _VOIGT]
            by_strain[:, i] = (of(plus).forces - of(minus).forces).ravel() / (2 * STRAIN)
        stiffness = clamped
        if self._moved:
            springs = np.stack(
                [-(of(p).forces - of(m).forces).ravel() / (2 * DISPLACEMENT) for p, m in self._moved]
            )
            given = _given_way(springs, by_strain)
            if isinstance(given, Failure):
                return given
            stiffness = clamped - given / self.crystal.volume
        return Elasticity(self._in_symmetry(stiffness), self._in_symmetry(clamped))

    def _in_symmetry(self, stiffness: Floats) -> Floats:
        """In GPa, averaged over the crystal's point group."""
        from pymatgen.analysis.elasticity import ElasticTensor

        tensor: Any = ElasticTensor.from_voigt(GPA * (stiffness + stiffness.T) / 2)
        fitted = tensor.fit_to_structure(to_structure(self.crystal), symprec=SYMPREC)
        return np.asarray(fitted.voigt, dtype=np.float64)


def _given_way(springs: Floats, by_strain: Floats) -> Floats | Failure:
    """(6, 6) in eV: L^T K^+ L over all but the three translations."""
    n = len(springs) // 3
    springs = (springs + springs.T) / 2
    drift = np.tile(np.eye(3), (n, 1)) / np.sqrt(n)
    still = np.eye(3 * n) - drift @ drift.T
    values, vectors = np.linalg.eigh(still @ springs @ still)
    inner = np.argsort(np.linalg.norm(drift.T @ vectors, axis=0))[: 3 * n - 3]
    if values[inner].min() < SOFT:
        return Failure(
            "",
            Reason.CHECK_FAILED,
            f"the ions are not at a minimum: lowest force constant at Gamma {values[inner].min():.3f} "
            "eV/angstrom^2",
        )
    along = vectors[:, inner].T @ by_strain
    given: Floats = along.T @ (along / values[inner][:, None])
    return given


def strained(crystal: Crystal, voigt: int, size: float) -> Crystal:
    """The crystal under one of the six strains, in Voigt order; shears are engineering strains."""
    strain = np.zeros((3, 3))
    a, b = _VOIGT[voigt]
    strain[a, b] += size / 2
    strain[b, a] += size / 2
    return Crystal(crystal.lattice @ (np.eye(3) + strain), crystal.frac_coords, crystal.atomic_numbers)


def moved(crystal: Crystal, coordinate: int, size: float) -> Crystal:
    """The crystal with one Cartesian coordinate of one atom changed, angstrom."""
    shift = np.zeros((len(crystal), 3))
    shift[coordinate // 3, coordinate % 3] = size
    moved_to = crystal.frac_coords + shift @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, moved_to, crystal.atomic_numbers)
