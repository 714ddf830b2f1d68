"""`heliodor train-synthesis`: from tables to a model."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from heliodor import cli
from heliodor.core.errors import InputError
from heliodor.flows.synthesis import SynthesisOptions, train_synthesis
from heliodor.validators.boosting import Settings
from heliodor.validators.synthesis import load_model
from heliodor.validators.synthesis_training import TrainingOptions


def table(path, formulas):
    """A structure table of crystals with these atomic numbers, in a cubic cell."""
    rows = [
        {
            "material_id": f"t-{i}",
            "formation_energy_per_atom": -1.0,
            "atomic_numbers": numbers,
            "frac_coords": np.linspace(0, 0.9, 3 * len(numbers)).tolist(),
            "lattice": (np.eye(3) * 8).ravel().tolist(),
        }
        for i, numbers in enumerate(formulas)
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture
def known(tmp_path):
    """Halides, oxides and chalcogenides of 1:1, 160 compositions."""
    pairs = [[a, b] for a in range(19, 31) for b in (8, 9, 16, 17, 34, 35, 52, 53)]
    more = [[a, a, b] for a in range(37, 45) for b in (8, 9, 16, 17, 34, 35, 52, 53)]
    return table(tmp_path / "known.parquet", pairs + more)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["heliodor", "train-synthesis", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


def test_the_command_trains_and_tells_what_it_measured(known, tmp_path, monkeypatch, capsys):
    generated = table(tmp_path / "generated.parquet", [[a, a, a, 8] for a in range(57, 72)])
    out = tmp_path / "model.npz"
    few = ("--bags", 1, "--trees", 3, "--folds", 2)
    code, said, _ = run(
        monkeypatch, capsys, known, "--out", out, "--unlabelled", generated, *few, "--json"
    )
    assert code == 0
    told = json.loads(said)
    assert told["known"] == 160
    assert told["unlabelled"]["given"] == 15
    assert set(told["measured"]["called_by_kind"]) == {
        "swap", "fill", "recount", "amounts", "random", "given",
    }  # fmt: skip
    assert "not negative" in told["message"]
    model = load_model(out)
    assert model.card["tables"] == ["known.parquet"]
    assert model.knows([((8, 1), (20, 1))]).all()
    assert not model.knows([((8, 1), (57, 3))]).any()


def test_given_crystals_alone_are_enough_and_known_ones_do_not_count(known, tmp_path):
    generated = table(
        tmp_path / "g.parquet", [[z, z, z, x] for z in range(55, 80) for x in (7, 8, 9, 15)]
    )
    few = TrainingOptions(bags=1, fold_bags=1, folds=2, forest=Settings(2, 2))
    found = train_synthesis(
        [known],
        tmp_path / "m.npz",
        SynthesisOptions(0, few),
        unlabelled=[generated, known],
        console=Console(),
    )
    assert found["unlabelled"] == {"given": 100}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "model.pkl"), "ending in .npz"),
        (("--out", "no/folder/model.npz"), "no folder that can be written"),
        (("--out", "m.npz", "--bags", "0"), "bags: got 0"),
        (("--out", "m.npz", "--folds", "1"), "folds: got 1"),
        (("--out", "m.npz", "--hypothetical", "-1"), "expected 0 to 10"),
        (("--out", "m.npz", "--unlabelled", "nowhere.cif"), "nowhere.cif"),
    ],
)
def test_bad_input_is_said_before_work(known, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, known, *arguments)
    assert code == 2
    assert said in err
    assert not list(tmp_path.glob("*.npz"))


def test_too_few_known_ones(tmp_path):
    few = table(tmp_path / "few.parquet", [[11, 17], [12, 8]])
    with pytest.raises(InputError, match="2 different compositions are known, expected at least 100"):
        train_synthesis([few], tmp_path / "m.npz", SynthesisOptions(), console=Console())
