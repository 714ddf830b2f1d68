"""Hull diagrams of the chemical systems where the best crystals are."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.elements import SYMBOLS
from ..core.protocols import Phase
from ..report.model import HullDiagram, HullPhase
from ..validators.hull import Hull
from .context import Context
from .table import Record

_DIAGRAMS = 6
_CANDIDATES = 500  # in a diagram: more hide one another, and make the page slow


def hull_diagrams(context: Context, judged: Sequence[Record]) -> list[HullDiagram]:
    """Diagrams of the chemical systems of the best crystals (2 or more elements)."""
    best = sorted(
        (r for r in judged if r.hull), key=lambda r: r.hull["decomposition_energy"] if r.hull else 0
    )
    systems: list[tuple[str, ...]] = []
    for record in best:
        if record.crystal is None or len(record.crystal.elements) < 2:
            continue
        if record.crystal.elements not in systems:
            systems.append(record.crystal.elements)
        if len(systems) == _DIAGRAMS:
            break
    return [_diagram(context, system, best) for system in systems]


def _diagram(context: Context, elements: tuple[str, ...], judged: Sequence[Record]) -> HullDiagram:
    """Of all known phases, and the lowest candidates. `judged`: the lowest first."""
    phases = [p for p in context.reference.entries(elements) if p.formation_energy_per_atom is not None]
    lowest = Hull(phases).ground_states([p.composition for p in phases]).energies.tolist()
    points = [
        _reference_point(phase, bottom, elements) for phase, bottom in zip(phases, lowest, strict=True)
    ]
    inside = [
        (r.slot, r.crystal, r.hull)
        for r in judged
        if r.crystal is not None and r.hull is not None and set(r.crystal.elements) <= set(elements)
    ]
    for slot, crystal, hull in inside[:_CANDIDATES]:
        points.append(
            HullPhase(
                label=crystal.formula,
                material_id=None,
                fractions=_fractions(crystal.reduced_composition, elements),
                formation_energy_per_atom=hull["formation_energy_per_atom"],
                energy_above_hull=hull["decomposition_energy"],
                kind="candidate",
                slot=slot,
            )
        )
    return HullDiagram(elements, points, left_out=max(0, len(inside) - _CANDIDATES))


def _reference_point(phase: Phase, bottom: float, elements: tuple[str, ...]) -> HullPhase:
    from pymatgen.core import Composition

    energy = phase.formation_energy_per_atom or 0.0
    return HullPhase(
        label=Composition({SYMBOLS[z]: n for z, n in phase.composition}).reduced_formula,
        material_id=phase.material_id,
        fractions=_fractions(phase.composition, elements),
        formation_energy_per_atom=energy,
        energy_above_hull=max(0.0, energy - bottom),
        kind="reference",
    )


def _fractions(composition: tuple[tuple[int, int], ...], elements: tuple[str, ...]) -> tuple[float, ...]:
    amounts = {SYMBOLS[z]: n for z, n in composition}
    total = sum(amounts.values())
    return tuple(amounts.get(symbol, 0) / total for symbol in elements)
