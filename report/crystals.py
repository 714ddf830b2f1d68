"""The crystals of the campaign: gallery of the best, and the table with a panel for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .markup import NOTHING, Html, formula, h, join, material, number, percent, quantity, spacegroup
from .model import CrystalRow
from .plots import energy_class
from .viewer import density, element_styles, scene

DETAILED = 50  # rows with a panel and a structure
LISTED = 1000  # rows in all
_GALLERY = 6

_COLUMNS = (  # heading, unit, class, sort type
    ("Formula", "", "", "text"),
    ("Space group", "", "", "text"),
    ("Atoms", "per cell", "r wide", "number"),
    ("E above hull", "eV/atom", "r", "number"),
    ("E decomp.", "eV/atom", "r not-narrow", "number"),
    ("E formation", "eV/atom", "r wide", "number"),
    ("Verdict", "", "", "number"),
    ("Energy from", "", "wide widest", "text"),
)


def ranked(rows: Sequence[CrystalRow]) -> list[CrystalRow]:
    """SUN crystals first, then by decomposition energy; those without energies last."""
    return sorted(rows, key=lambda r: (not r.sun, _sort_energy(r.decomposition_energy), r.slot))


def _sort_energy(energy: float | None) -> float:
    return float("inf") if energy is None else energy


def scenes(rows: Sequence[CrystalRow]) -> dict[str, Any]:
    """What the viewer draws, for the rows that are shown in full: by slot, and element styles."""
    drawn = {str(r.slot): scene(r.crystal) for r in rows[:DETAILED]}
    symbols = {s for found in drawn.values() if found for s in found["kinds"]}
    styles = element_styles(symbols)
    return {"styles": styles, "crystals": {slot: found for slot, found in drawn.items() if found}}


# --- gallery -------------------------------------------------------------------------------------


def gallery(rows: Sequence[CrystalRow]) -> Html:
    """Pictures of the best; each opens its row."""
    chosen = [r for r in rows[:_GALLERY] if r.sun] or [
        r for r in rows[:4] if r.decomposition_energy is not None
    ]
    return h("div", join(_card(r) for r in chosen), class_="gallery") if chosen else Html("")


def _card(row: CrystalRow) -> Html:
    return h(
        "a",
        h("canvas", data_slot=str(row.slot), class_="thumb", aria_hidden="true"),
        h("b", formula(row.formula)),
        h("span", spacegroup(row.spacegroup_symbol), class_="muted"),
        h(
            "span",
            h("i", class_=f"swatch {energy_class(_sort_energy(row.decomposition_energy))}"),
            quantity(row.decomposition_energy, "eV/atom", signed=True),
            class_="energy",
        ),
        href=f"#slot-{row.slot}",
        class_="card",
        title="signed energy above the known hull; click for the structure",
    )


# --- table ---------------------------------------------------------------------------------------


def table(rows: Sequence[CrystalRow]) -> Html:
    """All rows (already ranked), each of the best with a panel that opens."""
    if not rows:
        return h("p", "No crystal has been judged yet.", class_="empty")
    heads = [h("th", h("span", "open", class_="sr"), scope="col")]
    for heading, unit, style, kind in _COLUMNS:
        small = h("small", unit) if unit else None
        button = h("button", heading, " ", small, type="button", data_kind=kind)
        heads.append(h("th", button, scope="col", class_=style or None, aria_sort="none"))
    bodies = join(_body(row, panel=k < DETAILED) for k, row in enumerate(rows[:LISTED]))
    full = h("table", h("thead", h("tr", join(heads))), bodies, id="crystal-table", class_="crystals")
    return join([_filters(rows), h("div", full, class_="scroll"), _left_out(rows)])


def _filters(rows: Sequence[CrystalRow]) -> Html:
    options = (("", "any energy"), ("0", "E above hull ≤ 0"), ("0.1", "E above hull ≤ 0.1 eV/atom"))
    return h(
        "form",
        h(
            "input",
            type="search",
            id="find",
            placeholder="Ti, LiTi2O4, Fd-3m …",
            aria_label="Filter crystals",
        ),
        h("select", join(h("option", t, value=v) for v, t in options), id="within", aria_label="Energy"),
        h("label", h("input", type="checkbox", id="only-sun"), " SUN only"),
        h("output", f"{min(len(rows), LISTED)} crystals", id="shown", aria_live="polite"),
        class_="filters",
        role="search",
    )


def _left_out(rows: Sequence[CrystalRow]) -> Html | None:
    texts = []
    if len(rows) > DETAILED:
        texts.append(f"Structures and details are shown for the best {DETAILED} of {len(rows)}.")
    if len(rows) > LISTED:
        texts.append(f"The table ends after {LISTED} rows; the export holds all of them.")
    return h("p", " ".join(texts), class_="empty") if texts else None


def _body(row: CrystalRow, *, panel: bool) -> Html:
    columns = 1 + len(_COLUMNS)
    opener = h(
        "button", h("span", f"Details of {row.formula}", class_="sr"), type="button", class_="opener",
        aria_expanded="false", aria_controls=f"panel-{row.slot}",
    )  # fmt: skip
    cells = [
        h("td", opener if panel else None),
        _cell(formula(row.formula), row.formula, "name"),
        _cell(spacegroup(row.spacegroup_symbol), row.spacegroup_symbol or "~"),
        _cell(row.n_atoms, row.n_atoms, "r num wide"),
        _energy_cell(row.energy_above_hull, "r num"),
        _energy_cell(row.decomposition_energy, "r num not-narrow", signed=True),
        _energy_cell(row.formation_energy_per_atom, "r num wide"),
        _cell(verdict(row), 0 if row.sun else 3 - (row.unique is True) - (row.novel is True)),
        _cell(_level(row), row.level, "wide widest"),
    ]
    summary = h("tr", join(cells), class_="summary" + (" can-open" if panel else ""))
    detail = None
    if panel:
        detail = h(
            "tr",
            h("td", _panel(row), colspan=columns),
            class_="panel",
            id=f"panel-{row.slot}",
            hidden=True,
        )
    return h(
        "tbody",
        summary,
        detail,
        id=f"slot-{row.slot}",
        data_slot=str(row.slot),
        data_find=f"{row.formula} {row.crystal.chemsys} {row.spacegroup_symbol or ''}",
        data_e=None if row.energy_above_hull is None else f"{row.energy_above_hull:.9g}",
        data_sun="1" if row.sun else None,
    )


def _cell(content: str | int, sort: str | int, style: str | None = None) -> Html:
    return h("td", content, data_sort=str(sort), class_=style)


def _energy_cell(energy: float | None, style: str, *, signed: bool = False) -> Html:
    key = "" if energy is None else f"{energy:.9g}"
    shade = "" if energy is None or "wide" in style else " " + energy_class(energy) + "-text"
    return h("td", number(energy, signed=signed), data_sort=key, class_=style + shade)


def verdict(row: CrystalRow) -> Html:
    """SUN, or which of unique and novel hold."""
    if row.sun:
        return h("span", "SUN", class_="badge sun", title="stable, unique and novel")
    marks = []
    for letter, name, value in (("U", "unique", row.unique), ("N", "novel", row.novel)):
        state = {True: "yes", False: "no", None: "unknown"}[value]
        said = {True: name, False: f"not {name}", None: f"{name}: not checked"}[value]
        shown, read = h("span", letter, aria_hidden="true"), h("span", said, class_="sr")
        marks.append(h("span", shown, read, class_=f"badge {state}", title=said))
    return join(marks, " ")


def _level(row: CrystalRow) -> Html:
    if not row.level:
        return h("span", NOTHING, class_="none")
    flag = h("span", "uncertain", class_="badge warn", title="the energy correction is unreliable here")
    return join([row.level, " ", flag if row.uncertain else None])


# --- panel ---------------------------------------------------------------------------------------


def _panel(row: CrystalRow) -> Html:
    return h(
        "div",
        h("div", _viewer(row), class_="view"),
        h("div", _energies(row), _decomposition(row), class_="facts"),
        h("div", _geometry(row), _origin(row), class_="facts"),
        _scores(row),
        class_="detail",
    )


def _viewer(row: CrystalRow) -> Html:
    said = (
        f"Structure of {row.formula}. Drag or arrow keys rotate, plus and minus zoom, 0 resets. "
        "Click it before zooming with the wheel."
    )
    buttons = (
        h("button", "1×1×1", type="button", data_reps="1", aria_pressed="true"),
        h("button", "2×2×2", type="button", data_reps="2", aria_pressed="false"),
        h("button", "reset", type="button", data_reset=True),
        h("button", "save CIF", type="button", data_cif=True),
    )
    return join(
        [
            h(
                "canvas",
                data_slot=str(row.slot),
                class_="scene",
                tabindex=0,
                role="img",
                aria_label=said,
            ),
            h(
                "div",
                h("span", class_="elements-key"),
                h("span", join(buttons), class_="buttons"),
                class_="tools",
            ),
            h("p", class_="hint"),
        ]
    )


def _facts(title: str, pairs: Sequence[tuple[str, Html | str | None]]) -> Html:
    items = join(join([h("dt", label), h("dd", value)]) for label, value in pairs if value is not None)
    return join([h("h4", title), h("dl", items)])


def _energies(row: CrystalRow) -> Html:
    made = " · ".join(part for part in (row.level, row.corrections) if part)
    return _facts(
        "Energies",
        [
            ("above hull", quantity(row.energy_above_hull, "eV/atom", 4)),
            ("decomposition", quantity(row.decomposition_energy, "eV/atom", 4, signed=True)),
            ("formation", quantity(row.formation_energy_per_atom, "eV/atom", 4, signed=True)),
            ("level", made or NOTHING),
            ("reference", row.reference or NOTHING),
            (
                "caution",
                "the energy correction is unreliable for this crystal" if row.uncertain else None,
            ),
        ],
    )


def _decomposition(row: CrystalRow) -> Html:
    if not row.decomposition:
        return Html("")
    items = [
        h("li", h("b", formula(name)), " ", material(ident), h("span", percent(share), class_="num"))
        for name, ident, share in row.decomposition
    ]
    return join(
        [
            h("h4", "Competing phases ", h("small", "share of the atoms")),
            h("ul", join(items), class_="products"),
        ]
    )


def _geometry(row: CrystalRow) -> Html:
    crystal = row.crystal
    if not np.isfinite(crystal.lattice).all() or crystal.volume < 1e-6:
        return _facts("Cell as computed", [("atoms", str(row.n_atoms)), ("cell", "not a valid cell")])
    lengths, angles = cell_parameters(crystal.lattice)
    return _facts(
        "Cell as computed",
        [
            ("a, b, c", quantity_list(lengths, "Å", 3)),
            ("α, β, γ", quantity_list(angles, "°", 2)),
            ("volume", quantity(crystal.volume, "Å³", 2)),
            ("per atom", quantity(crystal.volume / len(crystal), "Å³", 2)),
            ("density", quantity(density(crystal), "g/cm³", 2)),
            ("atoms", str(row.n_atoms)),
            ("space group", spacegroup(row.spacegroup_symbol)),
        ],
    )


def cell_parameters(lattice: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[list[float], list[float]]:
    """Lengths a, b, c in angstrom and angles alpha, beta, gamma in degrees."""
    lengths = np.linalg.norm(lattice, axis=1)
    unit = lattice / lengths[:, None]
    cosines = [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return [float(x) for x in lengths], [float(x) for x in angles]


def quantity_list(values: Sequence[float], unit: str, digits: int) -> Html:
    """Several numbers with one unit."""
    text = ", ".join(number(v, digits) for v in values)
    return h("span", text + "\u2009", h("span", unit, class_="unit"), class_="num")


def _scores(row: CrystalRow) -> Html | None:
    if not row.scores:
        return None
    groups = [_facts(title, pairs) for title, pairs in row.scores]
    return h("div", join(h("div", group, class_="facts") for group in groups), class_="scores")


def _origin(row: CrystalRow) -> Html:
    return _facts(
        "Origin",
        [
            ("made from", row.source or NOTHING),
            ("candidate", join([f"no. {row.slot} · ", h("code", row.key[:12], title=row.key)])),
            ("DFT inputs", h("code", row.dft_path) if row.dft_path else "not prepared"),
            ("DFT", h("a", row.dft_verdict, href=f"#dft-{row.slot}") if row.dft_verdict else None),
        ],
    )
