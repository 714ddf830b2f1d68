"""`heliodor generate`: crystals on request, written as they come, and what was obeyed of the request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..core.campaign import Campaign, parse_campaign
from ..core.choices.generators import DiffusionChoice, RandomChoice, SubstitutionChoice
from ..core.errors import InputError
from ..core.records import Candidate
from .build import build_generator
from .obeyed import Tally, tallies
from .single import progress
from .write import writer

if TYPE_CHECKING:
    from rich.console import Console

_MODELS: Mapping[str, type[BaseModel]] = {
    "diffusion": DiffusionChoice,
    "random": RandomChoice,
    "substitution": SubstitutionChoice,
}


@dataclass
class Generated:
    """What came of a request.

    Args:
        asked: crystals asked for. failures: how many were not made, by reason.
        obeyed: the tallies of what was asked for. candidates: what was written, where it was kept.
    """

    out: Path
    generator: str
    asked: int
    obeyed: list[Tally]
    written: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    candidates: list[Candidate] = field(default_factory=list)

    def message(self) -> str:
        """For a person."""
        text = f"wrote {self.written} crystals to {self.out}"
        if self.failures:
            text += "; " + ", ".join(f"{k} {reason}" for reason, k in self.failures.items())
        if self.written + self.failures.total() < self.asked:
            text += f"; {self.generator} had nothing more to propose (asked for {self.asked})"
        if self.obeyed and self.written:
            text += "\nobeyed: " + ", ".join(tally.text() for tally in self.obeyed)
        return text

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "written": self.written,
            "asked": self.asked,
            "failures": dict(self.failures),
            "out": str(self.out),
            "obeyed": {tally.name: tally.as_dict() for tally in self.obeyed},
            "message": self.message(),
        }


def request(
    kind: str, options: dict[str, Any], space: dict[str, Any], relaxer: str = "none"
) -> Campaign:
    """The campaign that a request on the command line is.

    Args:
        kind: of the generator. options: its settings by their names in the campaign file; None and empty
            mean that nothing was said. space: likewise. relaxer: what ranks.

    Raises:
        InputError: an unknown generator, a setting that it does not know, an unknown element, or no
            part of chemistry for a generator that needs one.
    """
    if kind == "files":
        raise InputError("'files' proposes what it reads; use heliodor screen PATHS")
    said = {key: value for key, value in options.items() if value not in (None, (), [], {})}
    if kind in _MODELS and (foreign := [key for key in said if key not in _MODELS[kind].model_fields]):
        names = ", ".join(_flag(key) for key in foreign)
        raise InputError(
            f"{names}: not known to the generator '{kind}'", hint="leave it to --generator diffusion"
        )
    campaign = parse_campaign(
        {
            "name": "generate",
            "generator": {"kind": kind, **said},
            "space": {k: v for k, v in space.items() if v is not None},
            "relaxer": {"kind": relaxer},
        },
        source="generate",
    )
    if kind != "diffusion" and not (campaign.space.elements or campaign.space.formula):
        raise InputError("where to search? give --chemsys A-B-C or --formula")
    return campaign


def _flag(key: str) -> str:
    """The option of a setting."""
    special = {
        "spacegroups": "--spacegroup",
        "properties": "--property",
        "symmetric": "--no-symmetry",
        "charge_balanced": "--any-charge",
    }
    return special.get(key, "--" + key.replace("_", "-"))


def generate_to_file(
    out: Path, campaign: Campaign, *, n: int, seed: int, keep: bool, console: Console
) -> Generated:
    """Propose `n` crystals and write each as it comes.

    Args:
        keep: keep the candidates in memory too.

    Raises:
        InputError: an unknown format, or a request that cannot be served: before anything is written.
    """
    stream = build_generator(campaign.generator).generate(
        n, seed=seed, conditions=campaign.space.conditions()
    )
    made = Generated(out, campaign.generator.kind, n, tallies(campaign))
    with writer(out) as write, progress(console, "generating", n) as step:
        for item in stream:
            if isinstance(item, Candidate):
                write(item)
                made.written += 1
                for tally in made.obeyed:
                    tally.add(item.crystal)
                if keep:
                    made.candidates.append(item)
            else:
                made.failures[item.reason.value] += 1
            step()
    return made
