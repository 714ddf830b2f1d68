"""Forms, deployments and automations, as far as they need no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import ValidationError, validate

from heliodor.core.campaign import parse_campaign
from heliodor.core.errors import InputError
from heliodor.deployments.register import FORM, Plan, forms, of_campaign
from heliodor.flows.parameters import campaign_folder

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "name": "tiny",
    "space": {"elements": ["Na", "Cl"]},
    "generator": {"kind": "substitution"},
}


def schemas() -> dict[str, dict[str, Any]]:
    return {d.flow_name: d._parameter_openapi_schema.model_dump_for_openapi() for d in forms()}


def test_every_field_of_every_form_explains_itself():
    for flow, schema in schemas().items():
        for name, field in schema["properties"].items():
            assert "$ref" in field or field["description"], (flow, name)
        for model, definition in schema.get("definitions", {}).items():
            for name, field in definition["properties"].items():
                nested = "$ref" in field or "anyOf" in field  # shows the section's own words
                assert nested or field.get("description"), (flow, model, name)


def test_choices_are_filled_in_and_named_after_their_kind():
    definitions = schemas()["discover"]["definitions"]
    campaign = definitions["Campaign"]["properties"]
    for section in ("generator", "relaxer", "reference", "dft"):
        kinds = [r["$ref"].rsplit("/", 1)[1] for r in campaign[section]["anyOf"]]
        assert len(kinds) >= 4
        for kind in kinds:
            const = definitions[kind]["properties"]["kind"]
            assert const["default"] == const["const"] == definitions[kind]["title"]
    assert "oneOf" not in str(definitions), (
        "the first of Prefect's user interfaces shows it as plain JSON"
    )


def test_the_server_refuses_what_is_out_of_bounds():
    schema = schemas()["discover"]
    validate({"campaign": TINY, "rounds": 3}, schema)
    whole = parse_campaign(TINY).model_dump(mode="json")
    validate({"campaign": whole, "rounds": None, "attempts": 2, "folder": None}, schema)
    for wrong in (
        {"campaign": {**TINY, "space": {"max_atoms": 0}}},
        {"campaign": {**TINY, "generator": {"kind": "magic"}}},
        {"campaign": {**TINY, "budgte": {}}},
        {"campaign": TINY, "rounds": 0},
        {"rounds": 1},
    ):
        with pytest.raises(ValidationError):
            validate(wrong, schema, raise_on_error=True)


def test_what_only_we_can_see_is_said_before_work_with_the_value():
    from heliodor.flows.discover import discover

    with pytest.raises(InputError) as caught:
        discover.fn({**TINY, "space": {"elements": ["Na", "Cq"]}}, rounds=0, attempts="many")
    said = str(caught.value)
    assert "campaign:\n  space.elements: got" in said
    assert "Cq" in said
    assert "rounds: got 0;" in said
    assert "attempts: got 'many';" in said


def test_folders_begin_in_the_runs_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HELIODOR_RUNS", str(tmp_path))
    assert campaign_folder(None, "tiny") == tmp_path / "tiny"
    assert campaign_folder("a/b", "tiny") == tmp_path / "a/b"
    assert campaign_folder("/x", "tiny") == Path("/x")
    monkeypatch.delenv("HELIODOR_RUNS")
    assert campaign_folder("b", "tiny") == Path.cwd() / "runs/b"
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "some")
    with pytest.raises(InputError, match="relative path in a deployment's run"):
        campaign_folder("b", "tiny")


def test_a_campaign_becomes_a_deployment_of_its_name(tmp_path):
    plan = Plan(tmp_path / "f", rounds=2, cron="0 22 * * *", timezone="Europe/Berlin")
    made = of_campaign(parse_campaign(TINY), plan)
    assert made.full_name == "discover/tiny"
    assert made.parameters["folder"] == str(tmp_path / "f")
    assert made.parameters["rounds"] == 2
    assert parse_campaign(made.parameters["campaign"]) == parse_campaign(TINY)
    assert made.concurrency_limit == 1
    assert made.concurrency_options is not None
    assert made.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert set(made.tags) == {"heliodor", "tiny"}
    [schedule] = made.schedules or []
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 22 * * *", "Europe/Berlin")  # type: ignore[union-attr]


def test_the_form_of_a_campaign_opens_at_its_own_choices():
    """Prefect's form: the choice that has most of the value's keys, the first of several."""
    changes = {"relaxer": {"kind": "none"}, "dft": {"kind": "gpaw"}, "reference": {"kind": "mp"}}
    changes |= {"generator": {"kind": "random"}}
    for wanted in (changes, {"relaxer": {"kind": "sevennet"}}):
        made = of_campaign(parse_campaign({**TINY, **wanted}), Plan())
        definitions = made._parameter_openapi_schema.definitions
        for section, choice in wanted.items():
            value = made.parameters["campaign"][section]
            opened = max(  # the first of equals
                definitions["Campaign"]["properties"][section]["anyOf"],
                key=lambda c: len(value.keys() & definitions[c["$ref"].rsplit("/", 1)[1]]["properties"]),
            )
            name = opened["$ref"].rsplit("/", 1)[1]
            assert definitions[name]["properties"]["kind"]["const"] == choice["kind"]


@pytest.mark.parametrize(
    ("changes", "plan", "said"),
    [
        ({}, Plan(cron="0 22 * *"), r"cron: got '0 22 \* \*'"),
        ({}, Plan(cron="0 22 * * *", timezone="Mars"), "timezone: got 'Mars'"),
        ({"name": FORM}, Plan(), "choose another"),
        ({"generator": {"kind": "files", "paths": ["/a", "b"]}}, Plan(), "generator.paths.1: got 'b'"),
        ({"reference": {"kind": "file", "path": "r.json"}}, Plan(), "reference.path: got 'r.json'"),
    ],
)
def test_what_cannot_be_deployed(changes, plan, said):
    with pytest.raises(InputError, match=said):
        of_campaign(parse_campaign({**TINY, **changes}), plan)


def test_the_yaml_file_names_the_same_flows_and_its_campaign_is_one():
    content = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    written = {d["entrypoint"] for d in content["deployments"] if d["name"] == FORM}
    assert written == {d.entrypoint for d in forms()}
    for entrypoint in written:
        assert ":" not in entrypoint, "Prefect takes that for a file, and copies its folder"
        load_flow_from_entrypoint(entrypoint)
    [example] = [d for d in content["deployments"] if d["name"] != FORM]
    validate(example["parameters"], schemas()["discover"])
    assert parse_campaign(example["parameters"]["campaign"]).name == example["name"]
