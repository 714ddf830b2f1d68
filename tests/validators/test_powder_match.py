from functools import cache

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.errors import InputError
from heliodor.validators.powder import profile, reflections
from heliodor.validators.powder_match import Cell, Limits, match
from heliodor.validators.powder_pattern import pattern_from

CUKA = 1.54184
GRID = np.arange(15, 80, 0.02)
IMPURITY = (26.6, 40.9, 57.2)  # degrees


def _titania(group, lattice, coords):
    species = ["Ti"] + ["O"] * (len(coords) - 1)
    return from_structure(Structure.from_spacegroup(group, lattice, species, coords))


@cache
def _phases():
    crystals = {
        "rutile": _titania(136, Lattice.tetragonal(4.594, 2.959), [[0, 0, 0], [0.305, 0.305, 0]]),
        "anatase": _titania(141, Lattice.tetragonal(3.785, 9.514), [[0, 0, 0], [0, 0, 0.2081]]),
        "brookite": _titania(
            61,
            Lattice.orthorhombic(9.174, 5.449, 5.138),
            [[0.1289, 0.0972, 0.8628], [0.0095, 0.1491, 0.1835], [0.2314, 0.1110, 0.5366]],
        ),
        "baddeleyite": _titania(
            14,
            Lattice.monoclinic(4.79, 4.83, 4.98, 99.5),
            [[0.2754, 0.0395, 0.2083], [0.0700, 0.3317, 0.3447], [0.4496, 0.7569, 0.4792]],
        ),
    }
    return {name: reflections(crystal, CUKA, 86) for name, crystal in crystals.items()}


def _scan(name, amounts, zero, seed=0):
    """Counts of a strained phase, with a sloping and humped background, impurity peaks and noise."""
    phase = _phases()[name]
    strain = phase.strain(np.array(amounts))
    angles = phase.two_theta(strain)
    drawn = profile(GRID, angles + zero, phase.intensities(angles, 0.8), 0.14, 0.4)
    foreign = profile(GRID, np.array(IMPURITY), np.array([1.0, 0.7, 0.5]), 0.14, 0.4)
    background = 100 + 400 * np.exp(-GRID / 25) + 120 * np.exp(-(((GRID - 24) / 8) ** 2))
    mean = 3000 * drawn / drawn.max() + 300 * foreign / foreign.max() + background
    return np.random.default_rng(seed).poisson(mean).astype(float), strain


@pytest.mark.parametrize(
    ("name", "amounts", "zero"),
    [
        ("rutile", (0.012, -0.006), 0.08),
        pytest.param("anatase", (-0.01, 0.012), -0.06, marks=pytest.mark.slow),
        pytest.param("brookite", (0.008, 0.009, -0.006), 0.05, marks=pytest.mark.slow),
        pytest.param("baddeleyite", (-0.006, 0.008, 0.004, -0.007), -0.1, marks=pytest.mark.slow),
    ],
)
def test_the_right_phase_is_first_and_its_strain_is_recovered(name, amounts, zero):
    counts, strain = _scan(name, amounts, zero)
    pattern = pattern_from(GRID, counts)
    found = {key: match(pattern, phase, Limits()) for key, phase in _phases().items()}
    ranked = sorted(found, key=lambda key: -found[key].similarity)
    right = found[name]
    assert ranked[0] == name
    assert right.similarity > 0.97
    assert right.similarity > found[ranked[1]].similarity + 0.2
    assert right.residual < 0.5 < min(f.residual for key, f in found.items() if key != name)
    assert np.abs(right.strain - strain).max() < 1e-3
    assert right.volume_change == pytest.approx(np.linalg.det(np.eye(3) + strain) - 1, abs=1e-3)
    assert right.zero == pytest.approx(zero, abs=0.02)
    assert right.fwhm == pytest.approx(0.14, abs=0.02)
    assert not right.at_limit
    assert len(right.missing) == 0
    assert all(min(abs(x - i) for i in IMPURITY) < 0.1 for x in right.unexplained)
    assert len(right.unexplained) >= 2
    assert len(found[ranked[1]].unexplained) > len(right.unexplained)


@pytest.mark.slow
def test_a_fixed_cell_and_an_isotropic_one_do_less():
    counts, strain = _scan("rutile", (0.01, -0.008), 0.0)
    pattern = pattern_from(GRID, counts)
    rutile = _phases()["rutile"]
    fixed, isotropic, free = (match(pattern, rutile, Limits(cell=cell)) for cell in Cell)
    assert not fixed.strain.any()
    assert np.ptp(np.diag(isotropic.strain)) == 0
    assert fixed.similarity < isotropic.similarity < free.similarity
    assert np.abs(free.strain - strain).max() < 1e-3


def test_strain_beyond_the_limit_is_said():
    counts, _ = _scan("rutile", (0.02, 0.0), 0.0)
    found = match(pattern_from(GRID, counts), _phases()["rutile"], Limits(strain=0.01))
    assert found.at_limit
    assert np.abs(np.linalg.eigvalsh(found.strain)).max() <= 0.01 + 1e-9


@pytest.mark.slow
def test_a_list_of_peaks_will_do():
    phase = _phases()["anatase"]
    strain = phase.strain(np.array([0.01, 0.004]))
    angles = phase.two_theta(strain)
    strong = (angles < 75) & (phase.intensities(angles) > 0.02 * phase.intensities(angles).max())
    angles, strength = angles[strong], phase.intensities(angles)[strong]
    order = np.argsort(angles)
    pattern = pattern_from(angles[order], strength[order])
    assert pattern.from_list
    found = {key: match(pattern, p, Limits()) for key, p in _phases().items() if key != "baddeleyite"}
    assert max(found, key=lambda key: found[key].similarity) == "anatase"
    assert np.abs(found["anatase"].strain - strain).max() < 1e-3
    assert len(found["anatase"].unexplained) == 0


def test_a_phase_without_reflections_in_range_is_a_value_error():
    grid = np.arange(3, 12, 0.02)
    counts = 100 + 1000 * np.exp(-(((grid - 7) / 0.1) ** 2))
    with pytest.raises(ValueError, match="no reflection"):
        match(pattern_from(grid, counts), _phases()["rutile"], Limits())


def test_the_background_goes_and_the_peaks_stay():
    counts, _ = _scan("rutile", (0.0, 0.0), 0.0)
    pattern = pattern_from(GRID, counts)
    true = 100 + 400 * np.exp(-GRID / 25) + 120 * np.exp(-(((GRID - 24) / 8) ** 2))
    assert np.abs(pattern.background - true).max() < 0.02 * 3000
    assert len(pattern.peaks) > 10
    assert pattern.fwhm == pytest.approx(0.14, abs=0.05)


_RISING = np.linspace(10, 80, 3000)
_COUNTS = 100 + 1000 * np.exp(-(((_RISING - 40) / 0.2) ** 2))


@pytest.mark.parametrize(
    ("angles", "counts", "message"),
    [
        (_RISING[::-1], _COUNTS, "angles must rise"),
        (_RISING + 120, _COUNTS, "is no angle two theta"),
        (_RISING - 20, _COUNTS, "is no angle two theta"),
        (_RISING, _COUNTS - 400, "is negative"),
        (_RISING, np.zeros(3000), "zero everywhere"),
        (_RISING, np.full(3000, np.nan), "no finite numbers"),
        (_RISING, np.random.default_rng(0).poisson(100, 3000).astype(float), "no peak"),
        (_RISING[:20], _COUNTS[:20], "20 points of a scan"),
        (np.array([20.0, 30.0]), np.array([1.0, 2.0]), "2 peaks"),
    ],
)
def test_bad_patterns_are_refused(angles, counts, message):
    with pytest.raises(InputError, match=message):
        pattern_from(angles, counts)


def test_a_range_without_points_is_refused():
    with pytest.raises(InputError, match="lies within the range 90 to 120"):
        pattern_from(_RISING, _COUNTS, (90, 120))
