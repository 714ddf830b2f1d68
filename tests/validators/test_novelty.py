"""Novelty against known phases, with their structures and by fingerprints."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.protocols import Validator
from heliodor.core.records import Reason
from heliodor.validators.fingerprint import KNOWN_DISTANCE, pack_fingerprint, species_fingerprint
from heliodor.validators.fingerprint_novelty import FingerprintNovelty
from heliodor.validators.matching import MatcherSettings
from heliodor.validators.novelty import StructureNovelty


def make(group, lattice, species, sites):
    return from_structure(Structure.from_spacegroup(group, lattice, species, sites))


PHASES = {
    "quartz": make(
        152, Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 0], [0.413, 0.267, 0.119]]
    ),
    "stishovite": make(136, Lattice.tetragonal(4.18, 2.67), ["Si", "O"], [[0, 0, 0], [0.306, 0.306, 0]]),
    "halite": make(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "diamond": make(227, Lattice.cubic(3.57), ["C"], [[0.125] * 3]),
}
CRISTOBALITE = make(92, Lattice.tetragonal(4.97, 6.93), ["Si", "O"], [[0.3, 0.3, 0], [0.24, 0.1, 0.18]])
SYLVITE = make(225, Lattice.cubic(6.29), ["K", "Cl"], [[0] * 3, [0.5] * 3])
BAD = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])


def near(crystal, seed=0, size=0.03):
    rng = np.random.default_rng(seed)
    lattice = 1.03 * crystal.lattice @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3)))
    jitter = size * rng.normal(size=(len(crystal), 3)) @ np.linalg.inv(lattice)
    return Crystal(lattice, crystal.frac_coords + jitter, crystal.atomic_numbers)


def by_structures():
    return StructureNovelty(PHASES.items())


def by_fingerprints():
    return FingerprintNovelty(
        list(PHASES),
        [c.reduced_composition for c in PHASES.values()],
        [pack_fingerprint(species_fingerprint(c)) for c in PHASES.values()],
    )


@pytest.fixture(params=[by_structures, by_fingerprints], ids=lambda f: f.__name__)
def novelty(request):
    return request.param()


def test_known_phases_and_their_copies_are_known(novelty):
    assert isinstance(novelty, Validator)
    copies = [near(c, i) for i, c in enumerate(PHASES.values())]
    for batch in (list(PHASES.values()), copies):
        verdicts = novelty.check(batch)
        assert [v.match for v in verdicts] == list(PHASES)
        assert [v.key for v in verdicts] == [c.digest for c in batch]
        assert all(v.passed is False and v.reason is Reason.KNOWN for v in verdicts)
        assert all(v.score <= KNOWN_DISTANCE for v in verdicts)


def test_supercells_are_known(novelty):
    bigger = from_structure(to_structure(PHASES["halite"]).make_supercell([2, 1, 1], in_place=False))
    assert novelty.check([bigger])[0].match == "halite"


def test_other_polymorphs_and_compositions_are_novel(novelty):
    verdicts = novelty.check([CRISTOBALITE, SYLVITE])
    assert [v.passed for v in verdicts] == [True, True]
    assert [v.match for v in verdicts] == [None, None]


def test_the_failure_of_one_crystal_is_a_value(novelty):
    thin = Crystal(np.diag([1e-6, 1e5, 1e5]), [[0, 0, 0]], [6])
    verdicts = novelty.check([BAD, PHASES["diamond"], thin])
    assert [v.passed for v in verdicts] == [None, False, None]
    assert verdicts[0].reason is verdicts[2].reason is Reason.CHECK_FAILED


def test_a_verdict_says_how_it_was_made():
    assert "StructureMatcher 0.2/0.3/5" in by_structures().check([PHASES["quartz"]])[0].detail
    for crystal in (PHASES["quartz"], CRISTOBALITE, SYLVITE):
        assert "by fingerprint" in by_fingerprints().check([crystal])[0].detail


def test_the_first_phase_that_matches_is_named():
    quartz = PHASES["quartz"]
    novelty = StructureNovelty([("a", CRISTOBALITE), ("b", near(quartz, 1)), ("c", quartz)])
    assert novelty.check([quartz])[0].match == "b"


def test_tolerances_are_used():
    copy = near(PHASES["quartz"], 2, 0.15)
    assert by_structures().check([copy])[0].passed is False
    tight = StructureNovelty(PHASES.items(), MatcherSettings(0.01, 0.02, 0.5))
    assert tight.check([copy])[0].passed is True


def test_an_unusable_phase_matches_nothing():
    novelty = StructureNovelty([("bad", BAD), ("diamond", PHASES["diamond"])])
    assert novelty.check([near(PHASES["diamond"])])[0].match == "diamond"


def test_a_table_that_does_not_fit_is_refused():
    quartz = PHASES["quartz"]
    packed = pack_fingerprint(species_fingerprint(quartz))
    with pytest.raises(InputError, match="expected one of each"):
        FingerprintNovelty(["a", "b"], [quartz.reduced_composition], [packed])
    with pytest.raises(InputError, match="fingerprint of a"):
        FingerprintNovelty(["a"], [quartz.reduced_composition], [packed[:-1]])


@pytest.mark.shared
def test_same_verdicts_as_the_matcher_on_every_pair(mp_table):
    """The index never hides a match: polymorphs of MP against each other, without the index."""
    small = mp_table[mp_table.n_atoms <= 16]
    repeated = small[small.formula.duplicated(keep=False)].sort_values("formula").tail(120)
    crystals = {
        r.material_id: Crystal(
            np.reshape(r.lattice, (3, 3)), np.reshape(r.frac_coords, (-1, 3)), r.atomic_numbers
        )
        for r in repeated.itertuples()
    }
    half = len(crystals) // 2
    items = list(crystals.items())
    known, asked = items[::2], [c for _, c in items[1::2]]
    verdicts = StructureNovelty(known).check(asked)
    matcher = StructureMatcher()
    for crystal, verdict in zip(asked, verdicts, strict=True):
        same = (k for k, c in known if c.reduced_composition == crystal.reduced_composition)
        structure = to_structure(crystal)
        expected = next((k for k in same if matcher.fit(to_structure(crystals[k]), structure)), None)
        assert verdict.match == expected
    assert 0 < sum(v.passed is False for v in verdicts) < half
