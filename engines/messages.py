"""What the pool and its worker processes say to one another: a line of JSON, then bytes.

An order is a crystal and what to do with it; its answer carries the same number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..core.crystal import Crystal
from ..core.records import Evaluated, Failure, Prepared, Reason, Relaxed

Result = Relaxed | Evaluated | Failure


@dataclass(frozen=True)
class Order:
    """What a worker is asked for.

    Args:
        task: "relax": atoms and cell to the nearest minimum; "evaluate": the crystal as it is.
        ceiling: eV of the cell; a relaxation that is heading above it is given up.
    """

    crystal: Crystal
    task: Literal["relax", "evaluate"] = "relax"
    ceiling: float | None = None


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One message."""
    return json.dumps(header).encode() + b"\n" + body


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Inverse of `pack`."""
    header, _, body = message.partition(b"\n")
    return json.loads(header), body


def pack_order(number: int, order: Order) -> bytes:
    """The message that hands over an order."""
    header = {"number": number, "task": order.task, "ceiling": order.ceiling}
    return pack(header, order.crystal.to_bytes())


def unpack_order(message: bytes) -> tuple[int, Order]:
    """Inverse of `pack_order`."""
    header, body = unpack(message)
    return header["number"], Order(Crystal.from_bytes(body), header["task"], header["ceiling"])


_RELAXED = ("energy", "max_force", "max_stress", "steps", "converged", "model", "seconds", "stopped")
_EVALUATED = ("energy", "model", "seconds")


def pack_result(number: int, result: Result) -> bytes:
    """The message that brings a result home."""
    header: dict[str, Any] = {"number": number, "type": type(result).__name__}
    match result:
        case Failure():
            header |= {"reason": result.reason, "detail": result.detail}
            return pack(header)
        case Relaxed():
            header["values"] = {name: getattr(result, name) for name in _RELAXED}
            header["prepared"] = asdict(result.prepared) if result.prepared else None
            return pack(header, result.crystal.to_bytes())
        case Evaluated():
            header["values"] = {name: getattr(result, name) for name in _EVALUATED}
            return pack(header, np.concatenate([result.stress, result.forces]).tobytes())


def unpack_result(key: str, header: dict[str, Any], body: bytes) -> Result:
    """Inverse of `pack_result`, for the crystal with that key."""
    match header["type"]:
        case "Failure":
            return Failure(key, Reason(header["reason"]), header["detail"])
        case "Relaxed":
            before = Prepared(**header["prepared"]) if header["prepared"] else None
            crystal = Crystal.from_bytes(body)
            return Relaxed(key=key, crystal=crystal, prepared=before, **header["values"])
        case _:
            rows = np.frombuffer(body, np.float64).reshape(-1, 3)
            return Evaluated(key=key, forces=rows[3:], stress=rows[:3], **header["values"])
