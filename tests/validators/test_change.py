from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.records import Judged, Relaxed
from heliodor.validators.change import Change

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
SALT = Crystal(4.2 * np.eye(3), [*FCC, *(np.array(FCC) + 0.5)], [12] * 4 + [8] * 4)


def judged(proposed: Crystal, relaxed: Crystal) -> Judged:
    return Judged("k", proposed, Relaxed("k", relaxed, -1.0, 0.0, 0.0, 1, True, "m"))


def test_a_moved_atom_is_measured_in_angstrom():
    frac = SALT.frac_coords.copy()
    frac[0, 0] += 0.4 / 4.2  # more than what is averaged away where the cell is not primitive
    (found,) = Change().score([judged(Crystal(SALT.lattice, frac, SALT.atomic_numbers), SALT)])
    # One of 8 atoms by d, after the best shift: d * sqrt(7) / 8.
    assert found["rmsd_from_relaxation"] == pytest.approx(0.4 * np.sqrt(7) / 8, rel=0.01)
    assert found["volume_change"] == pytest.approx(0)


def test_a_shift_of_the_whole_and_a_strain_move_no_site():
    shifted = Crystal(1.01 * SALT.lattice, SALT.frac_coords + 0.3, SALT.atomic_numbers)
    (found,) = Change().score([judged(SALT, shifted)])
    assert found["rmsd_from_relaxation"] == pytest.approx(0, abs=1e-6)
    assert found["volume_change"] == pytest.approx(1.01**3 - 1)


def test_what_moved_too_far_has_no_rmsd_and_what_was_not_relaxed_nothing():
    other = Crystal(np.diag([2.0, 4.0, 9.3]), SALT.frac_coords * 0.9, SALT.atomic_numbers)
    (far,) = Change().score([judged(SALT, other)])
    assert far["rmsd_from_relaxation"] is None
    assert Change().score([Judged("k", SALT)]) == [{}]
