"""What the sections of a campaign file share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _of_its_kind(schema: dict[str, Any]) -> None:
    """A form shows a choice under its kind, and fills the kind in."""
    kind = schema.get("properties", {}).get("kind", {})
    if "const" in kind:
        schema["title"] = kind["default"] = kind["const"]
        kind["description"] = "Stays as it is."


def _any_of(schema: dict[str, Any]) -> None:
    """Prefect's forms know anyOf, and not oneOf. With a kind in each choice both mean the same."""
    schema["anyOf"] = schema.pop("oneOf")


BY_KIND: Any = Field(discriminator="kind", json_schema_extra=_any_of)
"""For a union of sections, each with a `kind` of its own."""


class Section(BaseModel):
    """A mapping in the campaign file: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_of_its_kind)


class PluginChoice(Section):
    """A third party's class, registered under the entry-point group heliodor.plugins."""

    kind: Literal["plugin"]
    name: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for it.")
