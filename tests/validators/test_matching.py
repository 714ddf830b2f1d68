"""The matcher's verdict is pymatgen's, with each side reduced once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.validators.matching import Matcher, MatcherSettings, prepare

ROCKSALT = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
CESIUM_CHLORIDE = Structure.from_spacegroup(221, Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
QUARTZ = Structure.from_spacegroup(
    152, Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 0], [0.413, 0.267, 0.119]]
)
CRISTOBALITE = Structure.from_spacegroup(
    92, Lattice.tetragonal(4.97, 6.93), ["Si", "O"], [[0.3, 0.3, 0], [0.24, 0.10, 0.18]]
)
PEROVSKITE = Structure.from_spacegroup(
    221, Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
)
STRUCTURES = [ROCKSALT, CESIUM_CHLORIDE, QUARTZ, CRISTOBALITE, PEROVSKITE]


def distorted(structure, jitter, strain, seed):
    rng = np.random.default_rng(seed)
    lattice = structure.lattice.matrix @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
    frac = structure.frac_coords + jitter * rng.normal(size=(len(structure), 3)) @ np.linalg.inv(lattice)
    return Structure(Lattice(lattice), structure.species, frac)


@given(st.sampled_from(STRUCTURES), st.floats(0, 0.6), st.floats(0, 0.12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_same_verdict_as_fit_on_distorted_copies(structure, jitter, strain, seed):
    """The amplitudes reach to both sides of the tolerances."""
    other = distorted(structure, jitter, strain, seed)
    expected = StructureMatcher().fit(structure, other)
    ours = Matcher().matches(prepare(from_structure(structure)), prepare(from_structure(other)))
    assert ours == expected


@pytest.mark.parametrize("tolerances", [(0.2, 0.3, 5), (0.3, 0.5, 10), (0.05, 0.05, 1)])
def test_same_verdict_as_fit_at_other_tolerances(tolerances):
    matcher, theirs = Matcher(MatcherSettings(*tolerances)), StructureMatcher(*tolerances)
    verdicts = set()
    for seed in range(6):
        for structure in (QUARTZ, ROCKSALT):
            other = distorted(structure, 0.1 * seed, 0.02 * seed, seed)
            expected = theirs.fit(structure, other)
            a, b = prepare(from_structure(structure)), prepare(from_structure(other))
            assert matcher.matches(a, b) == expected
            verdicts.add(expected)
    assert verdicts == {True, False}


def test_cell_choice_volume_and_hand_do_not_matter():
    matcher, quartz = Matcher(), prepare(from_structure(QUARTZ))
    supercell = QUARTZ.make_supercell([[1, 1, 0], [-1, 1, 0], [0, 0, 2]], in_place=False)
    swollen = Structure(Lattice(QUARTZ.lattice.matrix * 1.3), QUARTZ.species, QUARTZ.frac_coords)
    mirrored = Structure(
        Lattice(QUARTZ.lattice.matrix @ np.diag([1, 1, -1])), QUARTZ.species, QUARTZ.frac_coords
    )
    for other in (supercell, swollen, mirrored):
        assert matcher.matches(quartz, prepare(from_structure(other)))


def test_polymorphs_and_other_compositions_do_not_match():
    matcher = Matcher()
    reduced = [prepare(from_structure(s)) for s in STRUCTURES]
    for i, a in enumerate(reduced):
        for j, b in enumerate(reduced):
            assert matcher.matches(a, b) == (i == j)


def test_rms_is_that_of_pymatgen():
    other = distorted(QUARTZ, 0.1, 0.01, 5)
    expected = StructureMatcher().get_rms_dist(QUARTZ, other)[0]
    ours = Matcher().rms(prepare(from_structure(QUARTZ)), prepare(from_structure(other)))
    assert ours == pytest.approx(expected, abs=1e-6)
    assert (
        Matcher().rms(prepare(from_structure(ROCKSALT)), prepare(from_structure(CESIUM_CHLORIDE)))
        is None
    )


def test_reduction_is_to_the_primitive_cell():
    big = ROCKSALT.make_supercell(2, in_place=False)
    reduced = prepare(from_structure(big))
    assert len(reduced) == 2
    assert len(big) == 64
    assert reduced.structure().volume == pytest.approx(5.64**3 / 4)


@pytest.mark.parametrize("field", ["ltol", "stol", "angle_tol"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_tolerances_must_be_positive(field, value):
    with pytest.raises(InputError, match=field):
        MatcherSettings(**{field: value})


@pytest.mark.parametrize("lattice", [np.full((3, 3), np.nan), np.zeros((3, 3)), np.diag([1, 1, np.inf])])
def test_what_has_no_geometry_is_refused(lattice):
    with pytest.raises(ValueError, match="finite|volume"):
        prepare(Crystal(lattice, [[0, 0, 0]], [6]))


@pytest.mark.parametrize("lengths", [(1e-3, 1e3, 1e3), (0.1, 300, 300), (1, 1, 1e4)])
def test_needles_and_sheets_are_refused_before_they_take_memory(lengths):
    with pytest.raises(ValueError, match="too thin"):
        prepare(Crystal(np.diag(lengths), [[0, 0, 0]], [6]))


def random_polymorph(rng, numbers, volume):
    """Random cell and sites, no two nearer than a third of the spacing."""
    numbers = np.array(numbers)
    while True:
        lattice = np.eye(3) + 0.4 * rng.uniform(-1, 1, (3, 3))
        lattice *= (volume * len(numbers) / abs(np.linalg.det(lattice))) ** (1 / 3)
        crystal = Crystal(lattice, rng.random((len(numbers), 3)), numbers)
        apart = to_structure(crystal).distance_matrix + 9 * np.eye(len(numbers))
        if apart.min() > volume ** (1 / 3) / 3:
            return crystal


@pytest.mark.slow
@pytest.mark.parametrize(("numbers", "volume"), [([6] * 4, 6.0), ([6] * 6, 6.0), ([14, 8, 8], 12.0)])
def test_same_verdicts_on_random_polymorphs(numbers, volume):
    """Loose tolerances, so that random cells match too."""
    rng = np.random.default_rng(1)
    crystals = [random_polymorph(rng, numbers, volume) for _ in range(24)]
    structures, reduced = [to_structure(c) for c in crystals], [prepare(c) for c in crystals]
    verdicts = []
    for tolerances in ((0.2, 0.3, 5), (0.4, 0.6, 12)):
        ours, theirs = Matcher(MatcherSettings(*tolerances)), StructureMatcher(*tolerances)
        for i in range(len(crystals)):
            for j in range(i):
                expected = theirs.fit(structures[j], structures[i])
                assert ours.matches(reduced[j], reduced[i]) == expected
                verdicts.append(expected)
    assert 0 < sum(verdicts) < len(verdicts)


@pytest.mark.shared
@pytest.mark.slow
def test_same_verdicts_on_supercells_of_real_crystals(mp_table):
    rng = np.random.default_rng(3)
    matcher, theirs, matched, pairs = Matcher(), StructureMatcher(), 0, 0
    for row in mp_table[mp_table.n_atoms <= 8].sample(60, random_state=2).itertuples():
        original = Crystal(
            np.reshape(row.lattice, (3, 3)), np.reshape(row.frac_coords, (-1, 3)), row.atomic_numbers
        )
        matrix = np.eye(3, dtype=int) + np.triu(rng.integers(0, 2, (3, 3)))
        big = to_structure(original).make_supercell(matrix, in_place=False)
        for jitter in (0.02, 0.12, 0.3):
            other = distorted(big, jitter, 0.02, int(rng.integers(1000)))
            expected = theirs.fit(to_structure(original), other)
            assert matcher.matches(prepare(original), prepare(from_structure(other))) == expected
            matched, pairs = matched + expected, pairs + 1
    assert 0 < matched < pairs


@pytest.mark.shared
def test_same_verdicts_on_polymorphs_of_the_materials_project(mp_table):
    small = mp_table[mp_table.n_atoms <= 20]
    repeated = small[small.formula.duplicated(keep=False)].sort_values("formula").head(160)
    matcher, theirs, verdicts = Matcher(), StructureMatcher(), []
    for _, group in repeated.groupby("formula"):
        crystals = [
            Crystal(np.reshape(r.lattice, (3, 3)), np.reshape(r.frac_coords, (-1, 3)), r.atomic_numbers)
            for r in group.itertuples()
        ]
        for i, later in enumerate(crystals):
            for earlier in crystals[:i]:
                expected = theirs.fit(to_structure(earlier), to_structure(later))
                assert matcher.matches(prepare(earlier), prepare(later)) == expected
                verdicts.append(expected)
    assert 0 < sum(verdicts) < len(verdicts)
