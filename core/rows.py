"""Between records and rows of the ledger's tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Row

from .crystal import Crystal
from .records import Candidate, Origin, Outcome, Reason, Stage, Status

_CHUNK = 500  # slots in one IN (...) list


def candidate_row(campaign_id: int, slot: int, candidate: Candidate) -> dict[str, Any]:
    """A candidate as a row of `schema.candidate`."""
    return {
        "campaign_id": campaign_id,
        "slot": slot,
        "key": candidate.key,
        "formula": candidate.crystal.formula,
        "n_atoms": len(candidate.crystal),
        "crystal": candidate.crystal.to_bytes(),
        "origin": json.dumps(asdict(candidate.origin)),
    }


def to_candidate(row: Row[Any]) -> Candidate:
    """Inverse of `candidate_row`."""
    return Candidate(Crystal.from_bytes(row.crystal), Origin(**json.loads(row.origin)))


def outcome_row(campaign_id: int, outcome: Outcome, provenance: str, now: float) -> dict[str, Any]:
    """An outcome as a row of `schema.outcome`."""
    return {
        "campaign_id": campaign_id,
        "stage": outcome.stage,
        "slot": outcome.slot,
        "attempt": outcome.attempt,
        "status": outcome.status,
        "reason": outcome.reason,
        "data": json.dumps(dict(outcome.data), allow_nan=False),
        "crystal": outcome.crystal.to_bytes() if outcome.crystal else None,
        "at": now,
        "provenance": provenance,
    }


def to_outcome(row: Row[Any]) -> Outcome:
    """Inverse of `outcome_row`."""
    return Outcome(
        slot=row.slot,
        stage=Stage(row.stage),
        status=Status(row.status),
        reason=Reason(row.reason) if row.reason else None,
        attempt=row.attempt,
        data=json.loads(row.data),
        crystal=Crystal.from_bytes(row.crystal) if row.crystal else None,
        at=row.at,
        provenance=row.provenance,
    )


def provenance_row(provenance: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A provenance record as a row of `schema.provenance`."""
    return {"id": provenance[0], "record": json.dumps(dict(provenance[1]), sort_keys=True)}


def chunks(slots: Sequence[int]) -> Iterable[Sequence[int]]:
    """Slots in pieces that fit into one IN (...) list."""
    return (slots[i : i + _CHUNK] for i in range(0, len(slots), _CHUNK))


def changed(old: dict[str, Any], new: dict[str, Any], within: str = "") -> list[str]:
    """What differs between two `Campaign.science`: "space.max_atoms: 20, now 24"."""
    found = []
    for key in sorted(set(old) | set(new)):
        name, before, after = f"{within}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changed(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name}: {before!r}, now {after!r}")
    return found
