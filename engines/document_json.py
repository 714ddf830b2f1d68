"""Job documents as plain JSON text, with what MongoDB's documents hold beside JSON.

A document that is JSON already is stored as it is, so that other programs and SQLite's JSON functions
read it. Dates, object ids, bytes and numbers that are not finite become an object of one key: `$date`
(UTC, milliseconds), `$oid`, `$binary` (base64), `$double`. A user's own object of one key that begins
with "$" is kept apart from these as `{"$literal": [key, value]}`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

_COMPACT = (",", ":")
_MARK = '"$'  # a key, or a text that begins with "$"; quotes inside of a text are escaped


def encode(value: Any) -> str:
    """JSON text of a document that `monty.json.jsanitize(..., allow_bson=True)` returned.

    Raises:
        TypeError: a value of a type that is neither JSON nor one of the above.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=_COMPACT)
    except (TypeError, ValueError):
        text = _MARK
    return json.dumps(_marked(value), allow_nan=False, separators=_COMPACT) if _MARK in text else text


def decode(text: str) -> Any:
    """What `encode` was given; dates in UTC without time zone, cut to milliseconds, as in MongoDB."""
    return json.loads(text, object_hook=_unmarked) if _MARK in text else json.loads(text)


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        marked = {key: _marked(item) for key, item in value.items()}
        return {"$literal": list(*marked.items())} if _one_operator(marked) else marked
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$double": str(float(value))}
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return {"$date": moment.replace(tzinfo=None).isoformat(timespec="milliseconds")}
    if isinstance(value, ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, bytes):
        return {"$binary": base64.b64encode(value).decode()}
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "$double": float,
    "$date": datetime.fromisoformat,
    "$oid": ObjectId,
    "$binary": base64.b64decode,
    "$literal": lambda pair: dict([pair]),
}


def _unmarked(found: dict[str, Any]) -> Any:
    if not _one_operator(found):
        return found
    ((mark, value),) = found.items()
    return _READ[mark](value)


def _one_operator(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")
