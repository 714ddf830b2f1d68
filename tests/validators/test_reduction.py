"""The primitive Niggli cell on arrays is the one that pymatgen's matcher makes."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.validators.matching import Matcher, prepare

STRUCTURES = [
    Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    Structure.from_spacegroup(227, Lattice.cubic(3.57), ["C"], [[0.125] * 3]),
    Structure.from_spacegroup(
        152, Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 0], [0.413, 0.267, 0.119]]
    ),
    Structure.from_spacegroup(166, Lattice.hexagonal(4.13, 9.8), ["As"], [[0, 0, 0.227]]),
    Structure.from_spacegroup(
        12, Lattice.monoclinic(6.1, 3.8, 7.2, 103), ["V", "O"], [[0.1, 0, 0.3], [0.3, 0, 0.1]]
    ),
]
MATRICES = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 1, 0], [-1, 1, 0], [0, 0, 2]],
    [[1, 0, 0], [2, 1, 0], [-1, 1, 1]],
    [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
]


def parameters(matrix):
    return np.array(Lattice(matrix).parameters)


@given(
    st.sampled_from(STRUCTURES),
    st.sampled_from(MATRICES),
    st.sampled_from([0.0, 0.05, 0.1, 0.2]),
    st.sampled_from([0.0, 0.003, 0.03]),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_is_the_cell_of_the_matcher(structure, matrix, jitter, strain, seed):
    """Jitter on both sides of the 0.25 angstrom within which translations are accepted."""
    rng = np.random.default_rng(seed)
    big = structure.make_supercell(matrix, in_place=False)
    lattice = big.lattice.matrix @ (np.eye(3) + strain * rng.uniform(-1, 1, (3, 3)))
    frac = big.frac_coords + jitter * rng.normal(size=(len(big), 3)) @ np.linalg.inv(lattice)
    crystal = Crystal(lattice, frac, np.array(big.atomic_numbers))
    ours, theirs = prepare(crystal), StructureMatcher._get_reduced_structure(to_structure(crystal))
    assert ours.atomic_numbers.tolist() == list(theirs.atomic_numbers)
    np.testing.assert_allclose(parameters(ours.lattice), theirs.lattice.parameters, atol=1e-3)
    difference = ours.frac_coords - theirs.frac_coords
    np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_niggli_cell_is_that_of_pymatgen(seed):
    rng = np.random.default_rng(seed)
    lattice = rng.normal(size=(3, 3)) * 4 + rng.choice([0, 5]) * np.eye(3)
    if abs(np.linalg.det(lattice)) < 1:
        lattice = lattice + 9 * np.eye(3)
    ours = prepare(Crystal(lattice, [[0, 0, 0]], [6])).lattice
    theirs = Lattice(lattice).get_niggli_reduced_lattice()
    np.testing.assert_allclose(ours, theirs.matrix, atol=1e-9)


@pytest.mark.parametrize(
    "lattice",
    [
        5.0 * np.eye(3),
        4.0 * (np.ones((3, 3)) - np.eye(3)),
        3.0 * (np.ones((3, 3)) - 2 * np.eye(3)),
        Lattice.hexagonal(3.2, 5.1).matrix,
        Lattice.rhombohedral(4.7, 60).matrix,
        Lattice.rhombohedral(0.7, 90).matrix,
    ],
    ids=["cubic", "fcc", "bcc", "hexagonal", "rhombohedral", "tiny"],
)
def test_of_equal_niggli_cells_it_is_the_one_that_pymatgen_takes(lattice):
    for shear in ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 2, 0], [0, 1, 0], [0, -3, 1]]):
        skewed = np.array(shear) @ lattice
        theirs = Lattice(skewed).get_niggli_reduced_lattice()
        ours = prepare(Crystal(skewed, [[0, 0, 0]], [6])).lattice
        np.testing.assert_allclose(ours, theirs.matrix, atol=1e-9)


def test_a_supercell_folds_onto_the_mean_of_its_sites():
    cell = np.diag([3.0, 3.0, 6.0])
    found = prepare(Crystal(cell, [[0, 0, 0.0], [0, 0, 0.51]], [84, 84]))
    np.testing.assert_allclose(sorted(np.linalg.norm(found.lattice, axis=1)), [3, 3, 3])
    assert len(found) == 1
    assert len(prepare(Crystal(cell, [[0, 0, 0.0], [0, 0, 0.60]], [84, 84]))) == 2


GRID = np.stack(np.meshgrid(*[np.arange(8) / 8] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@pytest.mark.parametrize(
    ("length", "sites"),
    [
        (5.0, np.random.default_rng(0).random((300, 3))),
        (12.0, np.random.default_rng(0).random((300, 3))),
        (8.0, GRID + np.random.default_rng(0).normal(0, 0.01, GRID.shape)),
        (24.0, GRID + np.random.default_rng(0).normal(0, 0.004, GRID.shape)),
        (24.0, GRID),
    ],
    ids=["crowd", "amorphous", "crowded-grid", "jittered-grid", "supercell"],
)
def test_many_like_atoms_take_bounded_time(length, sites):
    """pymatgen takes up to minutes for these."""
    start = time.process_time()
    try:
        reduced = prepare(Crystal(length * np.eye(3), sites, np.full(len(sites), 6)))
        assert len(reduced) in (1, len(sites))
    except ValueError as error:
        assert "too many" in str(error)
    assert time.process_time() - start < 10  # 1 s on an idle core


def test_needles_are_compared_in_bounded_time():
    rng = np.random.default_rng(1)
    for ratio in (100, 400):
        start = time.process_time()
        a, b = (
            prepare(Crystal(np.diag([1.0, 1.2, ratio]), rng.random((4, 3)), np.array([6, 6, 7, 7])))
            for _ in range(2)
        )
        try:
            assert Matcher().matches(a, b) in (True, False)
        except ValueError as error:
            assert "too thin" in str(error)
        assert time.process_time() - start < 10


def test_left_handed_cells_reduce_like_their_right_handed_twins():
    quartz = from_structure(STRUCTURES[2])
    swapped = Crystal(quartz.lattice[[1, 0, 2]], quartz.frac_coords[:, [1, 0, 2]], quartz.atomic_numbers)
    a, b = prepare(quartz), prepare(swapped)
    assert np.linalg.det(a.lattice) > 0
    assert np.linalg.det(b.lattice) > 0
    np.testing.assert_allclose(parameters(a.lattice), parameters(b.lattice), atol=1e-9)
