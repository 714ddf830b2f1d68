"""Hull diagrams: binary and ternary as SVG, every other system as a list of its phases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .hulls import edges, lower_hull, with_elements
from .markup import Html, formula, h, join, material, number, plain_formula
from .model import HullDiagram, HullPhase
from .plots import METASTABLE, energy_class

_ON_HULL = 1e-4  # eV/atom; energies are known to about this
_LISTED = 150  # phases in a list
_ENERGY_WINDOW = 0.6  # eV/atom above hull; unstable phases beyond would flatten a binary diagram

_SIDES = (  # anchor of a label, and its offset from the point; the first free one is taken
    *(("start", 8.0, 4.0), ("end", -8.0, 4.0), ("middle", 0.0, -9.0), ("middle", 0.0, 18.0)),
    *(("start", 8.0, -6.0), ("end", -8.0, -6.0), ("start", 8.0, 14.0), ("end", -8.0, 14.0)),
)

Place = Callable[[HullPhase], tuple[float, float]]


def hull_figure(diagram: HullDiagram) -> Html:
    """The diagram of one chemical system with its phases as a list below."""
    draw = hull_svg(diagram)
    counts = [sum(p.kind == kind for p in diagram.points) for kind in ("reference", "candidate")]
    lowest = f", the lowest of {counts[1] + diagram.left_out:,}" if diagram.left_out else ""
    caption = h(
        "figcaption",
        h("b", "–".join(diagram.elements)),
        h("small", f"{counts[0]} reference phases · {counts[1]} candidates{lowest}"),
    )
    if draw is None:
        above = [p for p in diagram.points if p.kind == "reference" and p.energy_above_hull > _ON_HULL]
        others = [p for p in diagram.points if p.kind == "candidate" or p.energy_above_hull <= _ON_HULL]
        summary = h("summary", f"{len(above)} more known phases, above the hull")
        rest = h("details", summary, _phase_list(diagram, above)) if above else None
        return h("figure", caption, _phase_list(diagram, others), rest, class_="hull listed")
    hidden = sum(p.energy_above_hull > _ENERGY_WINDOW for p in diagram.points)
    far = f" ({hidden} not drawn: > {_ENERGY_WINDOW} eV/atom above hull)" if hidden else ""
    listed = h(
        "details", h("summary", "all phases as a table", far), _phase_list(diagram, diagram.points)
    )
    return h("figure", caption, draw, listed, class_="hull")


def hull_svg(diagram: HullDiagram) -> Html | None:
    """The plot alone, to be styled by the page; None unless there are two or three elements."""
    draw = {2: _binary, 3: _ternary}.get(len(diagram.elements))
    return draw(diagram) if draw is not None else None


# --- binary --------------------------------------------------------------------------------------


def _binary(diagram: HullDiagram) -> Html:
    phases = with_elements(diagram)
    shown = [p for p in [*phases, *_candidates(diagram)] if p.energy_above_hull <= _ENERGY_WINDOW]
    energies = [p.formation_energy_per_atom for p in shown]
    low, high = min([*energies, -0.05]), max([*energies, 0.0])
    margin = 0.1 * (high - low)
    low, high = low - margin, high + margin
    left, right, top, bottom = 58.0, 500.0, 14.0, 296.0

    def place(p: HullPhase) -> tuple[float, float]:
        return left + (right - left) * p.fractions[1], top + (bottom - top) * _share(p)

    def _share(p: HullPhase) -> float:
        return (high - p.formation_energy_per_atom) / (high - low)

    marks = _binary_axes(diagram.elements, low, high, (left, right, top, bottom))
    marks += _tie_lines(diagram, place)
    labels = _Labels((left - 20, top, right + 20, bottom))
    marks += _points(diagram, [p for p in phases if p in shown], place, labels)
    return h(
        "svg", join(marks), viewBox="0 0 520 350", class_="plot", role="img", aria_label=_said(diagram)
    )


def _binary_axes(
    elements: Sequence[str], low: float, high: float, frame: tuple[float, float, float, float]
) -> list[Html]:
    left, right, top, bottom = frame
    every = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / s <= 7)
    marks = []
    for k in range(math.ceil(low / every), math.floor(high / every) + 1):
        y = top + (bottom - top) * (high - k * every) / (high - low)
        marks.append(h("line", x1=left, x2=right, y1=y, y2=y, class_="axis" if k == 0 else "grid"))
        marks.append(
            h("text", number(k * every, 2 if every < 0.1 else 1), x=left - 7, y=y + 4, class_="tick end")
        )
    for k in range(6):
        x = left + (right - left) * k / 5
        text = elements[0] if k == 0 else elements[1] if k == 5 else number(k / 5, 1)
        marks.append(h("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        marks.append(h("text", text, x=x, y=bottom + 20, class_="vertex" if k in (0, 5) else "tick mid"))
    middle = (top + bottom) / 2
    marks.append(h("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    marks.append(
        h(
            "text",
            f"atomic fraction of {elements[1]}",
            x=(left + right) / 2,
            y=bottom + 42,
            class_="name",
        )
    )
    turned = f"rotate(-90 13 {middle:g})"
    marks.append(
        h("text", "formation energy (eV/atom)", x=13, y=middle, transform=turned, class_="name")
    )
    return marks


# --- ternary -------------------------------------------------------------------------------------

_CORNERS = ((52.0, 404.0), (468.0, 404.0), (260.0, 43.7))  # equilateral


def _ternary(diagram: HullDiagram) -> Html:
    def place(p: HullPhase) -> tuple[float, float]:
        return (
            sum(f * c[0] for f, c in zip(p.fractions, _CORNERS, strict=True)),
            sum(f * c[1] for f, c in zip(p.fractions, _CORNERS, strict=True)),
        )

    marks = _ternary_frame(diagram.elements)
    marks += _tie_lines(diagram, place)
    labels = _Labels((0.0, 22.0, 520.0, 428.0))
    phases = with_elements(diagram)
    inside = [p for p in phases if max(p.fractions) < 1 - 1e-6 and p.energy_above_hull <= _ENERGY_WINDOW]
    marks += _points(diagram, inside, place, labels)
    return h(
        "svg", join(marks), viewBox="0 0 520 436", class_="plot", role="img", aria_label=_said(diagram)
    )


def _ternary_frame(elements: Sequence[str]) -> list[Html]:
    a, b, c = _CORNERS
    marks = [h("path", d=f"M{a[0]} {a[1]}L{b[0]} {b[1]}L{c[0]} {c[1]}Z", class_="frame")]
    for k in range(1, 5):
        for p, q, r in ((a, b, c), (b, c, a), (c, a, b)):
            start, end = _between(p, q, k / 5), _between(p, r, k / 5)
            marks.append(h("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_="grid"))
    for symbol, (x, y), (dx, dy) in zip(
        elements, _CORNERS, ((-16.0, 20.0), (16.0, 20.0), (0.0, -13.0)), strict=True
    ):
        marks.append(h("text", symbol, x=x + dx, y=y + dy, class_="vertex"))
    return marks


def _between(p: tuple[float, float], q: tuple[float, float], share: float) -> tuple[float, float]:
    return p[0] + (q[0] - p[0]) * share, p[1] + (q[1] - p[1]) * share


# --- what both share -----------------------------------------------------------------------------


def _candidates(diagram: HullDiagram) -> list[HullPhase]:
    """Worst first, so that the best is drawn on top."""
    found = [p for p in diagram.points if p.kind == "candidate"]
    return sorted(found, key=lambda p: -p.energy_above_hull)


def _tie_lines(diagram: HullDiagram, place: Place) -> list[Html]:
    """The hull of the reference, and dashed what candidates below it change."""
    known = with_elements(diagram)
    below = [p for p in _candidates(diagram) if p.energy_above_hull < -1e-6]
    marks = [_segment(known[i], known[j], place, "tie") for i, j in edges(lower_hull(known))]
    if below:
        both = [*known, *below]
        new = [(i, j) for i, j in edges(lower_hull(both)) if max(i, j) >= len(known)]
        marks += [_segment(both[i], both[j], place, "tie new") for i, j in new]
    return marks


def _segment(p: HullPhase, q: HullPhase, place: Place, style: str) -> Html:
    (x1, y1), (x2, y2) = place(p), place(q)
    return h("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _points(
    diagram: HullDiagram, references: Sequence[HullPhase], place: Place, labels: _Labels
) -> list[Html]:
    on_hull = [p for p in references if p.energy_above_hull <= _ON_HULL]
    off_hull = [p for p in references if p.energy_above_hull > _ON_HULL]
    marks = [_dot(p, place(p), 2.4, "ref off") for p in off_hull]
    marks += [_dot(p, place(p), 4.6, "ref") for p in on_hull]
    candidates = [p for p in _candidates(diagram) if p.energy_above_hull <= _ENERGY_WINDOW]
    marks += [_diamond(p, place(p)) for p in candidates]
    for p in [*on_hull, *candidates]:
        labels.occupy(*place(p))
    named: set[str] = set()
    near = [p for p in reversed(candidates) if p.energy_above_hull <= METASTABLE]
    for p in [*on_hull, *near]:
        style = "lab found" if p.kind == "candidate" else "lab"
        if p.label not in named and max(p.fractions) < 1 - 1e-6:
            named.add(p.label)
            marks += labels.put(plain_formula(p.label), *place(p), style)
    return marks


def _dot(p: HullPhase, xy: tuple[float, float], radius: float, style: str) -> Html:
    return h("circle", h("title", _tip(p)), cx=xy[0], cy=xy[1], r=radius, class_=style)


def _diamond(p: HullPhase, xy: tuple[float, float]) -> Html:
    (x, y), r = xy, 6.2
    path = f"M{x:.2f} {y - r:.2f}L{x + r:.2f} {y:.2f}L{x:.2f} {y + r:.2f}L{x - r:.2f} {y:.2f}Z"
    return h(
        "path",
        h("title", _tip(p)),
        d=path,
        class_=f"cand {energy_class(p.energy_above_hull)}",
        data_slot=None if p.slot is None else str(p.slot),
    )


def _tip(p: HullPhase) -> str:
    parts = ("candidate" if p.kind == "candidate" else None, plain_formula(p.label), p.material_id)
    return (
        " · ".join(part for part in parts if part)
        + f"\nformation energy {number(p.formation_energy_per_atom)} eV/atom"
        f"\nabove hull {number(p.energy_above_hull)} eV/atom"
    )


def _said(diagram: HullDiagram) -> str:
    stable = [p.label for p in with_elements(diagram) if p.energy_above_hull <= _ON_HULL]
    return (
        f"Phase diagram {'-'.join(diagram.elements)}. Stable: {', '.join(stable[:30])}. "
        f"{len(_candidates(diagram))} candidates."
    )


class _Labels:
    """Places labels beside points where nothing is yet; a label that finds no room is left out."""

    _SIZE = 12.0

    def __init__(self, frame: tuple[float, float, float, float]) -> None:
        self._frame = frame
        self._taken: list[tuple[float, float, float, float]] = []

    def occupy(self, x: float, y: float) -> None:
        """A point is drawn here."""
        self._taken.append((x - 5, y - 5, x + 5, y + 5))

    def put(self, text: str, x: float, y: float, style: str) -> list[Html]:
        """The label, or nothing."""
        wide = (
            4
            + sum(0.5 if c in "₀₁₂₃₄₅₆₇₈₉" else 0.86 if c.isupper() else 0.66 for c in text) * self._SIZE
        )
        for anchor, dx, dy in _SIDES:
            start = x + dx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
            box = (start, y + dy - self._SIZE + 2, start + wide, y + dy + 3)
            if self._free(box):
                self._taken.append(box)
                return [h("text", text, x=x + dx, y=y + dy, text_anchor=anchor, class_=style)]
        return []

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = self._frame
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
            return False
        return not any(
            box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in self._taken
        )


# --- every system as a list ----------------------------------------------------------------------


def _phase_list(diagram: HullDiagram, phases: Sequence[HullPhase]) -> Html:
    """Phases with composition strip and energies; candidates and stable phases first."""
    points = sorted(phases, key=lambda p: (p.kind == "reference", p.energy_above_hull, p.label))
    head = h(
        "tr",
        h("th", "phase"), h("th", "atomic fractions"),
        h("th", "E form (eV/atom)", class_="r"), h("th", "E above hull (eV/atom)", class_="r"),
    )  # fmt: skip
    body = join(_phase_row(p, diagram.elements) for p in points[:_LISTED])
    more = len(points) - _LISTED
    keys = h(
        "p",
        join(
            h("span", h("i", class_=f"swatch part{k % 8}"), s, class_="key")
            for k, s in enumerate(diagram.elements)
        ),
        class_="legend",
    )
    rest = h("p", f"{more} further phases are not listed.", class_="empty") if more > 0 else None
    table = h("table", h("thead", head), h("tbody", body), class_="phases")
    return join([keys, h("div", table, class_="scroll"), rest])


def _phase_row(p: HullPhase, elements: Sequence[str]) -> Html:
    strip, x = [], 0.0
    for k, (symbol, fraction) in enumerate(zip(elements, p.fractions, strict=True)):
        if fraction > 0:
            tip = h("title", f"{symbol} {100 * fraction:.1f} %")
            strip.append(h("rect", tip, x=x, width=90 * fraction, height=9, class_=f"part{k % 8}"))
            x += 90 * fraction
    said = ", ".join(f"{s} {f:.3f}" for s, f in zip(elements, p.fractions, strict=True) if f > 0)
    mark = (
        h("i", class_=f"swatch dia {energy_class(p.energy_above_hull)}")
        if p.kind == "candidate"
        else None
    )
    name = h("a", formula(p.label), href=f"#slot-{p.slot}") if p.slot is not None else formula(p.label)
    svg = h("svg", join(strip), viewBox="0 0 90 9", width=90, height=9, role="img", aria_label=said)
    return h(
        "tr",
        h("td", mark, name, " ", material(p.material_id)),
        h("td", svg),
        h("td", number(p.formation_energy_per_atom), class_="r num"),
        h("td", number(p.energy_above_hull), class_="r num"),
        class_=p.kind,
    )
