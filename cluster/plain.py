"""Records as plain JSON values that make the same records again, to the last bit."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..core.crystal import Crystal
from ..core.records import Candidate, Conditions, Failure, Origin, Prepared, Reason, Relaxed

Record = Mapping[str, Any]

_RELAXED = (
    "key", "energy", "max_force", "max_stress", "steps", "converged", "model", "seconds", "stopped",
)  # fmt: skip


def crystal_text(crystal: Crystal) -> str:
    """Base64 of its packed form."""
    return base64.b64encode(crystal.to_bytes()).decode("ascii")


def crystal_of(text: str) -> Crystal:
    """What `crystal_text` wrote."""
    return Crystal.from_bytes(base64.b64decode(text))


def conditions_of(record: Record) -> Conditions:
    """From the values of `asdict`, after JSON."""
    composition = tuple((symbol, count) for symbol, count in record["composition"])
    return Conditions(**{**record, "elements": tuple(record["elements"]), "composition": composition})


def plain(item: Relaxed | Candidate | Failure) -> dict[str, Any]:
    """A result of a job, with its type."""
    record: dict[str, Any] = {"type": type(item).__name__}
    match item:
        case Relaxed():
            values = {name: getattr(item, name) for name in _RELAXED}
            before = asdict(item.prepared) if item.prepared is not None else None
            return record | values | {"crystal": crystal_text(item.crystal), "prepared": before}
        case Candidate():
            return record | {"crystal": crystal_text(item.crystal), "origin": asdict(item.origin)}
        case Failure():
            origin = asdict(item.origin) if item.origin is not None else None
            return record | {
                "key": item.key,
                "reason": item.reason.value,
                "detail": item.detail,
                "origin": origin,
            }


def result_of(record: Record) -> Relaxed | Candidate | Failure:
    """What `plain` wrote. Further values beside are left alone.

    Raises:
        ValueError, KeyError, TypeError: it did not.
    """
    match record["type"]:
        case "Relaxed":
            before = Prepared(**record["prepared"]) if record["prepared"] else None
            values = {name: record[name] for name in _RELAXED}
            return Relaxed(**values, crystal=crystal_of(record["crystal"]), prepared=before)
        case "Candidate":
            return Candidate(crystal_of(record["crystal"]), Origin(**record["origin"]))
        case "Failure":
            origin = Origin(**record["origin"]) if record["origin"] else None
            return Failure(record["key"], Reason(record["reason"]), record["detail"], origin)
        case other:
            raise ValueError(f"no result of a job: {other!r}")
