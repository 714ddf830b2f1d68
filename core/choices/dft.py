"""The DFT engines that a campaign file can name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .section import PluginChoice, Section


class VaspChoice(Section):
    """VASP inputs and atomate2 Flows with the Materials Project's settings."""

    kind: Literal["vasp"]
    maker: Literal["MPGGADoubleRelaxStaticMaker", "MPGGAStaticMaker", "MPGGARelaxMaker"] = Field(
        default="MPGGADoubleRelaxStaticMaker",
        description="atomate2 Maker; these give energies for the GGA/GGA+U hull.",
    )


class NoDftChoice(Section):
    """Stop after the hull."""

    kind: Literal["none"]


DftChoice = Annotated[VaspChoice | NoDftChoice | PluginChoice, Field(discriminator="kind")]
