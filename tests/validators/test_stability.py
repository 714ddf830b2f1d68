"""From the hull back to the energies of a potential: when a relaxation may be given up."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.crystal import Crystal
from heliodor.core.records import Relaxed
from heliodor.testing import rock_salt
from heliodor.validators.reference_embedded import EmbeddedReference
from heliodor.validators.stability import Stability


@pytest.fixture(scope="module")
def stability():
    return Stability(EmbeddedReference())


@pytest.mark.parametrize("model", ["chgnet-0.3.0", "sevennet-0"])
@pytest.mark.parametrize("above", [0.0, 0.3])
def test_a_crystal_at_its_ceiling_lies_so_far_above_the_hull(stability, model, above):
    crystal = rock_salt()
    (ceiling,) = stability.ceilings([crystal], model=model, above=above)
    at = Relaxed(crystal.digest, crystal, ceiling, 0.0, 0.0, 0, converged=True, model=model)
    assert stability.judge(at).decomposition_energy == pytest.approx(above, abs=1e-9)


def test_without_a_reference_there_is_no_ceiling(stability):
    polonium = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])
    assert stability.ceilings([polonium], model="chgnet-0.3.0", above=0.1) == [None]
