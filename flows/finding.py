"""One finding of `heliodor doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Check:
    """One finding. "fail" stops the main job, "warn" stops something optional."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)
