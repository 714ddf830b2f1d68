"""The campaign file: one typed YAML document that says everything a campaign depends on."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from .choices.dft import DftChoice, VaspChoice
from .choices.generators import GeneratorChoice
from .choices.references import EmbeddedChoice, MpChoice, ReferenceChoice
from .choices.relaxers import ChgnetChoice, PotentialName, RelaxerChoice
from .choices.section import Section
from .elements import parse_elements, parse_formula
from .errors import InputError
from .records import Conditions

# --- what is asked for ---------------------------------------------------------------------------


class Space(Section):
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


# --- what is done with it ------------------------------------------------------------------------


class Screen(Section):
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


class Review(Section):
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


class Select(Section):
    """Which crystals become DFT jobs: SUN crystals, lowest energy above hull first."""

    max_energy_above_hull: float = Field(default=0.1, ge=0, description="eV/atom.")
    top: int = Field(default=10, ge=0, description="At most so many in the whole campaign.")


class Prices(Section):
    """What an hour costs, in any one currency."""

    gpu_hour: float = Field(default=0, ge=0, description="Of one GPU.")
    node_hour: float = Field(default=0, ge=0, description="Of one node, its GPUs apart.")


class Budget(Section):
    """When to stop. The first limit that is reached ends the campaign, at the end of a round."""

    candidates: int = Field(default=100, ge=1, le=10_000_000, description="Crystals to propose.")
    round_size: int = Field(default=100, ge=1, le=100_000, description="Crystals per round.")
    hours: float | None = Field(default=None, gt=0, description="Wall-clock hours of one run.")
    sun: int | None = Field(default=None, ge=1, description="Stop when so many SUN crystals are found.")
    rounds_without_sun: int | None = Field(
        default=None, ge=1, description="Stop after so many rounds in a row without a new SUN crystal."
    )
    gpu_hours: float | None = Field(default=None, gt=0, description="GPU hours, over all runs.")
    node_hours: float | None = Field(default=None, gt=0, description="Node hours, over all runs.")
    dft_jobs: int | None = Field(default=None, ge=1, description="DFT calculations, over all runs.")
    money: float | None = Field(default=None, gt=0, description="Cost at `prices`, over all runs.")
    prices: Prices = Prices()


class Campaign(Section):
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

    @property
    def runs_dft(self) -> bool:
        """Whether the campaign runs its DFT calculations on this machine."""
        return bool(getattr(self.dft, "run", False))

    @model_validator(mode="after")
    def _energies_need_a_potential(self) -> Campaign:
        if self.own_energies and self.relaxer.kind == "none":
            raise ValueError("reference.energies: own needs a potential, but relaxer.kind is none")
        for name in ("phonons", "elastic", "potentials"):
            if getattr(self.review, name) and self.relaxer.kind == "none":
                raise ValueError(f"review.{name} needs a potential, but relaxer.kind is none")
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> Campaign:
        if not isinstance(self.reference, MpChoice):
            return self
        compares = self.relaxer.kind != "none" and not self.own_energies
        if self.reference.thermo_type != "GGA_GGA+U" and compares:
            raise ValueError(
                f"reference.thermo_type: got {self.reference.thermo_type}, whose hull no potential's "
                "energies may go on; use GGA_GGA+U, or energies: own"
            )
        conditions = self.space.conditions()
        if conditions.require_all and len(conditions.elements) > 9:
            raise ValueError(
                f"space.elements: got {len(conditions.elements)}, all in every crystal; the Materials "
                "Project answers for at most 9; use subsystems: true, or another reference"
            )
        return self

    def science(self) -> dict[str, Any]:
        """All that decides candidates and verdicts, and may not change while a campaign lasts.

        What may: budget, review, select, dft; of the relaxer time_limit, memory_limit_gb,
        max_supercell_atoms and device; of the generator batch and device.
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
        if content["reference"].get("thermo_type") == "GGA_GGA+U":
            del content["reference"]["thermo_type"]  # as before there was a choice
        return content

    def science_digest(self) -> str:
        """Digest of `science`."""
        return hashlib.sha256(json.dumps(self.science(), sort_keys=True).encode()).hexdigest()


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
