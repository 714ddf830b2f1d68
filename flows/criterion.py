"""When two crystals of a table are near: what `heliodor dedupe` and `heliodor split` share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError
from ..validators.redundancy import Measure, composition_measure, structure_measure
from .tables import CrystalTable


@dataclass(frozen=True)
class Criterion:
    """When two crystals are near.

    Args:
        composition: nearer than this by `composition_measure`. structure: by `structure_measure`. With
            both, a pair is near iff it is by both.
        same: the matcher finds them the same; goes without thresholds.

    Raises:
        InputError: a threshold that is not positive and finite, or together with `same`.
    """

    composition: float | None = None
    structure: float | None = None
    same: bool = False

    def __post_init__(self) -> None:
        for name, value in self.thresholds().items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"--{name}-threshold is {value}, expected a positive number")
        if self.same and self.thresholds():
            raise InputError("--same is the matcher's verdict and goes without thresholds")

    def thresholds(self) -> dict[str, float]:
        """Those that are set, by the name of the measure."""
        given = {"composition": self.composition, "structure": self.structure}
        return {name: value for name, value in given.items() if value is not None}

    def measures(self, table: CrystalTable, *, every: bool = False) -> list[Measure]:
        """The measures with a threshold; with `every`, the others too, only to be measured."""
        given = self.thresholds()
        names = ("composition", "structure") if every else given
        found = []
        for name in names:
            limit = given.get(name, math.inf)
            found.append(
                composition_measure(table.crystals, limit)
                if name == "composition"
                else structure_measure(table.vectors, limit)
            )
        return found

    def text(self) -> str:
        """For a person."""
        parts = [f"{name} nearer than {value:g}" for name, value in self.thresholds().items()]
        return " and ".join(parts) or ("same by the matcher" if self.same else "none")


def reading(table: CrystalTable) -> dict[str, Any]:
    """What was read, for a summary."""
    return {"in": table.n_in, "left_out": table.left_out, "left_out_examples": table.examples}


def left_out_text(table: CrystalTable) -> str:
    """What was left out, for a message; empty where nothing was."""
    reasons = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in table.left_out.items())
    return f"; {sum(table.left_out.values())} rows left out: {reasons}" if reasons else ""


def in_steps(step: Callable[[], None]) -> Callable[[int], None]:
    """A function that counts several steps at once, from one that counts one."""

    def many(n: int) -> None:
        for _ in range(n):
            step()

    return many
