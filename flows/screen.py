"""Judging crystals that came from anywhere: a campaign whose generator reads files and drops nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from ..core.campaign import Campaign, parse_campaign
from ..core.errors import InputError
from ..generators.files import FilesGenerator
from .discover import conduct
from .protocols import Protocol, relaxer_settings, screen_settings


@dataclass(frozen=True)
class ScreenOptions:
    """How to judge.

    Args:
        potentials: names; the first relaxes ("none": crystals as they are), further ones give second
            opinions. reference: "embedded", "mp" or a file of phases.
        energies: "own": the reference's energies are computed with the potential.
        protocol: whose settings and counting rules. disorder: what becomes of partly occupied sites.
        scores: the columns beside the verdicts.
    """

    potentials: tuple[str, ...] = ("chgnet",)
    reference: str = "embedded"
    energies: Literal["reference", "own"] = "reference"
    protocol: Protocol = "heliodor"
    disorder: Literal["reject", "order"] = "reject"
    scores: bool = True


@flow(
    name="screen",
    flow_run_name="{folder}",
    task_runner=ThreadPoolTaskRunner(max_workers=6),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,
)
def screen(paths: list[str], folder: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Judge every crystal in `paths`; results in `folder`: crystals.parquet, summary.json, report.

    Args:
        paths: files, folders or zip archives of crystals.
        folder: where the results go; running it again with the same input goes on.
        options: fields of `ScreenOptions`.
    """
    return conduct(screening(paths, ScreenOptions(**(options or {}))), Path(folder))


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
