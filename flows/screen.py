"""Judging crystals that came from anywhere: a campaign whose generator reads files and drops nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import State, flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ..core.campaign import Campaign, parse_campaign
from ..core.choices.relaxers import PotentialName
from ..core.errors import InputError
from ..generators.files import FilesGenerator
from .discover import conduct
from .parameters import absolute, campaign_folder, checked, run_name
from .protocols import Protocol, relaxer_settings, screen_settings
from .stopping import cancellable


@dataclass(frozen=True)
class ScreenOptions:
    """How to judge."""

    potentials: Annotated[
        tuple[Literal[PotentialName, "none"], ...],
        Field(description="The first relaxes, others give second opinions; none: crystals as they are."),
    ] = ("chgnet",)
    reference: Annotated[
        str, Field(description="embedded, mp, or a file of structures with energies.")
    ] = "embedded"
    energies: Annotated[
        Literal["reference", "own"],
        Field(description="own: energies of the known phases by the potential itself, not from DFT."),
    ] = "reference"
    protocol: Annotated[Protocol, Field(description="Whose settings and counting rules.")] = "heliodor"
    disorder: Annotated[
        Literal["reject", "order"],
        Field(description="Partly occupied sites: reject the crystal, or order it."),
    ] = "reject"
    scores: Annotated[bool, Field(description="The columns beside the verdicts.")] = True


_DEFAULT = ScreenOptions()


@flow(
    name="screen",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=6),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,  # `checked` does, and says what it found
)
@checked
@cancellable
def screen(
    paths: list[str], folder: str | None = None, options: ScreenOptions = _DEFAULT
) -> State[dict[str, Any]]:
    """Judge crystals from anywhere: crystals.parquet, summary.json and a report.

    Args:
        paths: Files, folders or zip archives of crystals, on the machine that runs it.
        folder: Where the results go; the same input into the same folder goes on. Empty: a folder in
            HELIODOR_RUNS of the machine that runs it; a relative path begins there, too.
        options: How to judge.
    """
    campaign = screening([str(absolute("paths", path)) for path in paths], options)
    return conduct(campaign, campaign_folder(folder, campaign.name))


def screening(paths: list[str], options: ScreenOptions) -> Campaign:
    """The campaign that a screening is; its name follows from all that goes in, so that files whose
    content has changed are judged anew.

    Raises:
        InputError: an unknown potential or reference, or a path is missing or of unknown type.
    """
    absolute = [str(Path(path).resolve()) for path in paths]
    for path in absolute:
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            raise InputError(
                f"the name of {path!r} is no UTF-8 text", hint="rename it, or give its folder"
            )
    if "none" in options.potentials and len(options.potentials) > 1:
        raise InputError("potentials: none judges crystals as they are, and goes with no other")
    reference, content = _reference(options)
    inputs = FilesGenerator(absolute).provenance
    whole = json.dumps([absolute, inputs, asdict(options), reference, content])
    relaxing, *others = options.potentials or ("none",)
    return parse_campaign(
        {
            "name": f"screen-{hashlib.sha256(whole.encode()).hexdigest()[:8]}",
            "generator": {"kind": "files", "paths": absolute, "disorder": options.disorder},
            "space": {"max_atoms": 500},
            "relaxer": relaxer_settings(options.protocol, relaxing),
            "reference": reference,
            "screen": screen_settings(options.protocol),
            "review": {
                "scores": options.scores,
                "potentials": others,
                "protocol": options.protocol,
            },
            "dft": {"kind": "none"},
            "select": {"top": 0},
            "budget": {"candidates": 10_000_000, "round_size": 1000},
        },
        source="screen",
    )


def _reference(options: ScreenOptions) -> tuple[dict[str, Any], str]:
    """The campaign file's `reference` section, and the digest of the file that it names."""
    choice: dict[str, Any] = {"kind": options.reference}
    content = ""
    if options.reference not in ("embedded", "mp"):
        table = Path(options.reference).resolve()
        choice = {"kind": "file", "path": str(table)}
        if table.is_file():
            with table.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
    if options.energies != "reference":
        choice["energies"] = options.energies
    return choice, content
