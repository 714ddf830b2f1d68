"""What a column of the table of crystals is: its type, its unit, where its numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Value = float | int | bool | str | None
"""What a cell of the table holds; None: not computed, or it could not be."""

Dtype = Literal["float64", "Int64", "boolean", "string"]
"""pandas' names; all but float64, where NaN does, have a null of their own."""


@dataclass(frozen=True)
class Column:
    """A column, as `columns.json` beside the table describes it.

    Args:
        name: in the table.
        dtype: see `Dtype`.
        meaning: one sentence.
        unit: empty where there is none.
        source: paper, data set or program behind the numbers.
        limits: what the number cannot tell, and when it is null.
    """

    name: str
    dtype: Dtype
    meaning: str
    unit: str = ""
    source: str = ""
    limits: str = ""
