"""Distances to the nearest known phase."""

from __future__ import annotations

import numpy as np
import pytest

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.protocols import Phase, Scorer
from heliodor.core.records import Judged
from heliodor.validators.distances import Distances
from heliodor.validators.fingerprint import amd, pack_fingerprint, species_fingerprint
from heliodor.validators.magpie import magpie_features
from heliodor.validators.nearest import Nearest, NearestPhases, Surveyed
from heliodor.validators.occupation import occupation
from heliodor.validators.packed_phases import PackedPhases
from heliodor.validators.phases import Phases
from heliodor.validators.reference_file import FileReference
from heliodor.validators.tables import write_table

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def salt(metal, anion, a):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


def caesium_chloride(metal, anion, a):
    return Crystal(a * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


KNOWN = {
    "MgO": salt(12, 8, 4.21),
    "NaCl": salt(11, 17, 5.64),
    "NaCl-2": caesium_chloride(11, 17, 3.4),
    "KCl": salt(19, 17, 6.29),
    "Fe": Crystal(2.87 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [26, 26]),
    "thin": Crystal(np.diag([1e-6, 1e5, 1e5]), [[0, 0, 0]], [6]),
}
PHASES = [Phase(k, c.reduced_composition, None, None, c) for k, c in KNOWN.items()]
GROUPS = {"MgO": 225, "NaCl": 225, "NaCl-2": 221, "KCl": 225, "Fe": 229}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    write_table(path, PHASES, {})
    return FileReference(path)


@pytest.fixture(scope="module")
def packed():
    phases = [Phase(p.material_id, p.composition, None, GROUPS.get(p.material_id)) for p in PHASES]
    prints = [
        None if k == "thin" else pack_fingerprint(species_fingerprint(c)) for k, c in KNOWN.items()
    ]
    return PackedPhases(Phases(phases), prints)


def columns(scorer, crystal):
    return scorer.score([Judged(crystal.digest, crystal)])[0]


@pytest.mark.parametrize("p", [2, np.inf])
def test_the_search_is_exact(p):
    rng = np.random.default_rng(0)
    vectors = np.cumsum(rng.normal(size=(500, 30)), axis=1).astype(np.float32)
    vectors[7] = np.nan
    heads = [3, 11, 29]
    nearest = Nearest(vectors[:, heads], lambda rows: vectors[rows], p)
    for query in np.cumsum(rng.normal(size=(50, 30)), axis=1).astype(np.float32):
        distances = np.linalg.norm(vectors.astype(float) - query, ord=p, axis=1)
        best = int(np.nanargmin(distances))
        assert nearest.query(query[heads], query) == (pytest.approx(distances[best]), best)


def test_of_equal_ones_the_first_is_named():
    vectors = np.ones((20, 4), np.float32)
    assert Nearest(vectors[:, :2], lambda rows: vectors[rows], 2).query(
        np.ones(2, np.float32), np.ones(4, np.float32)
    ) == (0, 0)


def test_nothing_known_has_no_nearest():
    nearest = Nearest(np.full((2, 3), np.nan, np.float32), lambda rows: np.empty((len(rows), 4)), 2)
    assert nearest.query(np.zeros(3, np.float32), np.zeros(4, np.float32)) is None


def test_distances_are_those_of_the_vectors(stored):
    query = salt(3, 9, 4.03)
    found = columns(Distances(stored.known), query)
    assert isinstance(stored, Surveyed)
    known = {k: c for k, c in KNOWN.items() if k != "thin"}
    structure = {k: np.abs(amd(query) - amd(c)).max() for k, c in known.items()}
    features = magpie_features(
        [query.reduced_composition, *(c.reduced_composition for c in KNOWN.values())]
    )
    composition = np.linalg.norm(features[1:] - features[0], axis=1)
    assert found["amd_distance"] == pytest.approx(min(structure.values()), abs=1e-5)
    assert found["nearest_by_structure"] == min(structure, key=structure.get) == "MgO"
    assert found["magpie_distance"] == pytest.approx(composition.min(), rel=1e-5)
    assert found["nearest_by_composition"] == list(KNOWN)[composition.argmin()]
    assert (found["d_comp"], found["d_wyckoff"]) == (1, 1)


def test_the_discrete_distances(stored):
    scorer = Distances(stored.known)
    assert isinstance(scorer, Scorer)
    shifted = salt(11, 17, 5.9)
    shifted = Crystal(shifted.lattice, shifted.frac_coords + 0.5, shifted.atomic_numbers)
    zincblende = Crystal(6.0 * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], [11, 17])
    expected = [(KNOWN["MgO"], 0, 0), (shifted, 0, 0), (zincblende, 0, 1), (salt(26, 8, 4.3), 1, 1)]
    for crystal, comp, wyckoff in expected:
        found = columns(scorer, crystal)
        assert (found["d_comp"], found["d_wyckoff"]) == (comp, wyckoff)
    assert columns(scorer, KNOWN["NaCl-2"])["amd_distance"] == pytest.approx(0, abs=1e-5)
    assert columns(scorer, KNOWN["NaCl-2"])["nearest_by_composition"] == "NaCl"


def test_without_structures_space_groups_say_what_they_can(packed):
    scorer = Distances(packed)
    assert [c.name for c in scorer.columns][2] == "scaled_amd_distance"
    zincblende = Crystal(6.0 * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], [11, 17])
    assert columns(scorer, zincblende)["d_wyckoff"] == 1  # 216: no known NaCl has it
    assert columns(scorer, KNOWN["NaCl"])["d_wyckoff"] is None  # 225: one has, more is not known
    assert columns(scorer, salt(3, 9, 4.0))["d_wyckoff"] == 1
    bigger = salt(11, 17, 9.0)  # the scaled vectors do not see the volume
    assert columns(scorer, bigger)["scaled_amd_distance"] <= 1 / 80 + 1e-6
    assert columns(scorer, bigger)["nearest_by_structure"] in {"MgO", "NaCl", "KCl"}


def test_what_cannot_be_computed_is_none(stored):
    scorer = Distances(stored.known)
    bad = Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])
    found = columns(scorer, bad)
    assert found["nearest_by_composition"] == "thin"
    assert found.get("amd_distance") is None
    assert found.get("d_wyckoff") is None
    names = {c.name for c in scorer.columns}
    assert {key for c in KNOWN.values() for key in columns(scorer, c)} <= names


def test_occupation_does_not_depend_on_the_setting():
    quartz = from_structure(
        to_structure(
            Crystal(
                [[4.91, 0, 0], [-2.455, 4.2522, 0], [0, 0, 5.40]],
                [
                    [0.47, 0, 2 / 3], [0, 0.47, 1 / 3], [0.53, 0.53, 0],
                    [0.413, 0.267, 0.786], [0.733, 0.146, 0.453], [0.854, 0.587, 0.119],
                    [0.267, 0.413, 0.214], [0.146, 0.733, 0.547], [0.587, 0.854, 0.881],
                ],
                [14] * 3 + [8] * 6,
            )
        )
    )  # fmt: skip
    number, positions = occupation(quartz)
    assert number in {152, 154}
    assert positions == "a:Si c:O"
    for crystal in (quartz, KNOWN["NaCl"]):
        turned = to_structure(crystal).make_supercell([[2, 0, 0], [1, 1, 0], [0, 0, 1]], in_place=False)
        turned.translate_sites(range(len(turned)), [0.13, 0.4, 0.25])
        assert occupation(from_structure(turned)) == occupation(crystal)
    assert occupation(KNOWN["NaCl"]) == (225, "a:Cl b:Na")
    assert occupation(Crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [6])) is None


def test_nearest_phases_of_an_empty_reference():
    nearest = NearestPhases(PackedPhases(Phases(()), []))
    assert nearest.by_composition(((6, 1),)) is None
    assert nearest.by_structure(KNOWN["Fe"]) is None
