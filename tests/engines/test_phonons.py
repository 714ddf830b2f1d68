"""Phonons: a chain whose modes are known, and real crystals with a potential."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.crystal import Crystal
from heliodor.core.records import Evaluated, Failure, HullPoint, Judged, Reason, Relaxed
from heliodor.engines.finalists import Finalists
from heliodor.engines.phonons import (
    Phonons,
    PhononScorer,
    analysed,
    displaced,
    multiples,
    supercell_of,
    supercells,
    wave_vector,
)

pytest.importorskip("phonopy")

_THZ = 15.633302  # sqrt(eV / angstrom^2 / u) / (2 pi), in THz


class Springs:
    """Nearest neighbours of a simple cubic crystal joined by springs: modes in closed form.

    Args:
        along, across: force constants of a bond, eV/angstrom^2.
    """

    name = "springs"
    model = "springs"

    def __init__(self, a: float, along: float, across: float, broken: bool = False) -> None:
        self.a, self.along, self.across, self.broken = a, along, across, broken
        self.asked = 0

    def supports(self, atomic_number):
        return True

    def relax(self, batch, ceilings=None):
        for c in batch:
            yield Relaxed(c.digest, c, 0.0, 0.0, 0.0, 0, converged=True, model=self.model)

    def evaluate(self, batch):
        for c in batch:
            self.asked += 1
            if self.broken:
                yield Failure(c.digest, Reason.MEMORY_LIMIT, "too large")
            else:
                yield Evaluated(c.digest, 0.0, self._forces(c), np.zeros((3, 3)), self.model)

    def close(self):
        pass

    def _forces(self, c: Crystal):
        cells = np.rint(np.linalg.norm(c.lattice, axis=1) / self.a).astype(int)
        site = np.rint(c.frac_coords * cells).astype(int)
        off = (c.frac_coords - site / cells) * np.linalg.norm(c.lattice, axis=1)
        where = {tuple(s % cells): i for i, s in enumerate(site)}
        forces = np.zeros_like(off)
        for i, s in enumerate(site):
            for axis in range(3):
                for step in (-1, 1):
                    t = s.copy()
                    t[axis] += step
                    d = off[where[tuple(t % cells)]] - off[i]
                    k = np.full(3, self.across)
                    k[axis] = self.along
                    forces[i] += k * d
        return forces


def po() -> Crystal:
    """Polonium, simple cubic."""
    return Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])


def judged(crystal: Crystal, above: float = 0.0) -> Judged:
    relaxed = Relaxed(crystal.digest, crystal, 0.0, 0.0, 0.0, 0, converged=True, model="m")
    hull = HullPoint(crystal.digest, above, above, -1.0, (), "m", "", "r")
    return Judged(crystal.digest, crystal, relaxed, hull)


def test_frequencies_of_springs_are_those_of_the_closed_form():
    springs = Springs(3.35, along=2.0, across=0.5)
    run = displaced(po())
    found = {r.key: r for r in springs.evaluate(supercells(run))}
    result = analysed(run, found)
    assert isinstance(result, Phonons)
    assert result.stable
    assert result.min_frequency == pytest.approx(0.0, abs=1e-3)
    run.run_qpoints([[0.5, 0, 0], [0.5, 0.5, 0.5]])
    x, r = run.qpoints.frequencies
    mass = run.primitive.masses[0]
    # At the zone boundary along x, the bonds along x are stretched by twice the displacement.
    assert max(x) == pytest.approx(_THZ * np.sqrt(4 * 2.0 / mass), rel=1e-4)
    assert min(x) == pytest.approx(_THZ * np.sqrt(4 * 0.5 / mass), rel=1e-4)
    assert max(r) == pytest.approx(_THZ * np.sqrt(4 * (2.0 + 0.5 + 0.5) / mass), rel=1e-4)


def test_a_soft_zone_boundary_is_named():
    # Across springs that push apart: the transverse modes at X are imaginary.
    springs = Springs(3.35, along=2.0, across=-0.2)
    scorer = PhononScorer(Finalists(springs, within=0.1))
    (row,) = scorer.score([judged(po())])
    assert row["dynamically_stable"] is False
    assert row["phonon_worst_q"].startswith("zone boundary (")
    assert row["phonon_imaginary_modes"] > 0
    mass = 208.9824
    assert row["phonon_min_frequency"] == pytest.approx(-_THZ * np.sqrt(4 * 0.4 / mass), rel=0.05)


def test_what_is_no_finalist_costs_nothing_and_says_why():
    springs = Springs(3.35, 2.0, 0.5)
    scorer = PhononScorer(Finalists(springs, within=0.1))
    bare = Judged("k", po())
    rows = scorer.score([judged(po(), above=0.3), bare])
    assert "0.300 eV/atom above the hull" in rows[0]["phonon_detail"]
    assert "no energy" in rows[1]["phonon_detail"]
    assert all("dynamically_stable" not in row for row in rows)
    assert springs.asked == 0


def test_a_failed_supercell_is_a_reason():
    scorer = PhononScorer(Finalists(Springs(3.35, 2.0, 0.5, broken=True), within=0.1))
    (row,) = scorer.score([judged(po())])
    assert row == {"phonon_detail": "not computed: too large"}


def test_supercells_are_even_so_that_zone_boundaries_are_exact(mgo, srtio3):
    for crystal in (mgo, srtio3, po()):
        cell, times = supercell_of(crystal)
        heights = 1 / np.linalg.norm(np.linalg.inv(cell.lattice), axis=0)
        assert all(t % 2 == 0 for t in times)
        assert (heights * times >= 7.5).all()
    assert len(supercell_of(mgo)[0]) * np.prod(supercell_of(mgo)[1]) == 64  # conventional, twice
    assert multiples(Crystal(np.diag([3.0, 5.0, 20.0]), [[0, 0, 0]], [14])) == (4, 2, 1)


def test_wave_vectors_have_names():
    assert wave_vector((0, 0, 1)) == "Gamma"
    assert wave_vector((0.5, 0, -0.5)) == "zone boundary (0.5 0 0.5)"
    assert wave_vector((0.25, 0, 0)) == "(0.25 0 0)"


@pytest.mark.slow
def test_silicon_is_stable_and_cubic_barium_titanate_is_not():
    pytest.importorskip("sevenn")
    from pymatgen.core import Lattice, Structure

    from heliodor.core.convert import from_structure
    from heliodor.engines.mlip import MlipRelaxer

    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    titanate = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4.01), ["Ba", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    crystals = [from_structure(s.get_primitive_structure()) for s in (silicon, titanate)]
    potential = MlipRelaxer("sevennet", MlipChoice(fmax=0.005, smax=0.0003, time_limit=600), 2)
    try:
        rows = PhononScorer(Finalists(potential, within=0.1)).score([judged(c) for c in crystals])
    finally:
        potential.close()
    assert rows[0]["dynamically_stable"] is True
    # Ferroelectric: the polar mode at Gamma is soft (Ghosez et al., Phys. Rev. B 60, 836 (1999)).
    assert rows[1]["dynamically_stable"] is False
    assert rows[1]["phonon_worst_q"] == "Gamma"
    assert rows[1]["phonon_min_frequency"] < -2
