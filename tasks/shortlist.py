"""Which crystals are worth DFT: the SUN crystals, most promising and most varied first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..validators.distances import AMD_DISTANCE
from .table import Record

UNCERTAINTY = "energy_above_hull_uncertainty"


@dataclass(frozen=True)
class Shortlisted:
    """A crystal of the shortlist, and what put it there.

    Args:
        energy: eV/atom: its signed distance to the hull plus the potential's uncertainty, so that a
            crystal whose energy is doubtful stands behind one that is as low and sure.
        nth: so many crystals of its composition stand before it.
        cost: work of its calculation, as a multiple of a cell of one atom: plane waves and bands each
            grow with the cell, k-points shrink: n_atoms ** 2.
    """

    record: Record
    energy: float
    nth: int
    novelty: float
    cost: int


def shortlist(found: Sequence[Record], max_energy_above_hull: float, top: int) -> list[Shortlisted]:
    """The best `top` SUN crystals, best first.

    Compounds come before elements. The best crystal of each composition comes before the second of any,
    for a campaign should not spend its calculations on one composition. Then the lowest energy (to 1
    meV/atom), the farthest from any known crystal, the cheapest, the earliest.
    """
    able = [r for r in found if r.sun(max_energy_above_hull) and r.crystal is not None]
    ranked = []
    of_composition: Counter[tuple[tuple[int, int], ...]] = Counter()
    for record in sorted(able, key=lambda r: (_energy(r), r.slot)):
        composition = record.crystal.reduced_composition if record.crystal else ()
        n_atoms = len(record.crystal) if record.crystal else 0
        ranked.append(
            Shortlisted(
                record,
                _energy(record),
                of_composition[composition],
                _number(record.scores, AMD_DISTANCE),
                n_atoms**2,
            )
        )
        of_composition[composition] += 1
    ranked.sort(key=_order)
    return ranked[:top]


def _order(item: Shortlisted) -> tuple[float, ...]:
    crystal = item.record.crystal
    bare = crystal is not None and len(crystal.reduced_composition) == 1
    return (bare, item.nth, round(item.energy, 3), -item.novelty, item.cost, item.record.slot)


def _energy(record: Record) -> float:
    decomposition_energy = float((record.hull or {})["decomposition_energy"])
    return decomposition_energy + _number(record.scores, UNCERTAINTY)


def _number(scores: Mapping[str, Any], name: str) -> float:
    value = scores.get(name)
    return 0.0 if value is None else float(value)
