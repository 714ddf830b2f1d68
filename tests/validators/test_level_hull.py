"""Hulls at one level of theory: pymatgen's hull of the same energies, and nothing of another level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from heliodor.core.crystal import Crystal
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.core.levels import Level
from heliodor.core.records import DftResult, Failure, HullPoint, Reason
from heliodor.validators.level_hull import LevelHull

PBE = Level.of("abinit-9.6.2", "PBE", "own", {"ecut": 800})


def result(
    numbers: list[int], energy: float, level: Level = PBE, *, converged: bool = True
) -> DftResult:
    """Energy in eV per cell; where the atoms are does not matter."""
    n = len(numbers)
    crystal = Crystal(
        np.eye(3) * (15 * n) ** (1 / 3), np.linspace(0, 0.9, n)[:, None] * np.ones(3), numbers
    )
    return DftResult(crystal.digest, "d", level, crystal, energy, 0.0, 0.0, converged, 1)


MG, O = result([12, 12], -92.0), result([8, 8], -870.0)


def test_formation_energy_and_distance_by_hand():
    hull = LevelHull(PBE, [("Mg", MG), ("O", O), ("mp-1265", result([12, 8], -487.0))])
    found = hull.judge(result([12, 8], -486.8))
    assert isinstance(found, HullPoint)
    # -486.8 - (-46 - 435) = -5.8 eV for two atoms; MgO lies 0.1 eV/atom lower.
    assert found.formation_energy_per_atom == pytest.approx(-2.9)
    assert found.energy_above_hull == pytest.approx(0.1)
    assert found.decomposition == (("MgO", "mp-1265", pytest.approx(1.0)),)
    assert found.level == PBE.name
    below = hull.judge(result([12, 8], -487.4))
    assert isinstance(below, HullPoint)
    assert (below.energy_above_hull, below.decomposition_energy) == (0, pytest.approx(-0.2))


def test_the_lowest_of_an_element_is_its_reference():
    hull = LevelHull(PBE, [("a", result([12], -45.0)), ("b", MG), ("O", O)])
    found = hull.judge(result([12], -45.9))
    assert isinstance(found, HullPoint)
    assert found.formation_energy_per_atom == pytest.approx(0.1)


def test_another_level_is_refused():
    other = Level.of("abinit-9.6.2", "PBE", "own", {"ecut": 801})
    with pytest.raises(InputError, match="mp-1"):
        LevelHull(PBE, [("Mg", MG), ("mp-1", result([8], -435.0, other))])
    hull = LevelHull(PBE, [("Mg", MG), ("O", O)])
    with pytest.raises(InputError, match="only energies of one level"):
        hull.judge(result([12, 8], -487.0, Level.of("vasp", "PBE", "GGA_GGA+U", {"ecut": 800})))


def test_what_did_not_converge_is_refused():
    with pytest.raises(InputError, match="did not converge"):
        LevelHull(PBE, [("Mg", result([12], -46.0, converged=False))])


def test_an_element_without_an_energy_is_a_failure():
    found = LevelHull(PBE, [("Mg", MG)]).judge(result([12, 8], -487.0))
    assert isinstance(found, Failure)
    assert found.reason == Reason.NO_COMPETITORS
    assert "O" in found.detail


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equal_to_pymatgen(data):
    counts = st.tuples(*[st.integers(0, 3)] * 3).filter(lambda c: sum(c) > 0)
    energies = st.floats(-5, 1)
    elements = [12, 14, 8]
    made = [([z], -float(z)) for z in elements]
    for amounts, formation in data.draw(st.lists(st.tuples(counts, energies), max_size=12)):
        numbers = [z for z, n in zip(elements, amounts, strict=True) for _ in range(n)]
        made.append((numbers, sum(-float(z) for z in numbers) + formation * len(numbers)))
    *known, (numbers, energy) = made
    hull = LevelHull(PBE, [(str(i), result(n, e)) for i, (n, e) in enumerate([*made[:3], *known])])
    found = hull.judge(result(numbers, energy))
    entries = [PDEntry(Composition(_counted(n)), e) for n, e in [*made[:3], *known]]
    diagram = PhaseDiagram(entries)
    entry = PDEntry(Composition(_counted(numbers)), energy)
    _, expected = diagram.get_decomp_and_e_above_hull(entry, allow_negative=True)
    assert isinstance(found, HullPoint)
    assert found.decomposition_energy == pytest.approx(expected, abs=1e-8)
    assert found.formation_energy_per_atom == pytest.approx(
        diagram.get_form_energy_per_atom(entry), abs=1e-8
    )


def _counted(numbers: list[int]) -> dict[str, int]:
    return {SYMBOLS[z]: numbers.count(z) for z in numbers}
