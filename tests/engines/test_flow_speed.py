"""The means that makes many Flows fast: same answers, only inside its context, and guarded."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("jobflow")

from jobflow import Flow, job
from jobflow.core import reference
from pydantic import BaseModel

from heliodor.engines.flow_speed import cached_schema_access


class Inner(BaseModel):
    energy: float = 0.0


class Document(BaseModel):
    structure: str = ""
    inner: Inner = Inner()


@job(output_schema=Document)
def relax(structure):
    return Document(structure=structure)


def chain():
    first = relax("cell")
    second = relax(first.output.structure)
    return Flow([first, second], output=second.output.inner.energy)


def test_it_knows_the_installed_jobflow():
    assert list(inspect.signature(reference.validate_schema_access).parameters) == ["schema", "item"]


def test_same_answers_and_errors_inside(monkeypatch):
    original = reference.validate_schema_access
    with cached_schema_access():
        inside = reference.validate_schema_access
        assert inside is not original
        for field in ("structure", "inner"):
            assert inside(Document, field) == inside(Document, field) == original(Document, field)
        assert original(Document, "inner") == (True, Inner)
        for _ in range(2):
            with pytest.raises(AttributeError, match="no_such_field"):
                inside(Document, "no_such_field")


def test_the_schema_is_asked_once_per_field(monkeypatch):
    original, calls = reference.validate_schema_access, []

    def counted(schema, item):
        calls.append((schema, item))
        return original(schema, item)

    monkeypatch.setattr(reference, "validate_schema_access", counted)
    with cached_schema_access():
        flows = [chain() for _ in range(10)]
    assert sorted(item for _, item in calls) == ["energy", "inner", "structure"]
    assert len({f.uuid for f in flows}) == 10
    plain, cached = chain().output, flows[0].output
    assert (plain.attributes, plain.output_schema) == (cached.attributes, cached.output_schema)


def test_jobflow_is_itself_again_outside():
    original = reference.validate_schema_access
    with cached_schema_access(), cached_schema_access():
        pass
    assert reference.validate_schema_access is original
    with pytest.raises(RuntimeError), cached_schema_access():
        raise RuntimeError
    assert reference.validate_schema_access is original


def test_another_jobflow_is_left_as_it_is(monkeypatch):
    original = reference.validate_schema_access

    def changed(schema, item, strict=False):
        return original(schema, item)

    monkeypatch.setattr(reference, "validate_schema_access", changed)
    with cached_schema_access():
        assert reference.validate_schema_access is changed
        chain()
    monkeypatch.delattr(reference, "validate_schema_access")
    with cached_schema_access():
        assert not hasattr(reference, "validate_schema_access")
