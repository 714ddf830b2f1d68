"""What `heliodor hull` answers: stable phases of a system, distances of compositions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS, chemsys, parse_elements, parse_formula
from ..core.errors import InputError
from ..core.protocols import Reference
from ..validators.hull import Hull
from .single import open_reference

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.choices.references import ThermoType


_HEADINGS = {
    "formula": "formula",
    "material_id": "id",
    "spacegroup": "space group",
    "formation_energy_per_atom": "E formation",
    "energy_above_hull": "E above hull",
    "decomposition_energy": "E decomp.",
    "decomposition": "decomposition",
}


def hull_rows(
    items: Sequence[str], system: str | None, reference: str, thermo_type: ThermoType = "GGA_GGA+U"
) -> list[dict[str, Any]]:
    """Rows for `heliodor hull`: the stable phases of a system, or the given compositions' distances."""
    queries = [query for item in items for query in _queries(item)]
    if not queries and system is None:
        raise InputError("what to look up? give --chemsys A-B-C, FORMULA=ENERGY, or a CSV")
    elements = {s for pairs, _ in queries for s, _ in pairs} | set(
        parse_elements(system) if system else ()
    )
    known = open_reference(reference, tuple(sorted(elements)), thermo_type)
    if not queries:
        return _stable_phases(known, tuple(sorted(elements)))
    from pymatgen.core import Composition

    systems = {tuple(sorted(s for s, _ in pairs)) for pairs, _ in queries}
    phases = {id(p): p for system in sorted(systems) for p in known.entries(system)}
    states = Hull(phases.values()).ground_states(
        [tuple(sorted((ATOMIC_NUMBERS[s], n) for s, n in pairs)) for pairs, _ in queries]
    )
    rows = []
    for i, (pairs, energy) in enumerate(queries):
        distance = energy - float(states.energies[i])
        products = states.decomposition(i)
        rows.append(
            {
                "formula": Composition(dict(pairs)).reduced_formula,
                "chemsys": chemsys(s for s, _ in pairs),
                "formation_energy_per_atom": energy,
                "energy_above_hull": max(0.0, distance),
                "decomposition_energy": distance,
                "decomposition": " + ".join(f"{x:.3f} {f} ({m})" for f, m, x in products),
                "reference": known.info.name,
                "hull": known.info.hull,
            }
        )
    return rows


def _stable_phases(known: Reference, elements: tuple[str, ...]) -> list[dict[str, Any]]:
    from pymatgen.core import Composition

    phases = [p for p in known.entries(elements) if p.formation_energy_per_atom is not None]
    lowest = Hull(phases).ground_states([p.composition for p in phases]).energies
    rows = []
    for phase, bottom in zip(phases, lowest.tolist(), strict=True):
        energy = phase.formation_energy_per_atom or 0.0
        if energy - bottom <= 1e-8:
            rows.append(
                {
                    "formula": Composition(
                        {SYMBOLS[z]: n for z, n in phase.composition}
                    ).reduced_formula,
                    "material_id": phase.material_id,
                    "spacegroup": phase.spacegroup,
                    "formation_energy_per_atom": energy,
                    "reference": known.info.name,
                    "hull": known.info.hull,
                }
            )
    pure = {phase.composition[0][0] for phase in phases if len(phase.composition) == 1}
    rows += [
        {  # an element in its reference state is 0 by definition, with or without an entry
            "formula": symbol,
            "material_id": "element",
            "spacegroup": None,
            "formation_energy_per_atom": 0.0,
            "reference": known.info.name,
            "hull": known.info.hull,
        }
        for symbol in elements
        if ATOMIC_NUMBERS[symbol] not in pure
    ]
    return sorted(rows, key=lambda r: str(r["formula"]))


def _queries(item: str) -> Iterator[tuple[tuple[tuple[str, int], ...], float]]:
    if item.endswith((".csv", ".parquet")):
        yield from _table_queries(Path(item))
        return
    formula, separator, energy = item.partition("=")
    if not separator:
        raise InputError(
            f"{item!r}: write FORMULA=ENERGY, for example Li2O=-2.05 (eV/atom), or a CSV file"
        )
    yield _query(formula, energy)


def _table_queries(path: Path) -> Iterator[tuple[tuple[tuple[str, int], ...], float]]:
    import pandas as pd

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    missing = {"formula", "formation_energy_per_atom"} - set(table.columns)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}; found {list(table.columns)}"
        )
    for formula, energy in zip(table["formula"], table["formation_energy_per_atom"], strict=True):
        yield _query(str(formula), energy)


def _query(formula: str, energy: Any) -> tuple[tuple[tuple[str, int], ...], float]:
    try:
        pairs = parse_formula(formula)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        value = float(energy)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{formula}: formation energy {energy!r} is not a number of eV/atom")
    return pairs, value


def show_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, console: Console) -> None:
    """Rows as a table or as JSON."""
    if as_json:
        console.print_json(json.dumps(rows))
        return
    from rich.table import Table

    if not rows:
        console.print("no phases in this system")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    shown = [name for name in rows[0] if name in _HEADINGS]
    for name in shown:
        number = isinstance(rows[0][name], float)
        table.add_column(_HEADINGS[name], justify="right" if number else "left", no_wrap=number)
    for row in rows:
        cells = (row[name] for name in shown)
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v or "") for v in cells))
    console.print(table)
    about = f"eV/atom; reference: {rows[0]['reference']}, hull {rows[0]['hull']}"
    console.print(about, style="dim", highlight=False)
