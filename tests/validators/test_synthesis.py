"""The synthesizability model: training, its numbers, its file, and what the one that ships says."""

import json

import numpy as np
import pytest
from pymatgen.core import Composition

from heliodor.core.campaign import Review
from heliodor.core.crystal import Crystal
from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.errors import InputError, StorageError
from heliodor.core.records import Judged
from heliodor.generators.hypothetical import Kind, hypothetical
from heliodor.validators.boosting import Settings
from heliodor.validators.synthesis import feature_names, features, load_model
from heliodor.validators.synthesis_training import (
    TrainingOptions,
    average_precision,
    measures,
    roc_area,
    train,
)
from heliodor.validators.synthesizability import Synthesizability


def of(formula):
    amounts = Composition(formula).reduced_composition.get_el_amt_dict()
    return tuple(sorted((ATOMIC_NUMBERS[s], int(n)) for s, n in amounts.items()))


@pytest.fixture(scope="module")
def data():
    """Every 24th known composition, and as many hypothetical ones of two kinds."""
    from heliodor.validators.reference_embedded import EmbeddedReference

    phases = EmbeddedReference().known
    known = sorted({phases.composition(row) for row in phases.distinct()[::24].tolist()})
    draw, taken, others = np.random.default_rng(0), set(known), {}
    for kind in (Kind.SWAP, Kind.RANDOM):
        others[kind.value] = hypothetical(known, kind, len(known) // 2, draw, taken)
        taken.update(others[kind.value])
    return known, others


OPTIONS = TrainingOptions(bags=2, folds=2, fold_bags=1, forest=Settings(15, 4, 0.3))


@pytest.fixture(scope="module")
def model(data):
    return train(*data, OPTIONS)


def test_left_out_systems_are_told_from_random_ones_better_than_from_swaps(model, data):
    found = model.card["measured"]
    assert found["roc_area_by_kind"]["random"] > 0.9
    assert 0.6 < found["roc_area_by_kind"]["swap"] < found["roc_area_by_kind"]["random"]
    assert found["recall"] > 2 * found["called_by_kind"]["random"]
    assert model.card["known"] == len(data[0])
    json.dumps(model.card)


def test_same_seed_same_model(model, data):
    again = train(*data, OPTIONS)
    assert again.card == model.card
    assert (again.score(data[0][:50]) == model.score(data[0][:50])).all()


def test_it_remembers_what_was_known(model, data):
    assert model.knows(data[0]).all()
    assert not model.knows(data[1]["swap"]).any()


def test_a_file_gives_back_the_model(model, data, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    loaded = load_model(path)
    assert (loaded.score(data[0][:50]) == model.score(data[0][:50])).all()
    assert loaded.card["measured"] == model.card["measured"]
    with np.load(path, allow_pickle=False) as content:  # no pickle inside
        assert set(content.files) == {"card", "feature", "threshold", "leaf", "known"}


def test_wrong_and_damaged_files_are_refused(model, tmp_path):
    for name, content in (("empty.npz", b""), ("text.npz", b"no model"), ("zip.npz", b"PK\x03\x04 cut")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="no synthesizability model"):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(InputError, match="of this version"):
        load_model(tmp_path / "other.npz")
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as whole:
        content = dict(whole)
    content["leaf"] = content["leaf"] + np.float16(1)
    np.savez(tmp_path / "changed.npz", **content)
    with pytest.raises(StorageError, match="checksum"):
        load_model(tmp_path / "changed.npz")
    with pytest.raises(StorageError, match="cannot write"):
        model.save(tmp_path / "no" / "folder.npz")


def test_too_little_to_learn_from(data):
    with pytest.raises(InputError, match="at least 100"):
        train(data[0][:20], data[1], OPTIONS)
    with pytest.raises(InputError, match="folds: got 1"):
        TrainingOptions(folds=1)


def test_features_are_finite_and_named():
    compositions = [of(f) for f in ("NaCl", "NiAl", "HeO2", "Fe3O4", "Si")] + [((92, 1), (118, 7))]
    found = features(compositions)
    assert found.shape == (6, len(feature_names()))
    assert np.isfinite(found).all()
    assert found[:, feature_names().index("neutral")].tolist() == [1, 0, -1, 1, 0, -1]
    assert features([]).shape == (0, len(feature_names()))


def test_areas_are_those_of_all_pairs():
    draw = np.random.default_rng(0)
    positive, other = draw.normal(0.7, 1, 60).round(1), draw.normal(0, 1, 90).round(1)
    pairs = np.subtract.outer(positive, other)
    assert roc_area(positive, other) == pytest.approx(
        ((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-4
    )
    precision = [(positive >= p).sum() / ((positive >= p).sum() + (other >= p).sum()) for p in positive]
    assert average_precision(positive, other) == pytest.approx(np.mean(precision), abs=1e-4)


def test_measures_count():
    kinds = np.array(["known"] * 4 + ["a"] * 2 + ["b"] * 2)
    found = measures(np.array([0.9, 0.8, 0.6, 0.2, 0.7, 0.1, 0.3, 0.2]), kinds)
    assert found["recall"] == 0.75
    assert found["called"] == 0.25
    assert found["called_by_kind"] == {"a": 0.5, "b": 0.0}
    assert found["curve"][6] == {"threshold": 0.7, "recall": 0.5, "called": 0.0}


# --- the model that ships ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return load_model()


@pytest.mark.parametrize(
    "formula", ["LiCoO2", "Li6PS5Cl", "Cs3Cu2I5", "CuInSe2", "Li3YCl6", "Ti3SiC2", "BaZrS3"]
)
def test_made_compositions_that_it_never_saw_score_high(shipped, formula):
    assert not shipped.knows([of(formula)])[0]
    assert shipped.score([of(formula)])[0] > 0.7


@pytest.mark.parametrize("formula", ["HeO2", "Li7F", "FeNe", "K9Cl", "AlO", "He3Cl", "Na3Mg7F", "AuXe5"])
def test_absurd_compositions_score_low(shipped, formula):
    assert shipped.score([of(formula)])[0] < 0.4


def test_sodium_trichloride_is_told_as_seen(shipped):
    """Made under pressure (Zhang et al., Science 342, 1502 (2013)); in the table, and yet low."""
    assert shipped.knows([of("NaCl3")])[0]
    assert shipped.score([of("NaCl3")])[0] < shipped.score([of("NaCl")])[0] - 0.3


def test_a_score_does_not_depend_on_the_batch(shipped, data):
    alone = [shipped.score([c])[0] for c in data[0][:10]]
    assert (shipped.score(data[0][:500])[:10] == alone).all()


def test_columns(mgo):
    rows = Synthesizability().score([Judged(mgo.digest, mgo)] * 2)
    assert rows[0] == rows[1]
    assert set(rows[0]) == {c.name for c in Synthesizability.columns}
    assert 0 < rows[0]["synthesizability"] < 1
    assert type(rows[0]["synthesis_known"]) is bool
    every = [Judged("k", Crystal(np.eye(3) * 3, [[0, 0, 0]], [z])) for z in range(1, 119)]
    assert len(Synthesizability().score(every)) == 118
    assert Synthesizability().score([]) == []


def test_a_campaign_names_another_model(model, tmp_path, data):
    from heliodor.flows.scorers import build_scorers
    from heliodor.validators.reference_embedded import EmbeddedReference

    path, reference = tmp_path / "own.npz", EmbeddedReference()
    model.save(path)
    own = next(
        s
        for s in build_scorers(Review(synthesis_model=str(path)), reference)
        if s.name == "synthesizability"
    )
    crystal = Crystal(np.eye(3) * 4, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    expected = model.score([crystal.reduced_composition])[0]
    assert own.score([Judged("k", crystal)])[0]["synthesizability"] == expected
    with pytest.raises(InputError, match="cannot be read"):
        build_scorers(Review(synthesis_model=str(tmp_path / "none.npz")), reference)
