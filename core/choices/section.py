"""What the sections of a campaign file share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A mapping in the campaign file: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginChoice(Section):
    """A third party's class, registered under the entry-point group heliodor.plugins."""

    kind: Literal["plugin"]
    name: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for it.")
