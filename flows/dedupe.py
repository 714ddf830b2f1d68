"""`heliodor dedupe`: a table without what is near to something kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import write_text
from ..validators.redundancy import matched_representatives, representatives
from .criterion import Criterion, in_steps, left_out_text, reading
from .single import progress
from .tables import CrystalTable, check_out, read_crystals, write_rows

if TYPE_CHECKING:
    from rich.console import Console

Ints = NDArray[np.int64]


def dedupe(
    paths: Sequence[Path],
    out: Path,
    criterion: Criterion,
    *,
    order_by: str | None,
    mark: bool,
    console: Console,
) -> dict[str, Any]:
    """Keep a crystal iff no kept crystal is near; write the table and its summary beside it.

    Args:
        order_by: numeric column; the lowest comes first, rows without a value last. None: as read.
        mark: write all rows, with columns `cluster` and `kept`.

    Raises:
        InputError: nothing usable to read, no such column, or a bad name to write to.
    """
    check_out(out, paths)
    table = read_crystals(paths, console)
    order = _order(table, order_by)
    with progress(console, "comparing", len(table)) as step:
        if criterion.same:
            found, failed = matched_representatives(table.crystals, order, in_steps(step))
        else:
            found, failed = representatives(criterion.measures(table), order, in_steps(step)), []
    names = table.names()
    kept = found == np.arange(len(table))
    shown = np.arange(len(table)) if mark else np.flatnonzero(kept)
    columns: dict[str, list[Any]] = {"cluster": [names[i] for i in found]}
    if mark:
        columns["kept"] = kept.tolist()
    write_rows(table.take(shown, **columns), [table.crystals[i] for i in shown], out)
    largest, size = Counter(found.tolist()).most_common(1)[0]
    summary = {
        **reading(table),
        "kept": int(kept.sum()),
        "not_compared": [names[i] for i in failed],
        "near": criterion.text(),
        "thresholds": criterion.thresholds(),
        "order": order_by or "as read",
        "largest_cluster": {"name": names[largest], "crystals": size},
        "out": str(out),
    }
    write_text(out.with_suffix(".summary.json"), json.dumps(summary, indent=2) + "\n", "the summary")
    uncompared = f"; {len(failed)} could not be compared and are kept" if failed else ""
    message = (
        f"kept {kept.sum():,} of {len(table):,} crystals (near: {criterion.text()}); the largest "
        f"cluster, of {names[largest]}, has {size:,}{uncompared}{left_out_text(table)}; wrote {out}"
    )
    return {**summary, "message": message}


def _order(table: CrystalTable, name: str | None) -> Ints:
    if name is None:
        return np.arange(len(table))
    try:
        values = np.array([math.nan if v is None else v for v in table.column(name)], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"--order-by {name}: the column does not hold numbers") from error
    order: Ints = np.argsort(values, kind="stable")  # NaN comes last
    return order
