"""Average minimum distances and the fingerprints of known phases."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.validators.fingerprint import (
    KNOWN_DISTANCE,
    amd,
    fingerprint_distance,
    fingerprint_length,
    pack_fingerprint,
    species_fingerprint,
    unpack_fingerprint,
)
from heliodor.validators.geometry import reduced_basis


def rutile(a=4.6, c=2.96, u=0.305):
    lattice = Lattice.tetragonal(a, c)
    return from_structure(Structure.from_spacegroup(136, lattice, ["Ti", "O"], [[0, 0, 0], [u, u, 0]]))


def anatase():
    lattice = Lattice.tetragonal(3.78, 9.51)
    return from_structure(
        Structure.from_spacegroup(141, lattice, ["Ti", "O"], [[0, 0, 0], [0, 0, 0.208]])
    )


def quartz():
    lattice = Lattice.hexagonal(4.91, 5.40)
    sites = [[0.47, 0, 0], [0.413, 0.267, 0.119]]
    return from_structure(Structure.from_spacegroup(152, lattice, ["Si", "O"], sites))


CRYSTALS = [rutile(), anatase(), quartz()]


def supercell(crystal, matrix):
    """The same crystal in the cell matrix @ lattice; matrix has whole numbers."""
    matrix = np.array(matrix)
    count = round(abs(np.linalg.det(matrix)))
    inverse = np.linalg.inv(matrix)
    shifts = np.array(list(product(range(-6, 7), repeat=3))) @ inverse
    shifts = shifts[((shifts > -1e-9) & (shifts < 1 - 1e-9)).all(axis=1)]
    assert len(shifts) == count
    frac = (crystal.frac_coords @ inverse)[:, None] + shifts
    return Crystal(
        matrix @ crystal.lattice, frac.reshape(-1, 3), np.repeat(crystal.atomic_numbers, count)
    )


def disguise(crystal, rng, matrix):
    """Another cell, orientation, origin and order of the same crystal."""
    bigger = supercell(crystal, matrix)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(bigger))
    frac = bigger.frac_coords + rng.random(3)
    return Crystal(bigger.lattice @ rotation, frac[order], bigger.atomic_numbers[order])


MATRICES = st.sampled_from(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [2, 1, 0], [-1, 1, 1]],
        [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
        [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    ]
)


def test_simple_cubic_has_the_shells_of_the_lattice():
    crystal = Crystal(3.0 * np.eye(3), np.zeros((1, 3)), np.array([84]))
    vector = amd(crystal, 32)
    shells = [1.0] * 6 + [2**0.5] * 12 + [3**0.5] * 8 + [2.0] * 6
    np.testing.assert_allclose(vector, 3.0 * np.array(shells), atol=1e-12)


@pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda c: c.formula)
def test_agrees_with_the_neighbour_lists_of_pymatgen(crystal):
    vector = amd(crystal)
    lists = to_structure(crystal).get_all_neighbors(1.5 * vector[-1])
    expected = np.mean([sorted(n.nn_distance for n in site)[:100] for site in lists], axis=0)
    np.testing.assert_allclose(vector, expected, atol=1e-9)


@given(st.sampled_from(CRYSTALS), MATRICES, st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_neither_depends_on_cell_setting_origin_or_order(crystal, matrix, seed):
    other = disguise(crystal, np.random.default_rng(seed), matrix)
    np.testing.assert_allclose(amd(other), amd(crystal), atol=1e-8)
    np.testing.assert_allclose(species_fingerprint(other), species_fingerprint(crystal), atol=1e-5)


@given(st.sampled_from(CRYSTALS), st.floats(0, 0.2), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_amd_moves_by_at_most_twice_the_displacement(crystal, size, seed):
    step = np.random.default_rng(seed).normal(size=(len(crystal), 3))
    step *= size / np.linalg.norm(step, axis=1, keepdims=True)
    frac = crystal.frac_coords + step @ np.linalg.inv(crystal.lattice)
    moved = Crystal(crystal.lattice, frac, crystal.atomic_numbers)
    assert np.abs(amd(moved) - amd(crystal)).max() <= 2 * size + 1e-9


def test_scaled_amd_and_fingerprint_do_not_depend_on_density():
    crystal = quartz()
    swollen = Crystal(1.2 * crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    np.testing.assert_allclose(amd(swollen), 1.2 * amd(crystal), rtol=1e-12)
    np.testing.assert_allclose(amd(swollen, scaled=True), amd(crystal, scaled=True), rtol=1e-12)
    assert fingerprint_distance(species_fingerprint(swollen), species_fingerprint(crystal)) < 1e-5


def test_resolves_orderings_of_one_lattice_that_amd_cannot():
    """L1_0 (CuAu) and L1_1 (CuPt) on one ideal fcc lattice: the same points, other neighbours."""
    a = 3.9
    layered = Crystal(
        a * np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [29, 79],
    )
    rhombohedral = Crystal(
        a * np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]),
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [29, 79],
    )
    np.testing.assert_allclose(amd(layered), amd(rhombohedral), atol=1e-9)
    a, b = species_fingerprint(layered), species_fingerprint(rhombohedral)
    assert fingerprint_distance(a, b) > 1.5 * KNOWN_DISTANCE


def test_tells_polymorphs_apart_and_knows_distorted_copies():
    rng = np.random.default_rng(0)
    a, b = species_fingerprint(rutile()), species_fingerprint(rutile(4.7, 2.9, 0.30))
    assert fingerprint_distance(a, b) < KNOWN_DISTANCE
    strained = anatase().lattice @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3)))
    copy = Crystal(strained, anatase().frac_coords, anatase().atomic_numbers)
    own = species_fingerprint(anatase())
    assert fingerprint_distance(own, species_fingerprint(copy)) < KNOWN_DISTANCE
    brookite_like = species_fingerprint(rutile(4.6, 4.6, 0.2))
    assert a[0] == brookite_like[0]
    assert fingerprint_distance(a, brookite_like) > KNOWN_DISTANCE
    assert own[0] == a[0] == 6
    assert fingerprint_distance(a, own) > KNOWN_DISTANCE


def test_other_size_of_primitive_cell_is_infinitely_far():
    zincblende = Structure.from_spacegroup(
        216, Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.25] * 3]
    )
    wurtzite = Structure.from_spacegroup(
        186, Lattice.hexagonal(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]]
    )
    a, b = (species_fingerprint(from_structure(s)) for s in (zincblende, wurtzite))
    assert (a[0], b[0]) == (2, 4)
    assert fingerprint_distance(a, b) == float("inf")


@pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda c: c.formula)
def test_packing_keeps_half_a_step(crystal):
    vector = species_fingerprint(crystal)
    packed = pack_fingerprint(vector)
    assert vector.dtype == np.float32
    assert len(packed) == len(vector) == fingerprint_length(2)
    assert fingerprint_distance(unpack_fingerprint(packed), vector) <= 0.5 / 40 + 1e-6


@pytest.mark.parametrize(
    ("lattice", "words"),
    [
        (np.full((3, 3), np.nan), "finite"),
        (np.diag([np.inf, 1, 1]), "finite"),
        (np.zeros((3, 3)), "volume"),
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], "volume"),
        (np.diag([1e-6, 1e5, 1e5]), "too thin"),
    ],
)
def test_absurd_cells_are_refused_in_bounded_time(lattice, words):
    start = time.process_time()
    with pytest.raises(ValueError, match=words):
        amd(Crystal(np.array(lattice, float), np.zeros((1, 3)), np.array([6])))
    assert time.process_time() - start < 2


def test_needles_and_slabs_are_computed():
    needle = amd(Crystal(np.diag([1.5, 60.0, 60.0]), np.zeros((1, 3)), np.array([6])), 60)
    np.testing.assert_allclose(needle, 1.5 * np.repeat(np.arange(1, 31), 2), atol=1e-9)
    slab = amd(Crystal(np.diag([3.0, 3.0, 500.0]), np.zeros((1, 3)), np.array([6])), 4)
    np.testing.assert_allclose(slab, 3.0, atol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_reduced_basis_is_minkowski_and_spans_the_same_lattice(seed):
    rng = np.random.default_rng(seed)
    lattice = rng.normal(size=(3, 3)) * 4
    shear = np.eye(3)
    shear[rng.integers(3)] += rng.integers(-40, 40, 3)
    lattice = (shear if abs(np.linalg.det(shear)) > 0.5 else np.eye(3)) @ lattice
    basis = reduced_basis(lattice)
    change = lattice @ np.linalg.inv(basis)
    np.testing.assert_allclose(change, np.round(change), atol=1e-5)
    lengths = np.linalg.norm(basis, axis=1)
    assert (np.diff(lengths) > -1e-9).all()
    for i, j in product((-1, 0, 1), repeat=2):
        assert np.linalg.norm(basis[2] + i * basis[0] + j * basis[1]) >= lengths[2] - 1e-9
        assert np.linalg.norm(basis[1] + i * basis[0]) >= lengths[1] - 1e-9
    assert abs(np.linalg.det(basis)) >= np.prod(lengths) / 2**0.5 - 1e-9


@pytest.mark.shared
def test_perturbed_copies_of_known_phases_are_found(mp_table):
    rng = np.random.default_rng(4)
    rows = mp_table[mp_table.n_atoms <= 30].sample(120, random_state=3)
    found = 0
    for row in rows.itertuples():
        crystal = Crystal(
            np.reshape(row.lattice, (3, 3)), np.reshape(row.frac_coords, (-1, 3)), row.atomic_numbers
        )
        strain = rng.normal(0, 0.01, (3, 3))
        lattice = crystal.lattice @ (np.eye(3) + (strain + strain.T) / 2) * rng.uniform(0.97, 1.03)
        jitter = rng.normal(0, 0.03, (len(crystal), 3)) @ np.linalg.inv(lattice)
        copy = Crystal(lattice, crystal.frac_coords + jitter, crystal.atomic_numbers)
        known = unpack_fingerprint(pack_fingerprint(species_fingerprint(crystal)))
        found += fingerprint_distance(species_fingerprint(copy), known) <= KNOWN_DISTANCE
    assert found >= 0.98 * len(rows)  # the matcher too misses a few whose primitive cell changes
