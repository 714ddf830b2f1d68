"""Settings by name: what an evaluator's protocol asks of a screening, as far as it can be set."""

from __future__ import annotations

from typing import Any, Literal

Protocol = Literal["heliodor", "mattergen", "lemat"]

MATCHERS: dict[Protocol, dict[str, float]] = {
    "heliodor": {},
    "mattergen": {"ltol": 0.2, "stol": 0.3, "angle_tol": 5},
    "lemat": {"ltol": 0.1, "stol": 0.3, "angle_tol": 5},
}
"""Fields of the campaign file's `screen`: tolerances of the matcher."""

RELAXATIONS: dict[Protocol, dict[str, float]] = {
    "heliodor": {},
    "mattergen": {"fmax": 0.05, "max_steps": 500},
    "lemat": {"fmax": 0.02, "max_steps": 50},
}
"""Fields of the campaign file's `relaxer`: when a relaxation ends."""


def screen_settings(protocol: Protocol) -> dict[str, Any]:
    """The `screen` section: nothing is dropped, whatever the protocol."""
    return {"keep_rejected": True, **MATCHERS[protocol]}


def relaxer_settings(protocol: Protocol, potential: str) -> dict[str, Any]:
    """The `relaxer` section for a potential by its name; "none" judges crystals as they are."""
    if potential == "none":
        return {"kind": "none"}
    kind, _, channel = potential.rpartition("-")
    if channel in ("pbe", "r2scan"):
        return {"kind": kind, "channel": channel, **RELAXATIONS[protocol]}
    return {"kind": potential, **RELAXATIONS[protocol]}
