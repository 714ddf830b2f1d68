"""Judging crystals that came from anywhere: a campaign whose generator reads files and drops nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from ..core.campaign import Campaign, parse_campaign
from ..core.errors import InputError
from ..generators.files import FilesGenerator
from .discover import conduct


@flow(
    name="screen",
    flow_run_name="{folder}",
    task_runner=ThreadPoolTaskRunner(max_workers=6),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,
)
def screen(
    paths: list[str], folder: str, relaxer: str = "chgnet", reference: str = "embedded"
) -> dict[str, Any]:
    """Judge every crystal in `paths`; results in `folder`: crystals.parquet, summary.json, report.

    Args:
        paths: files, folders or zip archives of crystals.
        folder: where the results go; running it again with the same input goes on.
        relaxer: "chgnet", "sevennet" or "none". reference: a name or a file of phases.
    """
    return conduct(screening(paths, relaxer, reference), Path(folder))


def screening(paths: Sequence[str], relaxer: str, reference: str) -> Campaign:
    """The campaign that a screening is; its name follows from all that goes in, so that files whose
    content has changed are judged anew.

    Raises:
        InputError: an unknown relaxer or reference, or a path is missing or of unknown type.
    """
    choice: dict[str, Any] = {"kind": reference}
    content = ""
    if reference not in ("embedded", "mp"):
        table = Path(reference).resolve()
        choice = {"kind": "file", "path": str(table)}
        content = hashlib.sha256(table.read_bytes()).hexdigest() if table.is_file() else ""
    absolute = [str(Path(path).resolve()) for path in paths]
    for path in absolute:
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            raise InputError(
                f"the name of {path!r} is no UTF-8 text", hint="rename it, or give its folder"
            )
    inputs = FilesGenerator(absolute).provenance
    whole = json.dumps([absolute, inputs, relaxer, choice, content])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return parse_campaign(
        {
            "name": f"screen-{digest}",
            "generator": {"kind": "files", "paths": absolute},
            "space": {"max_atoms": 500},
            "relaxer": {"kind": relaxer},
            "reference": choice,
            "screen": {"keep_rejected": True},
            "dft": {"kind": "none"},
            "select": {"top": 0},
            "budget": {"candidates": 10_000_000, "round_size": 1000},
        },
        source="screen",
    )
