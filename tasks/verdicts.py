"""DFT verdicts in few words, for the terminal and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .dft_columns import later_failure
from .table import Record

NOT_COMPUTED = "not computed"


def verdicts(found: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each crystal that DFT judged or failed at, the most stable first."""
    rows = [verdict_row(record) for record in found if record.verify is not None]
    return sorted(
        rows, key=lambda r: (r["energy_above_hull"] is None, r["energy_above_hull"], r["slot"])
    )


def verdict_row(record: Record, held: str = "") -> dict[str, Any]:
    """What came out for one crystal. `held`: why it was not computed now."""
    outcome = record.verify
    data = outcome.data if outcome else {}
    hull, compared = data.get("hull", {}), data.get("compared", {})
    return {
        "slot": record.slot,
        "formula": record.crystal.formula if record.crystal else None,
        "verdict": data.get("verdict", "failed" if outcome else NOT_COMPUTED),
        "energy_above_hull": hull.get("energy_above_hull"),
        "energy_above_hull_mlip": (record.hull or {}).get("energy_above_hull"),
        "volume_ratio": compared.get("volume_ratio"),
        "rmsd": compared.get("rmsd"),
        "level": hull.get("level"),
        "corrections": hull.get("corrections"),
        "reference": hull.get("reference"),
        "detail": held or later_failure(record.verify_failed) or data.get("detail", ""),
    }
