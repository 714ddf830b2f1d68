"""Uniqueness is literal: no earlier crystal matches, whatever the index proposed."""

import resource
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.protocols import OrderedValidator
from heliodor.core.records import Reason
from heliodor.validators.matching import MatcherSettings
from heliodor.validators.uniqueness import Uniqueness


def make(group, lattice, species, sites):
    return from_structure(Structure.from_spacegroup(group, lattice, species, sites))


SILICA = [
    make(152, Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 0], [0.413, 0.267, 0.119]]),
    make(92, Lattice.tetragonal(4.97, 6.93), ["Si", "O"], [[0.3, 0.3, 0], [0.24, 0.10, 0.18]]),
    make(227, Lattice.cubic(7.13), ["Si", "O"], [[0.125] * 3, [0, 0, 0]]),
    make(136, Lattice.tetragonal(4.18, 2.67), ["Si", "O"], [[0, 0, 0], [0.306, 0.306, 0]]),
]
OTHERS = [
    make(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    make(227, Lattice.cubic(3.57), ["C"], [[0.125] * 3]),
    make(194, Lattice.hexagonal(2.46, 6.7), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]),
]
BAD = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])


def near(crystal, size, seed):
    rng = np.random.default_rng(seed)
    lattice = crystal.lattice @ (np.eye(3) + 0.2 * size * rng.normal(size=(3, 3)))
    jitter = size * rng.normal(size=(len(crystal), 3)) @ np.linalg.inv(lattice)
    return Crystal(lattice, crystal.frac_coords + jitter, crystal.atomic_numbers)


def stream(seed, n=14):
    """Polymorphs, near and far copies, exact repeats and one that cannot be compared, mixed."""
    rng = np.random.default_rng(seed)
    out = [BAD]
    while len(out) < n:
        source = [*SILICA, *OTHERS][rng.integers(len(SILICA) + len(OTHERS))]
        out.append(near(source, rng.choice([0.0, 0.03, 0.15, 0.3]), int(rng.integers(5))))
    return [out[i] for i in rng.permutation(n)]


def literal(crystals):
    """Key of the earliest earlier crystal that matches, by pymatgen alone; None where there is none."""
    matcher = StructureMatcher()
    structures = [None if c is BAD else to_structure(c) for c in crystals]
    found = []
    for j, later in enumerate(structures):
        if later is None:
            found.append("failed")
            continue
        earlier = (i for i in range(j) if structures[i] and matcher.fit(structures[i], later))
        found.append(next((crystals[i].digest for i in earlier), None))
    return found


def summary(verdicts):
    return ["failed" if v.passed is None else v.match for v in verdicts]


def test_keeps_the_contract():
    checker = Uniqueness()
    assert isinstance(checker, OrderedValidator)
    batch = [SILICA[0], near(SILICA[0], 0.02, 1), SILICA[1]]
    verdicts = checker.check(batch)
    assert [v.key for v in verdicts] == [c.digest for c in batch]
    assert [v.passed for v in verdicts] == [True, False, True]
    assert verdicts[1].reason is Reason.DUPLICATE
    assert verdicts[1].match == SILICA[0].digest
    assert 0 < verdicts[1].score < 0.1
    assert checker.check([]) == []


@pytest.mark.parametrize("seed", range(4))
def test_is_the_literal_definition(seed):
    crystals = stream(seed)
    assert summary(Uniqueness().check(crystals)) == literal(crystals)


@given(st.integers(0, 50), st.lists(st.integers(0, 14), max_size=4), st.integers(0, 14))
@settings(max_examples=12, deadline=None)
def test_does_not_depend_on_batches_or_on_resuming(seed, cuts, absorbed):
    crystals = stream(seed)
    whole = Uniqueness().check(crystals)
    checker, edges = Uniqueness(), sorted({absorbed, *(c for c in cuts if c > absorbed), len(crystals)})
    checker.absorb(crystals[:absorbed])
    parts = []
    for a, b in pairwise(edges):
        parts += checker.check(crystals[a:b])
    assert parts == whole[absorbed:]


def test_an_exact_repeat_points_to_the_earliest_match():
    a, b = SILICA[0], near(SILICA[0], 0.02, 3)
    verdicts = Uniqueness().check([a, b, b, a])
    assert [v.match for v in verdicts] == [None, a.digest, a.digest, a.digest]


def test_the_order_of_atoms_and_the_cell_do_not_matter():
    a = SILICA[0]
    order = np.random.default_rng(0).permutation(len(a))
    shuffled = Crystal(a.lattice, a.frac_coords[order], a.atomic_numbers[order])
    bigger = from_structure(to_structure(a).make_supercell([2, 1, 1], in_place=False))
    assert [v.passed for v in Uniqueness().check([a, shuffled, bigger])] == [True, False, False]


def test_a_crystal_that_cannot_be_compared_fails_alone():
    flat = Crystal(np.diag([3.0, 3.0, 0.0]), [[0, 0, 0]], [6])
    thin = Crystal(np.diag([1e-6, 1e5, 1e5]), [[0, 0, 0]], [6])
    verdicts = Uniqueness().check([OTHERS[1], BAD, flat, thin, near(OTHERS[1], 0.02, 0)])
    assert [v.passed for v in verdicts] == [True, None, None, None, False]
    for verdict in verdicts[1:4]:
        assert verdict.reason is Reason.CHECK_FAILED
        assert verdict.detail
    assert verdicts[4].match == OTHERS[1].digest


def test_a_failing_crystal_before_others_is_passed_over():
    thin = Crystal(np.diag([1e-6, 1e5, 1e5]), [[0, 0, 0]], [6])
    checker = Uniqueness()
    checker.absorb([thin, BAD])
    verdicts = checker.check([OTHERS[1], near(OTHERS[1], 0.02, 0)])
    assert [v.passed for v in verdicts] == [True, False]


def test_tolerances_are_used():
    copy = near(SILICA[0], 0.1, 0)
    loose, tight = Uniqueness(), Uniqueness(MatcherSettings(0.01, 0.02, 0.5))
    assert loose.check([SILICA[0], copy])[1].passed is False
    assert tight.check([SILICA[0], copy])[1].passed is True


def test_the_number_of_threads_does_not_matter():
    rng = np.random.default_rng(0)
    crystals = [near(SILICA[i % 4], rng.choice([0.02, 0.2, 0.4]), i) for i in range(160)] + stream(1)
    one, many = Uniqueness(threads=1), Uniqueness(threads=3)
    verdicts = one.check(crystals)
    assert 1 < sum(v.passed is True for v in verdicts) < 160
    assert many.check(crystals[:100]) + many.check(crystals[100:]) == verdicts
    assert many.compared == one.compared > 0


def test_kept_crystals_take_about_a_kilobyte():
    rng = np.random.default_rng(0)
    crystals = [
        Crystal(np.diag(rng.uniform(5, 7, 3)), rng.random((10, 3)), rng.integers(1, 90, 10))
        for _ in range(2000)
    ]
    Uniqueness().check(crystals[:1])
    tracemalloc.start()
    checker = Uniqueness()
    for i in range(0, 2000, 100):
        checker.absorb(crystals[i : i + 100])
        for crystal in crystals[i : i + 100]:
            vars(crystal).pop("digest")
            vars(crystal).pop("reduced_composition")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(checker) == 2000
    assert kept < 2000 * 1800  # of which two thirds are the composition, for each has its own here


ABSURD = {
    "amorphous": (30.0 * np.eye(3), np.random.default_rng(0).random((10_000, 3))),
    "grid": (60.0 * np.eye(3), np.stack(np.mgrid[:20, :20, :25], axis=-1).reshape(-1, 3) / 25),
    "overlapping": (5.0 * np.eye(3), np.zeros((300, 3))),
    "crowd": (3.0 * np.eye(3), np.random.default_rng(1).random((500, 3))),
    "needle": (np.diag([1.0, 1.2, 450.0]), np.random.default_rng(2).random((8, 3))),
    "sheet": (np.diag([0.7, 300.0, 300.0]), np.random.default_rng(3).random((8, 3))),
    "thread": (np.diag([1e-6, 1e5, 1e5]), np.zeros((1, 3))),
    "not finite": (np.full((3, 3), np.nan), np.zeros((1, 3))),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.slow if len(sites) == 10_000 else ())
        for k, (_, sites) in ABSURD.items()
    ],
)
def test_absurd_crystals_take_bounded_time_and_memory(kind):
    lattice, sites = ABSURD[kind]
    rng = np.random.default_rng(4)
    copies = [
        Crystal(lattice, sites + rng.normal(0, 1e-3, sites.shape), np.full(len(sites), 6))
        for _ in range(2)
    ]
    checker = Uniqueness()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    verdicts = checker.check([OTHERS[1], *copies, near(OTHERS[1], 0.02, 0)])
    assert time.process_time() - start < 30  # at most 4 s on an idle core
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e6  # kB
    assert [verdicts[0].passed, verdicts[3].passed] == [True, False]
    for verdict in verdicts[1:3]:
        assert verdict.passed is not None or verdict.reason is Reason.CHECK_FAILED


@pytest.mark.shared
@pytest.mark.slow
def test_agrees_with_group_structures(mp_table):
    rng = np.random.default_rng(2)
    rows = mp_table.sample(450, random_state=6)
    base = [
        Crystal(np.reshape(r.lattice, (3, 3)), np.reshape(r.frac_coords, (-1, 3)), r.atomic_numbers)
        for r in rows.itertuples()
    ]
    crystals = base + [near(base[i], 0.03, int(i)) for i in rng.choice(450, 50, replace=False)]
    crystals = [crystals[i] for i in rng.permutation(len(crystals))]
    structures = [to_structure(c) for c in crystals]
    names = {id(s): c.digest for s, c in zip(structures, crystals, strict=True)}
    groups = StructureMatcher().group_structures(structures)
    unique = {v.key for v in Uniqueness().check(crystals) if v.passed}
    assert unique == {names[id(group[0])] for group in groups}
