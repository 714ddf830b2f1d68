"""Phonons of finalists by finite displacements: is the crystal at a minimum, or at a saddle point?

phonopy (A. Togo et al., J. Phys.: Condens. Matter 35, 353001 (2023), doi:10.1088/1361-648X/acd831) makes
the displaced supercells and the dynamical matrix; the forces are the potential's. The forces on the
undisplaced supercell are taken off, and the acoustic sum rule is imposed on the force constants.

The supercell: along each cell vector an even number of cells, so that the modes that double a cell are
computed and not interpolated, and as many as put opposite faces `SPACING` apart; a vector that is
`2 * SPACING` long already stays. Of the primitive and the conventional cell, the one that needs fewer
atoms.

The modes are those at all wave vectors that fit into the supercell, where the force constants are exact,
and those between them on a mesh, where they are interpolated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Column, Value
from ..core.crystal import Crystal
from ..core.errors import missing_extra
from ..core.records import Evaluated, Failure, Judged, Reason
from .finalists import Finalists
from .symmetry import symmetrized

if TYPE_CHECKING:
    from phonopy import Phonopy

    Floats = NDArray[np.float64]

log = logging.getLogger("heliodor.engines")

SPACING = 7.5  # angstrom
DISPLACEMENT = 0.02  # angstrom
MESH = 40.0  # angstrom: n cells along a vector of length a with n * a about that
_SYMPREC = 1e-4  # angstrom; the cell is in its symmetry exactly
EXACT, INTERPOLATED = 0.1, 0.3  # THz
"""Modes below minus that are imaginary, at wave vectors that fit into the supercell and between them.
The potentials compute in single precision: noise of 1e-5 eV/angstrom in the forces is 5e-4 eV/angstrom^2
in force constants, or 0.1 THz for an atom of 10 u. Close to Gamma the interpolation bends acoustic
branches of stable crystals down as well: bcc titanium with SevenNet-0 to -0.10 THz, without an
imaginary exact mode."""

_SOURCE = "phonopy, finite displacements of 0.02 angstrom, the campaign's potential"
_LIMITS = (
    "harmonic, at 0 K, without the splitting of longitudinal modes by long-range fields; null where the "
    "crystal is no finalist (review.within) or it could not be computed: see phonon_detail. Universal "
    "potentials are too soft, CHGNet most (Deng et al., npj Comput. Mater. 11, 9 (2025))"
)


@dataclass(frozen=True)
class Phonons:
    """What the modes say.

    Args:
        min_frequency: THz; imaginary ones count as negative.
        imaginary: modes below -`EXACT` or -`INTERPOLATED`, symmetry-equivalent ones counted each.
        modes: of how many.
        worst: the wave vector of the lowest, in reciprocal vectors of the primitive cell.
        exact: it fits into the supercell. atoms: of the supercell. displacements: how many.
    """

    min_frequency: float
    imaginary: int
    modes: int
    worst: tuple[float, float, float]
    exact: bool
    atoms: int
    displacements: int

    @property
    def stable(self) -> bool:
        """No imaginary mode."""
        return self.imaginary == 0


class PhononScorer:
    """Dynamical stability of finalists.

    Args:
        finalists: which crystals, and their minima; their potential gives the forces.

    Raises:
        MissingError: phonopy is not installed.
    """

    name = "phonons"
    columns = (
        Column(
            "phonon_min_frequency",
            "float64",
            "lowest frequency; imaginary ones are negative",
            "THz",
            _SOURCE,
            _LIMITS,
        ),
        Column(
            "phonon_imaginary_modes",
            "Int64",
            "modes below -0.1 THz at wave vectors of the supercell, below -0.3 THz between them",
            "",
            _SOURCE,
            _LIMITS,
        ),
        Column(
            "phonon_worst_q",
            "string",
            "wave vector of the lowest mode, primitive reciprocal cell",
            "",
            _SOURCE,
            _LIMITS,
        ),
        Column("dynamically_stable", "boolean", "no imaginary mode", "", _SOURCE, _LIMITS),
        Column("phonon_detail", "string", "the supercell, or why there are no phonons", "", _SOURCE),
    )

    def __init__(self, finalists: Finalists) -> None:
        try:
            import phonopy  # noqa: F401
        except ImportError as error:
            raise missing_extra("phonopy", "phonons") from error
        self._finalists = finalists

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [self._row(found) for found in self.phonons(batch)]

    def phonons(self, batch: Sequence[Judged]) -> list[Phonons | Failure]:
        """The phonons of each crystal; all displaced supercells are evaluated as one batch."""
        minima = self._finalists.minima(batch)
        runs = {c.digest: _attempted(c) for c in minima if isinstance(c, Crystal)}
        ready = {key: run for key, run in runs.items() if not isinstance(run, Failure)}
        cells = {cell.digest: cell for run in ready.values() for cell in supercells(run)}
        found = {r.key: r for r in self._finalists.potential.evaluate(list(cells.values()))}
        done = {
            key: run if isinstance(run, Failure) else analysed(run, found) for key, run in runs.items()
        }
        return [m if isinstance(m, Failure) else done[m.digest] for m in minima]

    def _row(self, found: Phonons | Failure) -> Mapping[str, Value]:
        if isinstance(found, Failure):
            return {"phonon_detail": f"not computed: {found.detail or found.reason}"}
        return {
            "phonon_min_frequency": found.min_frequency,
            "phonon_imaginary_modes": found.imaginary,
            "phonon_worst_q": wave_vector(found.worst),
            "dynamically_stable": found.stable,
            "phonon_detail": f"{found.displacements} displacements, supercell of {found.atoms} atoms; "
            f"the lowest mode is {'exact' if found.exact else 'interpolated'}",
        }


def _attempted(crystal: Crystal) -> Phonopy | Failure:
    try:
        return displaced(crystal)
    except Exception as error:  # of any kind, from phonopy on odd cells; one must not stop a batch
        log.warning("no displacements of %s", crystal, exc_info=True)
        return _failure(error)


def displaced(crystal: Crystal) -> Phonopy:
    """The displaced supercells of a crystal that is in its symmetry exactly."""
    from ase.data import atomic_masses
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    cell, times = supercell_of(crystal)
    atoms = PhonopyAtoms(
        numbers=cell.atomic_numbers,
        cell=cell.lattice,
        scaled_positions=cell.frac_coords,
        masses=atomic_masses[cell.atomic_numbers],  # phonopy has none of Tc, Pm, Po and the actinides
    )
    primitive = guess_primitive_matrix(atoms, symprec=_SYMPREC)
    run = Phonopy(atoms, np.diag(times), primitive_matrix=primitive, symprec=_SYMPREC)
    run.generate_displacements(distance=DISPLACEMENT)
    return run


def supercell_of(crystal: Crystal) -> tuple[Crystal, tuple[int, ...]]:
    """The cell to repeat and how often along each vector; see the module."""
    conventional = symmetrized(crystal, primitive=False)
    cells = [crystal] if isinstance(conventional, Failure) else [crystal, conventional]
    choices = [(cell, multiples(cell)) for cell in cells]
    return min(choices, key=lambda choice: len(choice[0]) * math.prod(choice[1]))


def multiples(cell: Crystal) -> tuple[int, ...]:
    """How many cells along each vector."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell.lattice), axis=0)
    return tuple(1 if h >= 2 * SPACING else 2 * math.ceil(SPACING / (2 * h) - 1e-6) for h in heights)


def supercells(run: Phonopy) -> list[Crystal]:
    """The undisplaced supercell, then the displaced ones."""
    cells = [run.supercell, *(run.supercells_with_displacements or ())]
    return [Crystal(c.cell, c.scaled_positions, np.asarray(c.numbers, dtype=np.int64)) for c in cells]


def analysed(run: Phonopy, found: Mapping[str, Evaluated | Failure]) -> Phonons | Failure:
    """The modes, from the forces on the supercells (by key)."""
    results = [found[cell.digest] for cell in supercells(run)]
    evaluated = [r for r in results if isinstance(r, Evaluated)]
    for result in results:
        if isinstance(result, Failure):
            return result
    rest = evaluated[0].forces
    try:
        run.forces = [e.forces - rest for e in evaluated[1:]]
        run.produce_force_constants(show_drift=False)
        run.symmetrize_force_constants(show_drift=False)
        return _modes(run)
    except Exception as error:  # of any kind, from phonopy on odd cells; one must not stop a batch
        log.warning("phonons of %s failed", run.unitcell, exc_info=True)
        return _failure(error)


def _failure(error: Exception) -> Failure:
    return Failure("", Reason.CHECK_FAILED, f"phonopy: {type(error).__name__}: {error}"[:300])


def _modes(run: Phonopy) -> Phonons:
    exact = _exact_points(run)
    run.run_qpoints(exact)
    mesh = run.run_mesh(MESH, is_gamma_center=True)
    assert run.qpoints is not None
    at_exact: Floats = np.asarray(run.qpoints.frequencies, dtype=np.float64)
    on_mesh: Floats = np.asarray(mesh.frequencies, dtype=np.float64)
    points = np.concatenate([exact, mesh.qpoints])
    lowest = np.concatenate([at_exact.min(axis=1), on_mesh.min(axis=1)])
    worst = int(lowest.argmin())
    weights = np.asarray(mesh.weights, dtype=np.int64)[:, None]
    return Phonons(
        min_frequency=float(lowest[worst]),
        imaginary=int((at_exact < -EXACT).sum() + (weights * (on_mesh < -INTERPOLATED)).sum()),
        modes=int(at_exact.size + weights.sum() * on_mesh.shape[1]),
        worst=(float(points[worst][0]), float(points[worst][1]), float(points[worst][2])),
        exact=worst < len(exact),
        atoms=len(run.supercell),
        displacements=len(run.supercells_with_displacements or ()),
    )


def _exact_points(run: Phonopy) -> Floats:
    """The wave vectors that fit into the supercell, in reciprocal vectors of the primitive cell."""
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    inside = np.linalg.inv(np.asarray(run.primitive_matrix)) @ np.asarray(run.supercell_matrix)
    points = np.asarray(get_commensurate_points(np.rint(inside).astype(np.int64)), dtype=np.float64)
    return points - np.rint(points)


def wave_vector(q: Sequence[float]) -> str:
    """As "Gamma", "zone boundary (0.5 0 0)" where 2q is a reciprocal vector, or "(0.25 0 0)"."""
    point = np.round(np.asarray(q, dtype=np.float64), 4)
    if not np.any(np.abs(point - np.rint(point)) > 1e-4):
        return "Gamma"
    text = "(" + " ".join(f"{abs(x) if abs(x) == 0.5 else x + 0.0:g}" for x in point) + ")"
    doubled = 2 * point
    return f"zone boundary {text}" if np.allclose(doubled, np.rint(doubled), atol=1e-3) else text
