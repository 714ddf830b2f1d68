from __future__ import annotations

import pytest
import yaml

from heliodor.core.campaign import json_schema, load_campaign, parse_campaign
from heliodor.core.elements import parse_formula
from heliodor.core.errors import InputError
from heliodor.core.settings import load_settings
from heliodor.flows.new import GENERATORS, campaign_text


def content(**changes):
    return {"name": "t", "space": {"elements": "Li-Ti-O"}, "generator": {"kind": "random"}, **changes}


@pytest.mark.parametrize("generator", GENERATORS)
def test_new_writes_a_valid_file(generator):
    text = campaign_text("mine", ("Li", "O", "Ti"), generator, "mine.yaml")
    campaign = parse_campaign(yaml.safe_load(text))
    assert campaign.generator.kind == generator
    assert campaign.space.elements == ("Li", "O", "Ti")


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"spce": {}}, "spce", "did you mean 'space'"),
        ({"generator": {"kind": "subst"}}, "generator.kind", "'substitution'"),
        ({"generator": {}}, "generator", "substitution, random, files, plugin"),
        ({"relaxer": {"kind": "chgnet", "fmx": 1}}, "relaxer.fmx", "did you mean 'fmax'"),
        ({"relaxer": {"kind": "chgnet", "fmax": -1}}, "relaxer.fmax: got -1", "greater than 0"),
        ({"budget": {"candidates": "many"}}, "budget.candidates: got 'many'", "integer"),
        ({"space": {"elements": ["Li", "Xx"]}}, "space.elements", "no such element: 'Xx'"),
        ({"space": {"elements": "li-o"}}, "space.elements", "did you mean Li, O?"),
        ({"space": {"formula": "Li2(O"}}, "space.formula", "not a chemical formula"),
        ({"space": {"formula": "LiO", "elements": "Li-Ti"}}, "space", "outside of elements"),
        ({"generator": {"kind": "random", "spacegroups": [231]}}, "generator.spacegroups", "1 to 230"),
        ({"dft": {"kind": "vasp", "maker": "RelaxMaker"}}, "dft.maker", "MPGGADoubleRelaxStaticMaker"),
        ({"name": "../x"}, "name: got '../x'", "pattern"),
    ],
)
def test_each_fault_names_path_value_and_what_is_allowed(changes, path, said):
    with pytest.raises(InputError) as caught:
        parse_campaign(content(**changes))
    assert path in str(caught.value)
    assert said in str(caught.value)


def test_all_faults_are_listed_at_once():
    with pytest.raises(InputError) as caught:
        parse_campaign(content(seed=-1, budget={"candidates": 0}))
    assert "seed" in str(caught.value)
    assert "budget.candidates" in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b", "name: [", "", "42"])
def test_what_is_no_campaign_file(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        load_campaign(path)


def test_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(InputError, match="heliodor new"):
        load_campaign(tmp_path / "none.yaml")


def test_binary_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot read"):
        load_campaign(path)


def test_science_digest_follows_what_decides_results():
    base = parse_campaign(content()).science_digest()
    assert parse_campaign(content(budget={"candidates": 7})).science_digest() == base
    assert parse_campaign(content(relaxer={"kind": "chgnet", "time_limit": 9})).science_digest() == base
    assert parse_campaign(content(seed=1)).science_digest() != base
    assert parse_campaign(content(relaxer={"kind": "chgnet", "fmax": 0.01})).science_digest() != base


def test_schema_names_every_generator():
    kinds = {
        d["properties"]["kind"]["const"]
        for d in json_schema()["$defs"].values()
        if "kind" in d.get("properties", {})
    }
    assert {
        "substitution",
        "random",
        "files",
        "plugin",
        "chgnet",
        "sevennet",
        "embedded",
        "vasp",
    } <= kinds


def test_formula_is_reduced():
    assert parse_formula("Li2Fe2P2O8") == (("Fe", 1), ("Li", 1), ("O", 4), ("P", 1))
    with pytest.raises(ValueError, match="whole numbers"):
        parse_formula("Li0.5O")


def test_settings_name_the_variable(monkeypatch):
    monkeypatch.setenv("HELIODOR_WORKERS", "none")
    with pytest.raises(InputError, match="HELIODOR_WORKERS: got 'none'"):
        load_settings()


def test_key_is_secret(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    settings = load_settings()
    assert "k" * 32 not in repr(settings)
    assert settings.mp_api_key is not None
    assert settings.mp_api_key.get_secret_value() == "k" * 32
