"""The crystals as the report's table shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..core.columns import Value
from ..core.protocols import Scorer
from ..report.model import CrystalRow
from .report_dft import dft_word
from .table import Record


def crystal_rows(
    scorers: Sequence[Scorer], found: Sequence[Record], threshold: float
) -> list[CrystalRow]:
    """The valid crystals as the report shows them."""
    rows = [_row(r, threshold) for r in found if r.crystal is not None and r.valid]
    scores = {r.slot: r.scores for r in found}
    return [replace(row, scores=_groups(scorers, scores[row.slot])) for row in rows]


def _groups(
    scorers: Sequence[Scorer], scores: Mapping[str, Value]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was scored, by scorer, without what is empty."""
    found = []
    for scorer in scorers:
        pairs = [(c.name, _said(scores.get(c.name), c.unit)) for c in scorer.columns]
        if there := [(name.replace("_", " "), text) for name, text in pairs if text]:
            found.append((scorer.name.replace("_", " "), there))
    return found


def _said(value: Value, unit: str) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".strip()


def _row(record: Record, threshold: float) -> CrystalRow:
    crystal, hull = record.crystal, record.hull or {}
    if crystal is None or record.candidate is None:
        raise ValueError(f"slot {record.slot} has no crystal")
    group = record.spacegroup
    return CrystalRow(
        slot=record.slot,
        key=record.candidate.key,
        formula=crystal.formula,
        spacegroup_symbol=group[1] if group else None,
        n_atoms=len(crystal),
        crystal=crystal,
        energy_above_hull=hull.get("energy_above_hull"),
        decomposition_energy=hull.get("decomposition_energy"),
        formation_energy_per_atom=hull.get("formation_energy_per_atom"),
        decomposition=tuple((f, m, x) for f, m, x in hull.get("decomposition", ())),
        level=hull.get("level", ""),
        corrections=hull.get("corrections", ""),
        reference=hull.get("reference", ""),
        unique=record.verdict("uniqueness"),
        novel=record.verdict("novelty"),
        sun=record.sun(threshold) is True,
        source=record.candidate.origin.source,
        dft_path=record.dft.data.get("path") if record.dft else None,
        dft_verdict=dft_word(record),
        uncertain=bool(hull.get("uncertain", False)),
    )
