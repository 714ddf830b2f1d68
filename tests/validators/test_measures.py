"""Continuous uniqueness and novelty."""

import numpy as np
import pytest
from ase.build import bulk

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.protocols import Phase
from heliodor.validators import measures
from heliodor.validators.element_features import PROPERTIES, composition_features
from heliodor.validators.fingerprint import amd, pack_fingerprint, species_fingerprint
from heliodor.validators.magpie import magpie_features
from heliodor.validators.measures import continuous_novelty, continuous_uniqueness
from heliodor.validators.nearest import NearestPhases
from heliodor.validators.packed_phases import PackedPhases
from heliodor.validators.phases import Phases
from heliodor.validators.store_build import open_store
from heliodor.validators.tables import write_table

CRYSTALS = [
    from_atoms(bulk("Cu")),
    from_atoms(bulk("Si")),
    from_atoms(bulk("NaCl", "rocksalt", a=5.64)),
    from_atoms(bulk("CsCl", "cesiumchloride", a=4.12)),
    from_atoms(bulk("ZnS", "zincblende", a=5.41)),
]
BAD = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])


def features_of(crystals):
    return magpie_features([c.reduced_composition for c in crystals])


@pytest.fixture
def known(tmp_path):
    """Makes a reference of some crystals."""

    def make(crystals):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        phases = [Phase(f"{i}", c.reduced_composition, None, None, c) for i, c in enumerate(crystals)]
        write_table(path, phases, {})
        return NearestPhases(open_store(path, tmp_path / "cache"))

    return make


def test_uniqueness_is_the_mean_over_pairs():
    result = continuous_uniqueness(CRYSTALS)
    vectors, features = [amd(c) for c in CRYSTALS], features_of(CRYSTALS)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    structure = np.mean([np.abs(vectors[i] - vectors[j]).max() for i, j in pairs])
    composition = np.mean([np.linalg.norm(features[i] - features[j]) for i, j in pairs])
    assert (result.structure.value, result.structure.unit) == (pytest.approx(structure), "angstrom")
    assert result.composition.value == pytest.approx(composition)
    assert (result.n, result.of, result.left_out) == (5, 5, 0)
    assert result.structure.standard_error == result.composition.standard_error == 0


def test_blocks_do_not_matter(monkeypatch):
    whole = continuous_uniqueness(CRYSTALS)
    monkeypatch.setattr(measures, "_CHUNK", 2)
    assert continuous_uniqueness(CRYSTALS).structure.value == pytest.approx(whole.structure.value)


def test_uniqueness_does_not_depend_on_order_and_repeats_lower_it():
    result, turned = continuous_uniqueness(CRYSTALS), continuous_uniqueness(CRYSTALS[::-1])
    assert turned.structure.value == pytest.approx(result.structure.value)
    assert turned.composition.value == pytest.approx(result.composition.value)
    assert continuous_uniqueness([*CRYSTALS, *CRYSTALS]).structure.value < result.structure.value
    assert continuous_uniqueness([CRYSTALS[0]] * 3).structure.value == 0


def salts(n, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        metal = int(rng.choice([3, 11, 19, 37, 55]))
        anion, a = int(rng.choice([9, 17, 35, 53])), float(rng.uniform(3.5, 7))
        found.append(
            Crystal(a * (np.ones((3, 3)) - np.eye(3)) / 2, [[0] * 3, [0.5] * 3], [metal, anion])
        )
    return found


def test_of_many_crystals_a_sample_says_how_far_off_it_may_be(monkeypatch, known):
    """Repeated samples of 60 of 240 lie within their standard errors of the whole."""
    crystals, reference = salts(240), known(salts(5, 1))
    asked = ((continuous_uniqueness, ()), (continuous_novelty, (reference,)))
    whole = [function(crystals, *arguments) for function, arguments in asked]
    monkeypatch.setattr(measures, "EXACT", 60)
    for (function, arguments), exact in zip(asked, whole, strict=True):
        drawn = [function(crystals, *arguments, seed=seed) for seed in range(25)]
        assert drawn[0] == function(crystals, *arguments, seed=0)
        assert (drawn[0].n, drawn[0].of) == (60, 240)
        for part in ("structure", "composition"):
            truth = getattr(exact, part).value
            off = [(getattr(d, part).value - truth) / getattr(d, part).standard_error for d in drawn]
            assert 0.6 < np.std(off) < 1.5
            assert abs(np.mean(off)) < 0.8


def test_novelty_is_the_distance_to_the_nearest(known):
    reference = known(CRYSTALS[:3])
    same = continuous_novelty(CRYSTALS[:3], reference)
    assert (same.structure.value, same.composition.value) == pytest.approx((0, 0), abs=1e-5)
    one = continuous_novelty([CRYSTALS[4]], reference)
    expected = min(np.abs(amd(CRYSTALS[4]) - amd(c)).max() for c in CRYSTALS[:3])
    assert one.structure.value == pytest.approx(expected, abs=1e-5)
    features = features_of([CRYSTALS[4], *CRYSTALS[:3]])
    nearest = np.linalg.norm(features[1:] - features[0], axis=1).min()
    assert one.composition.value == pytest.approx(nearest, rel=1e-5)


def test_the_unit_follows_the_reference():
    packed = [pack_fingerprint(species_fingerprint(c)) for c in CRYSTALS]
    phases = Phases(Phase(f"{i}", c.reduced_composition, None) for i, c in enumerate(CRYSTALS))
    result = continuous_novelty(CRYSTALS, NearestPhases(PackedPhases(phases, packed)))
    assert result.structure.unit == "(V/atom)^(1/3)"
    assert result.structure.value <= 1 / 80 + 1e-6  # half a step of the packed vectors
    nothing = PackedPhases(phases, [None] * len(CRYSTALS))
    assert continuous_novelty(CRYSTALS, NearestPhases(nothing)).structure is None


def test_structure_and_composition_are_apart():
    """Sylvite on halite's cell: another composition, the same structure."""
    halite = CRYSTALS[2]
    sylvite = Crystal(halite.lattice, halite.frac_coords, np.where(halite.atomic_numbers == 11, 19, 17))
    result = continuous_uniqueness([halite, sylvite])
    assert result.structure.value == pytest.approx(0, abs=1e-9)
    assert result.composition.value > 1
    other = continuous_uniqueness([halite, from_atoms(bulk("NaCl", "cesiumchloride", a=3.4))])
    assert other.composition.value == 0
    assert other.structure.value > 0.1


def test_chemically_near_compositions_are_near():
    salts = [from_atoms(bulk(f, "rocksalt", a=5.6)) for f in ("NaCl", "KCl", "TiC")]
    a, b, c = composition_features(salts)
    assert a.shape == (3 * len(PROPERTIES),)
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)
    assert np.isfinite(composition_features([from_atoms(bulk("Ar")), from_atoms(bulk("Po"))])).all()
    copper = composition_features([CRYSTALS[0]])[0]
    assert (copper[len(PROPERTIES) :] == 0).all()  # an element has no deviation and no range


def test_what_has_no_vector_is_left_out_and_counted(known):
    result = continuous_uniqueness([*CRYSTALS, BAD])
    assert (result.n, result.of, result.left_out) == (5, 6, 1)
    assert result.structure.value == pytest.approx(continuous_uniqueness(CRYSTALS).structure.value)
    assert continuous_novelty([CRYSTALS[0], BAD], known(CRYSTALS)).left_out == 1


def test_too_few_crystals_are_refused(known):
    with pytest.raises(InputError, match="two crystals"):
        continuous_uniqueness([CRYSTALS[0], BAD])
    with pytest.raises(InputError, match="none of 1 crystals"):
        continuous_novelty([BAD], known(CRYSTALS))
    with pytest.raises(InputError, match="no phase is known"):
        continuous_novelty(CRYSTALS, NearestPhases(PackedPhases(Phases(()), [])))
