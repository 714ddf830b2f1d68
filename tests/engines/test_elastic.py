"""Elastic constants: a crystal of springs in closed form, and real ones with a potential."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.crystal import Crystal
from heliodor.core.records import Evaluated, Failure, HullPoint, Judged, Reason, Relaxed
from heliodor.engines.elastic import GPA, Elasticity, ElasticScorer, Plan, strained
from heliodor.engines.finalists import Finalists


class Pairs:
    """Springs of 5 eV/angstrom^2 between all atoms within a cutoff."""

    name = "pairs"
    model = "pairs"

    def __init__(self, r0: float, cutoff: float, sign: float = 1.0) -> None:
        self.r0, self.cutoff, self.sign = r0, cutoff, sign

    def supports(self, atomic_number):
        return True

    def relax(self, batch, ceilings=None):
        for c in batch:
            yield Relaxed(c.digest, c, 0.0, 0.0, 0.0, 0, converged=True, model=self.model)

    def evaluate(self, batch):
        for c in batch:
            yield Evaluated(c.digest, *self._all(c), self.model)

    def close(self):
        pass

    def _all(self, c: Crystal):
        shifts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T @ c.lattice
        positions = c.frac_coords @ c.lattice
        energy, forces, virial = 0.0, np.zeros((len(c), 3)), np.zeros((3, 3))
        for i in range(len(c)):
            for j in range(len(c)):
                d = positions[j] - positions[i] + shifts
                r = np.linalg.norm(d, axis=1)
                near = (r > 1e-6) & (r < self.cutoff)
                d, r = d[near], r[near]
                pull = self.sign * 5.0 * (r - self.r0)
                energy += 0.25 * self.sign * 5.0 * ((r - self.r0) ** 2).sum()
                unit = d / r[:, None]
                forces[i] += (pull[:, None] * unit).sum(axis=0)
                virial += 0.5 * np.einsum("n,na,nb->ab", pull, unit, d)
        return energy, forces, virial / c.volume


def fcc(a: float) -> Crystal:
    return Crystal(a / 2 * (1 - np.eye(3)), [[0, 0, 0]], [18])


def judged(crystal: Crystal) -> Judged:
    relaxed = Relaxed(crystal.digest, crystal, 0.0, 0.0, 0.0, 0, converged=True, model="m")
    hull = HullPoint(crystal.digest, 0.0, 0.0, -1.0, (), "m", "", "r")
    return Judged(crystal.digest, crystal, relaxed, hull)


def test_springs_on_fcc_give_the_closed_form():
    # Springs k between nearest neighbours of fcc: C11 = 2k/a, C12 = C44 = k/a (Born and Huang).
    a, k = 4.0, 5.0
    springs = Pairs(a / np.sqrt(2), cutoff=3.3)
    (found,) = ElasticScorer(Finalists(springs, 0.1)).elasticities([judged(fcc(a))])
    assert isinstance(found, Elasticity)
    c11, c12, c44 = found.stiffness[0, 0], found.stiffness[0, 1], found.stiffness[3, 3]
    assert c11 == pytest.approx(2 * k / a * GPA, rel=1e-3)
    assert c12 == pytest.approx(k / a * GPA, rel=1e-3)
    assert c44 == pytest.approx(k / a * GPA, rel=1e-3)
    assert found.moduli[0] == pytest.approx((c11 + 2 * c12) / 3)
    assert found.min_eigenvalue == pytest.approx(c11 - c12, rel=1e-6)


def test_what_the_ions_give_way_is_what_a_full_relaxation_gives():
    # Diamond of springs to the first and second neighbours: C44 has an internal strain.
    a = 5.43
    crystal = Crystal(a / 2 * (1 - np.eye(3)), [[0, 0, 0], [0.25, 0.25, 0.25]], [14, 14])
    near, far = a * np.sqrt(3) / 4, a / np.sqrt(2)

    class Two(Pairs):
        def _all(self, c):
            first, second = Pairs(near, 3.0)._all(c), Pairs(far, 4.3)._all(c)
            shell = Pairs(far, 3.0)._all(c)  # the second spring without the first shell
            return tuple(f + s - t for f, s, t in zip(first, second, shell, strict=True))

    potential = Two(near, 4.3)
    plan = Plan(crystal)
    found = plan.elasticity({r.key: r for r in potential.evaluate(plan.cells)})
    assert isinstance(found, Elasticity)
    # The same by moving the second atom until no force is left.
    stresses = []
    for sign in (1, -1):
        cell = strained(crystal, 3, sign * 0.005)
        for _ in range(60):
            _, forces, stress = potential._all(cell)
            moved = cell.frac_coords + (forces - forces.mean(axis=0)) / 40 @ np.linalg.inv(cell.lattice)
            cell = Crystal(cell.lattice, moved, cell.atomic_numbers)
        assert np.abs(forces).max() < 1e-6
        stresses.append(stress[1, 2])
    relaxed = GPA * (stresses[0] - stresses[1]) / 0.01
    assert found.stiffness[3, 3] == pytest.approx(relaxed, rel=1e-3)
    assert found.clamped[3, 3] > 1.05 * relaxed


def test_what_gives_way_under_strain_is_unstable_and_has_no_moduli():
    pushing = Pairs(4.0 / np.sqrt(2), cutoff=3.3, sign=-1.0)
    (row,) = ElasticScorer(Finalists(pushing, 0.1)).score([judged(fcc(4.0))])
    assert row["elastically_stable"] is False
    assert row["elastic_min_eigenvalue"] < 0
    assert row["bulk_modulus"] is None


def test_ions_off_their_minimum_are_said():
    pushing = Pairs(2.1, cutoff=2.5, sign=-1.0)
    rocksalt = Crystal(2.1 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8])
    (row,) = ElasticScorer(Finalists(pushing, 0.1)).score([judged(rocksalt)])
    assert "not at a minimum" in row["elastic_detail"]
    assert "elastically_stable" not in row


def test_a_failed_strain_is_a_reason():
    class Failing(Pairs):
        def evaluate(self, batch):
            for c in batch:
                yield Failure(c.digest, Reason.TIME_LIMIT, "too slow")

    (row,) = ElasticScorer(Finalists(Failing(2.8, 3.3), 0.1)).score([judged(fcc(4.0))])
    assert row == {"elastic_detail": "not computed: too slow"}


@pytest.mark.slow
def test_silicon_within_the_error_of_the_potential():
    pytest.importorskip("sevenn")
    from heliodor.engines.mlip import MlipRelaxer

    silicon = Crystal(2.715 * (1 - np.eye(3)), [[0, 0, 0], [0.25, 0.25, 0.25]], [14, 14])
    potential = MlipRelaxer("sevennet", MlipChoice(fmax=0.005, smax=0.0003, time_limit=600), 2)
    try:
        (found,) = ElasticScorer(Finalists(potential, 0.1)).elasticities([judged(silicon)])
    finally:
        potential.close()
    assert isinstance(found, Elasticity)
    # Measured: 165.6, 63.9, 79.5 GPa (J. Hall, Phys. Rev. 161, 756 (1967)); SevenNet-0 is soft in C44.
    c = found.stiffness
    assert c[0, 0] == pytest.approx(165.6, rel=0.15)
    assert c[0, 1] == pytest.approx(63.9, rel=0.15)
    assert c[3, 3] == pytest.approx(79.5, rel=0.35)
    assert found.clamped[3, 3] > c[3, 3], "the ions give way"
    assert found.min_eigenvalue > 0
