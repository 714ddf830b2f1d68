"""The references of known phases that a campaign file can name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from .section import BY_KIND, PluginChoice, Section

Energies = Annotated[
    Literal["reference", "own"],
    Field(description="own: energies of the known phases by the potential itself, not from DFT."),
]

ThermoType = Annotated[
    Literal["GGA_GGA+U", "R2SCAN"],
    Field(description="Whose energies: PBE with PBE+U and MP2020 corrections, or r2SCAN."),
]


class EmbeddedChoice(Section):
    """The table of Materials Project phases that ships with Heliodor."""

    kind: Literal["embedded"]
    energies: Energies = "reference"

    @field_validator("energies")
    @classmethod
    def _no_structures(cls, value: Energies) -> Energies:
        if value == "own":
            raise ValueError("the embedded table has no structures to compute; use kind: file or mp")
        return value


class MpChoice(Section):
    """The Materials Project by its API, kept in immutable snapshots (needs a key, once)."""

    kind: Literal["mp"]
    database_version: str | None = Field(
        default=None, description="Use the cached snapshot of this version; empty: the newest cached."
    )
    thermo_type: ThermoType = "GGA_GGA+U"
    energies: Energies = "reference"


class FileChoice(Section):
    """Your own structures with energies (Parquet, or JSON of ComputedStructureEntries)."""

    kind: Literal["file"]
    path: str = Field(description="The table.")
    energies: Energies = "reference"


ReferenceChoice = Annotated[EmbeddedChoice | MpChoice | FileChoice | PluginChoice, BY_KIND]
