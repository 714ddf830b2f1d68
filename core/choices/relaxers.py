"""The potentials that a campaign file can name, and how they relax."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from ..elements import parse_elements
from ..errors import InputError
from ..schemes import Corrections
from .section import BY_KIND, PluginChoice, Section

PotentialName = Literal["chgnet", "sevennet", "sevennet-mf-pbe", "sevennet-mf-r2scan"]


class FirstStage(Section):
    """A cheaper potential that relaxes before, to looser thresholds.

    CHGNet before SevenNet-0, with these thresholds: 20 % less CPU time for 14 noisy crystals of the
    Materials Project, 27 % for 14 generated ones; of the 28, 2 ended in a lower minimum and 3 in a
    higher one (by more than 1 meV/atom).
    """

    potential: PotentialName = Field(description="Which one.")
    fmax: float = Field(default=0.1, gt=0, le=1, description="Force threshold in eV/angstrom.")
    smax: float = Field(default=0.01, gt=0, le=1, description="Stress threshold in eV/angstrom^3.")
    max_steps: int = Field(default=100, ge=1, le=100_000, description="Optimiser steps per crystal.")


def _first(value: Any) -> Any:
    return {"potential": value} if isinstance(value, str) else value


def _off(value: Any) -> Any:
    return None if value is False or value == "off" else value  # YAML reads a bare `off` as false


class MlipChoice(Section):
    """Settings that every machine-learned potential shares."""

    fmax: float = Field(default=0.05, gt=0, le=1, description="Force threshold in eV/angstrom.")
    smax: float = Field(default=0.003, gt=0, le=1, description="Stress threshold in eV/angstrom^3.")
    max_steps: int = Field(default=300, ge=0, le=100_000, description="Optimiser steps per crystal.")
    time_limit: float = Field(default=120, gt=0, description="Seconds per crystal.")
    memory_limit_gb: float = Field(default=6, gt=0, description="Memory per worker process, in GB.")
    max_atoms: int = Field(default=200, ge=1, description="Larger cells are not relaxed.")
    max_supercell_atoms: int = Field(
        default=2000, ge=1, description="Larger cells are not evaluated (phonons, elastic constants)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: the GPU where there is one, else one process per core."
    )
    first: Annotated[FirstStage | None, BeforeValidator(_first)] = Field(
        default=None,
        title="First",
        description="Relax with a cheaper potential before, for example first: chgnet. If it fails, the"
        " crystal is relaxed from its start.",
    )
    early_stop: Annotated[float | None, BeforeValidator(_off)] = Field(
        default=None,
        ge=0,
        description="off, or eV/atom: give up crystals that are heading for so far above the hull. 0.5"
        " saves a tenth of the evaluations and loses 0 to 3 % of the crystals near the hull.",
    )


class ChgnetChoice(MlipChoice):
    """CHGNet 0.3.0 (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)); weights in its package."""

    kind: Literal["chgnet"]
    potential: ClassVar[PotentialName] = "chgnet"


class SevennetChoice(MlipChoice):
    """SevenNet-0 (Park et al., J. Chem. Theory Comput. 20, 4857 (2024)); weights in its package."""

    kind: Literal["sevennet"]
    potential: ClassVar[PotentialName] = "sevennet"


class SevennetMfChoice(MlipChoice):
    """SevenNet-MF-0, trained on PBE and r2SCAN (Kim et al., J. Am. Chem. Soc. 147, 1042 (2025))."""

    kind: Literal["sevennet-mf"]
    channel: Literal["pbe", "r2scan"] = Field(
        default="pbe",
        description="Whose energies. Those of r2scan cannot stand on the Materials Project's GGA hull.",
    )

    @property
    def potential(self) -> PotentialName:
        """The channel is a potential of its own."""
        return "sevennet-mf-pbe" if self.channel == "pbe" else "sevennet-mf-r2scan"


class AseChoice(MlipChoice):
    """Any ASE calculator with energy, forces and stress. It lives in the worker processes."""

    kind: Literal["ase"]
    potential: ClassVar[Literal["ase"]] = "ase"
    calculator: str = Field(
        min_length=1,
        description="A name of the entry-point group heliodor.calculators, or module:factory.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the factory; where it computes, too."
    )
    model: str = Field(min_length=1, description="Name and version of the potential, for the records.")
    elements: tuple[str, ...] | None = Field(
        default=None, description="Elements that it knows; empty: it is asked for any."
    )
    corrections: Corrections = Field(
        description="How its energies come to the Materials Project's scheme: they include the MP2020"
        " corrections, MP2020 must be added, or never (a scheme of its own).",
    )
    cutoff: float = Field(
        default=6.0, gt=0, le=20, description="Angstrom: an atom without a neighbour within it is lost."
    )
    energies: tuple[float, float] = Field(
        default=(-100.0, 10.0), description="eV/atom: lowest and highest that a crystal can have."
    )
    device: Literal["cpu"] = Field(
        default="cpu", description="One process per core; a calculator on a GPU says so in its options."
    )

    @field_validator("elements")
    @classmethod
    def _elements(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if value is None else parse_elements(value)
        except InputError as error:
            raise ValueError(str(error)) from error


class NoRelaxerChoice(Section):
    """Judge crystals as they are, without energies."""

    kind: Literal["none"]


RelaxerChoice = Annotated[
    ChgnetChoice | SevennetChoice | SevennetMfChoice | AseChoice | NoRelaxerChoice | PluginChoice,
    BY_KIND,
]


def relaxation_settings(choice: RelaxerChoice) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the minimum that a relaxation finds, and what decides whether it finds one."""
    content = choice.model_dump(mode="json")
    for name in ("device", "early_stop", "max_supercell_atoms"):  # nothing of a minimum
        content.pop(name, None)
    names: tuple[str, ...] = ("time_limit", "memory_limit_gb", "max_atoms")
    return content, {name: content.pop(name) for name in names if name in content}
