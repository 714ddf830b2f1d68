"""Results of DFT calculations as plain JSON: in a calculation's folder, and shared between campaigns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..core.crystal import Crystal
from ..core.files import write_text
from ..core.levels import Level
from ..core.records import DftResult, Failure, Reason

RESULT, FAILURE = "result.json", "failure.json"


def result_record(result: DftResult) -> dict[str, Any]:
    """Plain JSON values; `result_of` reads them back."""
    record = asdict(result)
    return record | {"level": result.level.as_dict(), "crystal": crystal_record(result.crystal)}


def result_of(record: Mapping[str, Any]) -> DftResult:
    """What `result_record` wrote.

    Raises:
        ValueError: fields are missing, or numbers make no sense.
    """
    try:
        made = dict(record)
        made["level"] = Level.from_dict(record["level"])
        made["crystal"] = crystal_of(record["crystal"])
        made["mended"] = tuple(record["mended"])
        for name in ("forces", "stress"):
            if (rows := record.get(name)) is not None:
                made[name] = tuple((float(x), float(y), float(z)) for x, y, z in rows)
        result = DftResult(**made)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no result of a calculation: {error!r}") from error
    if not math.isfinite(result.energy) or result.converged is not True:
        raise ValueError(f"energy {result.energy}, converged {result.converged}")
    return result


def crystal_record(crystal: Crystal) -> dict[str, Any]:
    """Plain JSON values that make the same crystal again."""
    return {
        "lattice": crystal.lattice.tolist(),
        "frac_coords": crystal.frac_coords.tolist(),
        "atomic_numbers": crystal.atomic_numbers.tolist(),
    }


def crystal_of(record: Mapping[str, Any]) -> Crystal:
    """What `crystal_record` wrote."""
    return Crystal(
        np.array(record["lattice"], dtype=float),
        np.array(record["frac_coords"], dtype=float),
        np.array(record["atomic_numbers"], dtype=np.int64),
    )


def read_result(folder: Path, input_digest: str) -> DftResult | Failure | None:
    """What a calculation came to; None where it has not ended, or what is there cannot be read.

    Args:
        input_digest: a result of other inputs is not taken.
    """
    for name in (RESULT, FAILURE):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if record["input_digest"] != input_digest:
                continue
            if name == RESULT:
                return result_of(record)
            return Failure(record["key"], Reason(record["reason"]), record["detail"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def write_result(folder: Path, result: DftResult) -> None:
    """Put a result into its folder, whole or not at all."""
    write_text(folder / RESULT, json.dumps(result_record(result), indent=1) + "\n", "the result")


def write_failure(folder: Path, input_digest: str, failure: Failure, attempts: int) -> None:
    """Say in its folder why a calculation was given up."""
    record = {
        "key": failure.key,
        "input_digest": input_digest,
        "reason": failure.reason.value,
        "detail": failure.detail,
        "attempts": attempts,
    }
    write_text(folder / FAILURE, json.dumps(record, indent=1) + "\n", "the failure")


def read_shared(shared: Path, key: str, input_digest: str) -> DftResult | None:
    """A result of any campaign with the same inputs, if it is there and whole.

    Args:
        shared: the folder that `write_shared` was given.
    """
    try:
        text = _shared_file(shared, input_digest).read_text(encoding="utf-8")
        result = result_of(json.loads(text))
    except (OSError, ValueError):
        return None
    return result if (result.key, result.input_digest) == (key, input_digest) else None


def write_shared(shared: Path, result: DftResult) -> None:
    """Put a result where all campaigns of this machine find it, by the digest of its inputs."""
    path = _shared_file(shared, result.input_digest)
    write_text(path, json.dumps(result_record(result)) + "\n", "the result")


def _shared_file(shared: Path, input_digest: str) -> Path:
    return shared / f"{input_digest}.json"
