"""The generators that a campaign file can name, and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .section import BY_KIND, PluginChoice, Section


def _groups(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= g <= 230 for g in value):
        raise ValueError("space groups are numbers from 1 to 230")
    return value


SpaceGroups = Annotated[tuple[int, ...], AfterValidator(_groups)]
CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]


class PlanarChoice(Section):
    """A planar lattice of one element that is held while the rest is generated (SCIGEN)."""

    lattice: str = Field(description="triangular, honeycomb, kagome, square, lieb, ...")
    element: str = Field(description="The element on it.")
    bond_length: float | None = Field(
        default=None, gt=0, description="Angstrom; empty: twice the metallic radius."
    )


class AroundChoice(Section):
    """Explore around known crystals: they are noised part of the way and denoised again."""

    paths: tuple[str, ...] = Field(min_length=1, description="Files of the crystals to start from.")
    level: float = Field(default=0.5, gt=0, le=1, description="0: stays; 1: forgets them.")
    keep_elements: bool = Field(default=False, description="Keep the element of each atom.")


class DiffusionChoice(Section):
    """Heliodor's diffusion model of crystals."""

    kind: Literal["diffusion"]
    weights: str | None = Field(default=None, description="A checkpoint; empty: the one that ships.")
    mode: Literal["fast", "quality"] = Field(
        default="fast", description="quality: three times the steps, with noise between them."
    )
    symmetric: bool = Field(
        default=True, description="Make crystals within the space groups and orbits of known ones."
    )
    symmetrize: bool = Field(
        default=False, description="Refine what is made to the space group found at 0.1 angstrom."
    )
    spacegroups: SpaceGroups = Field(default=(), description="Space groups; empty: all.")
    crystal_system: CrystalSystem | None = Field(default=None, description="Empty: all.")
    min_atoms: int = Field(default=1, ge=1, description="Smallest cell to propose.")
    n_elements: int | None = Field(default=None, ge=1, description="Exact number of elements.")
    charge_balanced: bool = Field(
        default=True,
        description="Where elements are given: only compositions that oxidation states can balance.",
    )
    properties: dict[str, float | tuple[float, float]] = Field(
        default_factory=dict, description="Targets, for example bulk_modulus: 200 or [150, 250]."
    )
    guidance: float = Field(default=2.0, ge=0, le=20, description="Weight of the property targets.")
    planar: PlanarChoice | None = Field(
        default=None, title="Planar", description="Hold a planar lattice of one element. Empty: none."
    )
    around: AroundChoice | None = Field(
        default=None, title="Around", description="Explore around known crystals. Empty: from noise."
    )
    batch: int | None = Field(default=None, ge=1, description="Crystals side by side.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to sample.")


class SubstitutionChoice(Section):
    """Known prototypes with species replaced by similar or charge-balanced ones."""

    kind: Literal["substitution"]
    prototypes: str = Field(
        default="aflow",
        description="'aflow' (pymatgen's prototype library) or a file of structures with them.",
    )
    charge_balanced: bool = Field(
        default=True, description="Keep only compositions that oxidation states can balance."
    )


class RandomChoice(Section):
    """Symmetric random crystals over space groups (PyXtal)."""

    kind: Literal["random"]
    spacegroups: SpaceGroups = Field(default=(), description="Space groups to draw from; empty: all.")
    charge_balanced: bool = Field(
        default=True, description="Keep only compositions that oxidation states can balance."
    )


class FilesChoice(Section):
    """Crystals from files: CIF, POSCAR, extxyz, pymatgen JSON, or a folder or zip of them."""

    kind: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or zip archives.")
    disorder: Literal["reject", "order"] = Field(
        default="reject",
        description="Partly occupied sites: reject the crystal, or order it (lowest Ewald energy).",
    )


GeneratorChoice = Annotated[
    DiffusionChoice | SubstitutionChoice | RandomChoice | FilesChoice | PluginChoice,
    BY_KIND,
]
