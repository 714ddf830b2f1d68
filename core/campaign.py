"""The campaign file: one typed YAML document that says everything a campaign depends on."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from .elements import ATOMIC_NUMBERS, parse_elements
from .errors import InputError
from .records import Conditions
from .schemes import Corrections


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- what is asked for ---------------------------------------------------------------------------


class Space(_Section):
    """The part of chemistry to search."""

    elements: tuple[str, ...] = Field(
        default=(), description="Elements that may appear, as a list or as Li-Mn-O."
    )
    subsystems: bool = Field(
        default=False,
        description="Also propose crystals with only some of the elements (false: all must appear).",
    )
    formula: str | None = Field(
        default=None, description="One reduced formula to search polymorphs of, for example LiFePO4."
    )
    max_atoms: int = Field(default=20, ge=1, le=500, description="Largest cell to propose.")

    @field_validator("elements", mode="before")
    @classmethod
    def _elements(cls, value: Any) -> Any:
        try:
            return parse_elements(value) if value else ()
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("formula")
    @classmethod
    def _formula(cls, value: str | None) -> str | None:
        if value is not None:
            parse_formula(value)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Space:
        if self.formula and self.elements:
            outside = {s for s, _ in parse_formula(self.formula)} - set(self.elements)
            if outside:
                raise ValueError(f"formula {self.formula} has {sorted(outside)} outside of elements")
        return self

    def conditions(self) -> Conditions:
        """As the generators take it."""
        composition = parse_formula(self.formula) if self.formula else ()
        elements = tuple(sorted(s for s, _ in composition)) if composition else self.elements
        return Conditions(
            elements=elements,
            require_all=not self.subsystems,
            max_atoms=self.max_atoms,
            composition=composition,
        )


def parse_formula(text: str) -> tuple[tuple[str, int], ...]:
    """Reduced composition of a formula with whole numbers, as sorted (symbol, count) pairs.

    Raises:
        ValueError: not a formula, an unknown element, or fractional amounts.
    """
    from pymatgen.core import Composition

    try:
        amounts = Composition(text).get_el_amt_dict()
    except Exception as error:  # pymatgen raises several types for bad formulas
        raise ValueError(f"{text!r} is not a chemical formula: {error}") from error
    if not amounts or any(s not in ATOMIC_NUMBERS for s in amounts):
        raise ValueError(f"{text!r} is not a chemical formula of known elements")
    if any(abs(n - round(n)) > 1e-8 for n in amounts.values()):
        raise ValueError(f"{text!r} has fractional amounts; give whole numbers")
    reduced = Composition({s: round(n) for s, n in amounts.items()}).reduced_composition
    return tuple(sorted((s, int(n)) for s, n in reduced.get_el_amt_dict().items()))


# --- the rooms' choices --------------------------------------------------------------------------


def _groups(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= g <= 230 for g in value):
        raise ValueError("space groups are numbers from 1 to 230")
    return value


SpaceGroups = Annotated[tuple[int, ...], AfterValidator(_groups)]
CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]


class PlanarChoice(_Section):
    """A planar lattice of one element that is held while the rest is generated (SCIGEN)."""

    lattice: str = Field(description="triangular, honeycomb, kagome, square, lieb, ...")
    element: str = Field(description="The element on it.")
    bond_length: float | None = Field(
        default=None, gt=0, description="Angstrom; empty: twice the metallic radius."
    )


class AroundChoice(_Section):
    """Explore around known crystals: they are noised part of the way and denoised again."""

    paths: tuple[str, ...] = Field(min_length=1, description="Files of the crystals to start from.")
    level: float = Field(default=0.5, gt=0, le=1, description="0: stays; 1: forgets them.")
    keep_elements: bool = Field(default=False, description="Keep the element of each atom.")


class DiffusionChoice(_Section):
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
    planar: PlanarChoice | None = None
    around: AroundChoice | None = None
    batch: int | None = Field(default=None, ge=1, description="Crystals side by side.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to sample.")


class SubstitutionChoice(_Section):
    """Known prototypes with species replaced by similar or charge-balanced ones."""

    kind: Literal["substitution"]
    prototypes: str = Field(
        default="aflow",
        description="'aflow' (pymatgen's prototype library) or a file of structures with them.",
    )
    charge_balanced: bool = Field(
        default=True, description="Keep only compositions that oxidation states can balance."
    )


class RandomChoice(_Section):
    """Symmetric random crystals over space groups (PyXtal)."""

    kind: Literal["random"]
    spacegroups: SpaceGroups = Field(default=(), description="Space groups to draw from; empty: all.")
    charge_balanced: bool = Field(
        default=True, description="Keep only compositions that oxidation states can balance."
    )


class FilesChoice(_Section):
    """Crystals from files: CIF, POSCAR, extxyz, pymatgen JSON, or a folder or zip of them."""

    kind: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or zip archives.")
    disorder: Literal["reject", "order"] = Field(
        default="reject",
        description="Partly occupied sites: reject the crystal, or order it (lowest Ewald energy).",
    )


class PluginChoice(_Section):
    """A third party's class, registered under the entry-point group heliodor.plugins."""

    kind: Literal["plugin"]
    name: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for it.")


PotentialName = Literal["chgnet", "sevennet", "sevennet-mf-pbe", "sevennet-mf-r2scan"]


class FirstStage(_Section):
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


class MlipChoice(_Section):
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


class NoRelaxerChoice(_Section):
    """Judge crystals as they are, without energies."""

    kind: Literal["none"]


Energies = Annotated[
    Literal["reference", "own"],
    Field(description="own: energies of the known phases by the potential itself, not from DFT."),
]


class EmbeddedChoice(_Section):
    """The table of Materials Project phases that ships with Heliodor."""

    kind: Literal["embedded"]
    energies: Energies = "reference"

    @field_validator("energies")
    @classmethod
    def _no_structures(cls, value: Energies) -> Energies:
        if value == "own":
            raise ValueError("the embedded table has no structures to compute; use kind: file or mp")
        return value


class MpChoice(_Section):
    """The Materials Project by its API, kept in immutable snapshots (needs a key, once)."""

    kind: Literal["mp"]
    database_version: str | None = Field(
        default=None, description="Use the cached snapshot of this version; empty: the newest cached."
    )
    energies: Energies = "reference"


class FileChoice(_Section):
    """Your own structures with energies (Parquet, or JSON of ComputedStructureEntries)."""

    kind: Literal["file"]
    path: str = Field(description="The table.")
    energies: Energies = "reference"


class VaspChoice(_Section):
    """VASP inputs and atomate2 Flows with the Materials Project's settings."""

    kind: Literal["vasp"]
    maker: Literal["MPGGADoubleRelaxStaticMaker", "MPGGAStaticMaker", "MPGGARelaxMaker"] = Field(
        default="MPGGADoubleRelaxStaticMaker",
        description="atomate2 Maker; these give energies for the GGA/GGA+U hull.",
    )


class NoDftChoice(_Section):
    """Stop after the hull."""

    kind: Literal["none"]


GeneratorChoice = Annotated[
    DiffusionChoice | SubstitutionChoice | RandomChoice | FilesChoice | PluginChoice,
    Field(discriminator="kind"),
]
RelaxerChoice = Annotated[
    ChgnetChoice | SevennetChoice | SevennetMfChoice | AseChoice | NoRelaxerChoice | PluginChoice,
    Field(discriminator="kind"),
]
ReferenceChoice = Annotated[
    EmbeddedChoice | MpChoice | FileChoice | PluginChoice, Field(discriminator="kind")
]
DftChoice = Annotated[VaspChoice | NoDftChoice | PluginChoice, Field(discriminator="kind")]


class Screen(_Section):
    """What is valid, and when two crystals are the same."""

    charge_neutral: bool = Field(
        default=True, description="Require SMACT charge neutrality of compounds with a non-metal."
    )
    min_distance_ratio: float = Field(
        default=0.55,
        gt=0,
        le=1,
        description="Smallest distance as a share of the sum of covalent radii (0.5 angstrom at least).",
    )
    ltol: float = Field(default=0.2, gt=0, description="StructureMatcher: lattice length tolerance.")
    stol: float = Field(default=0.3, gt=0, description="StructureMatcher: site tolerance.")
    angle_tol: float = Field(default=5, gt=0, description="StructureMatcher: angle tolerance, degrees.")
    keep_rejected: bool = Field(
        default=False,
        description="Go on with duplicates and known crystals too (judge everything, drop nothing).",
    )


class Review(_Section):
    """What else is computed of each judged crystal. It adds columns and decides nothing."""

    scores: bool = Field(
        default=True,
        description="Composition, synthesis, supply and distance columns (milliseconds a crystal).",
    )
    within: float = Field(
        default=0.1,
        description="eV/atom above the hull: phonons and elasticity up to there only.",
    )
    phonons: bool = Field(default=False, description="Phonons by finite displacements (phonopy).")
    elastic: bool = Field(default=False, description="Elastic constants and the Born criteria.")
    potentials: tuple[PotentialName, ...] = Field(
        default=(),
        description="Second opinions on every energy above hull, for example [sevennet].",
    )
    synthesis_model: str | None = Field(
        default=None, description="A synthesizability model; empty: the one that ships."
    )
    protocol: Literal["heliodor", "mattergen", "lemat"] = Field(
        default="heliodor",
        description="Count by another evaluator's rules too, under its names (protocol.json).",
    )


class Select(_Section):
    """Which crystals become DFT jobs: SUN crystals, lowest energy above hull first."""

    max_energy_above_hull: float = Field(default=0.1, ge=0, description="eV/atom.")
    top: int = Field(default=10, ge=0, description="At most so many in the whole campaign.")


class Budget(_Section):
    """When to stop. The first limit that is reached ends the campaign, at the end of a round."""

    candidates: int = Field(default=100, ge=1, le=10_000_000, description="Crystals to propose.")
    round_size: int = Field(default=100, ge=1, le=100_000, description="Crystals per round.")
    hours: float | None = Field(default=None, gt=0, description="Wall-clock hours of one run.")
    sun: int | None = Field(default=None, ge=1, description="Stop when so many SUN crystals are found.")


class Campaign(_Section):
    """A discovery campaign."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Letters, digits, . _ -")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Same file and seed, same campaign.")
    space: Space = Space()
    generator: GeneratorChoice
    screen: Screen = Screen()
    relaxer: RelaxerChoice = ChgnetChoice(kind="chgnet")
    reference: ReferenceChoice = EmbeddedChoice(kind="embedded")
    review: Review = Review()
    select: Select = Select()
    dft: DftChoice = VaspChoice(kind="vasp")
    budget: Budget = Budget()

    @property
    def own_energies(self) -> bool:
        """Whether the known phases' energies are computed with the potential."""
        return getattr(self.reference, "energies", "reference") == "own"

    @model_validator(mode="after")
    def _energies_need_a_potential(self) -> Campaign:
        if self.own_energies and self.relaxer.kind == "none":
            raise ValueError("reference.energies: own needs a potential, but relaxer.kind is none")
        for name in ("phonons", "elastic", "potentials"):
            if getattr(self.review, name) and self.relaxer.kind == "none":
                raise ValueError(f"review.{name} needs a potential, but relaxer.kind is none")
        return self

    def science_digest(self) -> str:
        """Digest of all that decides candidates and verdicts.

        The budget, the review, the selection and the machine limits of the relaxer may change between
        runs of the same campaign; nothing else may.
        """
        content = self.model_dump(mode="json", exclude={"budget", "review", "select", "dft"})
        for limit in ("time_limit", "memory_limit_gb", "max_supercell_atoms", "device"):
            content["relaxer"].pop(limit, None)
        for limit in ("batch", "device"):
            content["generator"].pop(limit, None)
        if content["generator"].get("disorder") == "reject":
            del content["generator"]["disorder"]  # as before there was a choice
        if not self.own_energies:
            content["reference"].pop("energies", None)  # as before there was a choice
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def relaxation_settings(choice: RelaxerChoice) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the minimum that a relaxation finds, and what decides whether it finds one."""
    content = choice.model_dump(mode="json")
    for name in ("device", "early_stop", "max_supercell_atoms"):  # nothing of a minimum
        content.pop(name, None)
    names: tuple[str, ...] = ("time_limit", "memory_limit_gb", "max_atoms")
    return content, {name: content.pop(name) for name in names if name in content}


# --- reading -------------------------------------------------------------------------------------


def load_campaign(path: str | Path) -> Campaign:
    """Read and check a campaign file.

    Raises:
        InputError: no such file, not YAML, or values out of place; lists every fault with its path
            in the file, the value found and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"no campaign file at {path}", hint=f"write one with: heliodor new {path}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a campaign file: expected keys such as name, space, generator")
    return parse_campaign(content, source=str(path))


def parse_campaign(content: dict[str, Any], source: str = "campaign") -> Campaign:
    """Check the content of a campaign file. See `load_campaign` for the errors."""
    try:
        return Campaign.model_validate(content)
    except ValidationError as error:
        lines = [_explain(item, content) for item in error.errors(include_url=False)]
        raise InputError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _explain(item: Any, content: dict[str, Any]) -> str:
    """One line: path in the file, the value found, what is allowed."""
    path = _path_in_file(item["loc"], content)
    where = ".".join(map(str, path)) or "the file"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys_at(path[:-1], content)
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        meant = f"did you mean '{near[0]}'? " if near else ""
        return f"{where}: unknown key; {meant}allowed: {', '.join(known)}"
    if kind == "missing":
        return f"{where}: missing; it must be given"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = item["input"].get("kind") if isinstance(item["input"], dict) else item["input"]
        if kind == "union_tag_not_found":
            allowed = ", ".join(_kinds_of(path))
            return f"{where}: got {found!r}; give a 'kind', one of: {allowed}"
        return f"{where}.kind: got {found!r}; allowed: {context['expected_tags']}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{where}: got {item['input']!r}; {message}"


def _path_in_file(loc: tuple[int | str, ...], content: Any) -> list[int | str]:
    """Drop the union tags that pydantic puts into the location."""
    path: list[int | str] = []
    node = content
    for part in loc:
        tag = isinstance(node, dict) and part not in node and node.get("kind") == part
        if tag:
            continue
        path.append(part)
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            node = None
    return path


def _choices(field: str) -> dict[str, type[BaseModel]]:
    """The models of a discriminated union by their kind."""
    annotation = Campaign.model_fields[field].annotation
    models = getattr(annotation, "__args__", ())
    return {m.model_fields["kind"].annotation.__args__[0]: m for m in models}


def _kinds_of(path: list[int | str]) -> list[str]:
    return list(_choices(str(path[0]))) if path and path[0] in Campaign.model_fields else []


def _keys_at(path: list[int | str], content: dict[str, Any]) -> list[str]:
    """The keys that are allowed at a place in the file."""
    if not path:
        return list(Campaign.model_fields)
    field = str(path[0])
    annotation = Campaign.model_fields[field].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    kind = content[field].get("kind")
    return list(_choices(field)[kind].model_fields)


def json_schema() -> dict[str, Any]:
    """JSON schema of the campaign file, for completion in editors."""
    schema = Campaign.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
