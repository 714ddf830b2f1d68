"""The DFT engines that a campaign file can name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .relaxers import PotentialName
from .section import BY_KIND, PluginChoice, Section


class DftRun(Section):
    """Whether and how calculations are run by the campaign itself."""

    run: bool = Field(
        default=True,
        description="Run the calculations on this machine and judge the crystals by them; false: only"
        " write them.",
    )
    time_limit: float = Field(
        default=3600, gt=0, description="Seconds per calculation, all attempts together."
    )
    attempts: int = Field(
        default=3, ge=1, le=10, description="How often a calculation that can be mended is run."
    )
    max_atoms: int = Field(default=40, ge=1, description="Larger cells are not computed.")
    approval: bool = Field(
        default=False,
        description="Wait for a person's yes to the shortlist and its cost before DFT runs.",
    )


class AbinitChoice(DftRun):
    """ABINIT by atomate2's Makers: PBE, on a hull of its own (X. Gonze et al., CPC 248 (2020))."""

    kind: Literal["abinit"]
    pseudopotentials: str = Field(
        default="auto",
        description="A folder of PBE pseudopotentials; auto: gpaw-data's PAW sets where installed, else"
        " those of Debian's abinit-data.",
    )
    kpoint_density: float = Field(
        default=1000, gt=0, description="k-points times atoms in the cell (as in pymatgen)."
    )
    cutoff: float | None = Field(
        default=None, gt=0, description="Plane-wave cutoff in eV; empty: from convergence hints."
    )
    command: str | None = Field(default=None, description="The program; empty: abinit on the PATH.")


class GpawChoice(DftRun):
    """GPAW by atomate2's ASE Makers: PBE, plane waves, on a hull of its own."""

    kind: Literal["gpaw"]
    kpoint_density: float = Field(
        default=1000, gt=0, description="k-points times atoms in the cell (as in pymatgen)."
    )
    cutoff: float = Field(default=700, gt=0, description="Plane-wave cutoff in eV.")


class MlipDftChoice(DftRun):
    """A potential in DFT's place, in the same Flows: a dry run of a whole campaign."""

    kind: Literal["mlip"]
    potential: PotentialName = Field(default="chgnet", description="Which one.")


class VaspChoice(DftRun):
    """VASP inputs and atomate2 Flows with the Materials Project's settings."""

    kind: Literal["vasp"]
    maker: Literal[
        "MPGGADoubleRelaxStaticMaker",
        "MPGGAStaticMaker",
        "MPGGARelaxMaker",
        "MP24DoubleRelaxStaticMaker",
    ] = Field(
        default="MPGGADoubleRelaxStaticMaker",
        description="atomate2 Maker: MPGGA for the GGA/GGA+U hull, MP24 (r2SCAN) for the R2SCAN hull.",
    )
    run: bool = Field(
        default=False,
        description="Run the calculations on this machine (a VASP licence); false: only write them.",
    )
    max_atoms: int = Field(default=200, ge=1, description="Larger cells are not computed.")


class NoDftChoice(Section):
    """Stop after the hull."""

    kind: Literal["none"]


DftChoice = Annotated[
    AbinitChoice | GpawChoice | MlipDftChoice | VaspChoice | NoDftChoice | PluginChoice,
    BY_KIND,
]
