"""The finalists among the other crystals of their compositions: one small table each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from .markup import NOTHING, Html, formula, h, join, material, number
from .model import PolymorphRow

_TABLES = 24
_ROWS = 8  # of one composition, finalists before others

_HEADINGS = (
    ("", "r num"),
    ("crystal", ""),
    ("space group", "r num"),
    ("E formation", "r num"),
    ("gap", "r num"),
    ("structure", "r num"),
    ("energy from", "wide"),
)


def polymorph_tables(rows: Sequence[PolymorphRow]) -> Html:
    """A table per composition, those with the best finalist first."""
    groups = [list(group) for _, group in groupby(rows, key=lambda r: r.formula)]
    groups.sort(key=lambda group: min((_gap(r) for r in group if r.finalist), default=0.0))
    tables = h("div", join(_table(group) for group in groups[:_TABLES]), class_="polymorphs")
    more = len(groups) - _TABLES
    left = f"{more} further compositions are in polymorphs.csv." if more > 0 else None
    return join([tables, h("p", left, class_="empty") if left else None])


def _gap(row: PolymorphRow) -> float:
    return 0.0 if row.gap is None else row.gap


def _table(group: Sequence[PolymorphRow]) -> Html:
    shown = _chosen(group)
    head = h("tr", join(h("th", title, class_=style or None, scope="col") for title, style in _HEADINGS))
    left = len(group) - len(shown)
    more = h("p", f"and {left} more, in polymorphs.csv", class_="empty") if left else None
    table = h("table", h("thead", head), h("tbody", join(_line(r) for r in shown)), class_="phases")
    title = h("h4", formula(group[0].formula))
    return h("div", title, h("div", table, class_="scroll"), more)


def _chosen(group: Sequence[PolymorphRow]) -> list[PolymorphRow]:
    """The lowest of each structure and all finalists, as far as there is room; by rank."""
    seen: set[int] = set()
    first: list[PolymorphRow] = []
    again: list[PolymorphRow] = []
    for row in group:
        repeated = row.cluster is not None and row.cluster in seen
        (again if repeated and not row.finalist else first).append(row)
        if row.cluster is not None:
            seen.add(row.cluster)
    best = sorted(first, key=lambda r: (not r.finalist, r.rank)) + again
    return sorted(best[:_ROWS], key=lambda r: r.rank)


def _line(row: PolymorphRow) -> Html:
    cells = (
        str(row.rank),
        _name(row),
        NOTHING if row.spacegroup is None else str(row.spacegroup),
        number(row.formation_energy_per_atom, 4, signed=True),
        number(row.gap, 4, signed=True),
        "not compared" if row.cluster is None else str(row.cluster),
        row.level,
    )
    return h(
        "tr",
        join(h("td", cell, class_=s or None) for cell, (_, s) in zip(cells, _HEADINGS, strict=True)),
        class_="finalist" if row.finalist else None,
    )


def _name(row: PolymorphRow) -> Html:
    if row.known:
        return material(row.name)
    if row.slot is None:
        return h("code", row.name[:12])
    mark = h("span", "SUN", class_="badge sun") if row.finalist else None
    return join([h("a", f"no. {row.slot}", href=f"#slot-{row.slot}"), " ", mark])
