import numpy as np
import pytest
from ase.build import bulk
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_atoms, from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.validators.powder import profile, reflections, wavelength_of

CUKA = 1.54184


def _cell(group, lattice, species, coords):
    return from_structure(Structure.from_spacegroup(group, lattice, species, coords))


RUTILE = _cell(136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
ANATASE = _cell(141, Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.2081]])
BROOKITE = _cell(  # Meagher, Lager (1979)
    61,
    Lattice.orthorhombic(9.174, 5.449, 5.138),
    ["Ti", "O", "O"],
    [[0.1289, 0.0972, 0.8628], [0.0095, 0.1491, 0.1835], [0.2314, 0.1110, 0.5366]],
)
MONOCLINIC = _cell(  # baddeleyite, its Zr as Ti
    14,
    Lattice.monoclinic(4.96, 4.87, 5.02, 99.2),
    ["Ti", "O", "O"],
    [[0.2754, 0.0395, 0.2083], [0.0700, 0.3317, 0.3447], [0.4496, 0.7569, 0.4792]],
)


def test_silicon_has_its_known_reflections():
    # PDF 00-027-1402, for CuKa1: 28.442, 47.303, 56.121, 69.130, 76.377 degrees
    found = reflections(from_atoms(bulk("Si", a=5.43088)), wavelength_of("CuKa1"), 80)
    assert found.two_theta() == pytest.approx([28.442, 47.303, 56.121, 69.130, 76.377], abs=0.01)
    assert [tuple(h) for h in found.hkl.tolist()] == [
        (1, 1, 1), (2, 2, 0), (3, 1, 1), (4, 0, 0), (3, 3, 1),
    ]  # fmt: skip
    assert found.multiplicity.tolist() == [8, 12, 24, 6, 24]
    strength = found.intensities(found.two_theta())
    assert (100 * strength / strength.max()).round() == pytest.approx([100, 55, 30, 6, 11], abs=14)
    assert found.spacegroup == 227


@pytest.mark.parametrize("crystal", [RUTILE, ANATASE, BROOKITE, MONOCLINIC])
def test_patterns_are_those_of_pymatgen(crystal):
    found = reflections(crystal, CUKA, 80)
    grid = np.arange(10, 80, 0.02)
    angles = found.two_theta()
    ours = profile(grid, angles, found.intensities(angles), 0.1, 0.3)
    theirs = XRDCalculator("CuKa").get_pattern(to_structure(crystal), two_theta_range=(0, 80))
    other = profile(grid, theirs.x, theirs.y, 0.1, 0.3)
    assert np.abs(ours / ours.max() - other / other.max()).max() < 0.003


def test_any_cell_of_a_crystal_has_the_same_pattern():
    turned = to_structure(ANATASE)
    turned.make_supercell([[1, 1, 0], [-1, 2, 0], [0, 1, 1]])
    a, b = (reflections(c, CUKA, 60) for c in (ANATASE, from_structure(turned)))
    assert a.two_theta() == pytest.approx(b.two_theta(), abs=1e-6)
    assert a.strength == pytest.approx(b.strength, rel=1e-6)
    assert a.hkl.tolist() == b.hkl.tolist()


@pytest.mark.parametrize(
    ("crystal", "free"),
    [
        (from_atoms(bulk("Si")), 1),
        (from_atoms(bulk("Mg")), 2),
        (RUTILE, 2),
        (BROOKITE, 3),
        (MONOCLINIC, 4),
        (
            Crystal(np.array([[3, 0, 0], [0.4, 4, 0], [0.5, 0.7, 5]]), np.zeros((1, 3)), np.array([29])),
            6,
        ),
    ],
)
def test_strains_are_those_of_the_crystal_system(crystal, free):
    found = reflections(crystal, CUKA, 70)
    assert len(found.strains) == free
    assert (found.strains[0] == np.eye(3)).all()
    rng = np.random.default_rng(0)
    strained = found.strained(found.strain(rng.uniform(-0.02, 0.02, free)))
    again = reflections(strained, CUKA, 70)
    assert again.spacegroup == found.spacegroup


def test_a_strained_crystal_has_the_reflections_that_were_foretold():
    found = reflections(BROOKITE, CUKA, 70)
    strain = found.strain(np.array([0.01, -0.015, 0.008]))
    foretold = found.two_theta(strain)
    again = reflections(found.strained(strain), CUKA, 80).two_theta()
    assert np.abs(foretold[:, None] - again).min(axis=1).max() < 1e-6


def test_a_peak_has_its_area_width_and_place():
    grid = np.arange(20, 40, 0.01)
    for mixing in (0.0, 1.0):
        drawn = profile(grid, np.array([30.0, np.nan]), np.array([5.0, 1.0]), 0.2, mixing)
        assert grid[drawn.argmax()] == pytest.approx(30.0, abs=0.005)
        wide = grid[drawn > drawn.max() / 2]
        assert wide[-1] - wide[0] == pytest.approx(0.2, abs=0.02)
        assert drawn.sum() * 0.01 == pytest.approx(5.0, rel=0.02)


def test_what_has_no_pattern_says_why():
    with pytest.raises(ValueError, match="no X-ray form factor of Fm"):
        reflections(Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([100])), CUKA, 60)
    with pytest.raises(ValueError, match="not finite"):
        reflections(Crystal(np.eye(3) * np.nan, np.zeros((1, 3)), np.array([29])), CUKA, 60)
    with pytest.raises(ValueError, match="too many reflections"):
        reflections(Crystal(np.eye(3) * 400, np.zeros((1, 3)), np.array([29])), CUKA, 90)


def test_radiations():
    assert wavelength_of("MoKa") == pytest.approx(0.71073)
    assert wavelength_of("1.2") == 1.2
    for wrong in ("CuKx", "-1", "100", "nan"):
        with pytest.raises(InputError, match="known: CuKa"):
            wavelength_of(wrong)
