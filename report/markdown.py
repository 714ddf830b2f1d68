"""What a campaign shows in markdown that needs nothing else: tables, and pictures inside as data.

Every text stays below `LARGEST` characters: pictures that would go beyond it are left out.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

from .hull_plots import hull_svg
from .markup import Html, h, number, percent
from .markup import words as plain
from .model import BudgetRow, CrystalRow, FailureRow, FunnelStep, HullDiagram, Rate
from .picture import picture

LARGEST = 400_000
_BAR = 20  # characters
_ABREAST = 3  # pictures
_STYLE = (  # of a plot that stands alone, on white in a light and in a dark page
    "text{font:12px sans-serif;fill:#1c2127}.tick,.name{fill:#5b646e}.end{text-anchor:end}"
    ".mid,.name,.vertex{text-anchor:middle}.vertex{font-size:16px;font-weight:650}"
    ".grid{stroke:#ece9e0}line.axis{stroke:#5b646e}.frame{fill:none;stroke:#5b646e;stroke-width:1.2}"
    ".tie{stroke:#1c2127;stroke-width:1.2;opacity:.55}"
    ".tie.new{stroke:#7d5200;stroke-dasharray:5 4;opacity:1}"
    ".ref{fill:#1c2127;stroke:#fff;stroke-width:1.2}.ref.off{fill:#fff;stroke:#5b646e}"
    ".cand{stroke:#fff}.lab{font-size:12px}.lab.found{font-weight:650;fill:#7d5200}"
    ".e0{fill:#e0a311}.e1{fill:#dd7a2c}.e2{fill:#bf4d57}.e3{fill:#84407a}.e4{fill:#9aa1a9}"
)


def funnel_text(title: str, steps: Sequence[FunnelStep], rates: Sequence[Rate]) -> str:
    """How many are left after each step and why the others are not, then the rates over all."""
    first = max(steps[0].count, 1) if steps else 1
    rows = [
        (
            step.label,
            f"{step.count:,}",
            bar(step.count / first),
            _reasons(step.dropped),
            _reasons(step.failed),
        )
        for step in steps
    ]
    lines = [f"## {_cell(title)}", "", *table(("step", "#left", "", "rejected", "failed"), rows), ""]
    shares = [
        (
            rate.label,
            f"{rate.count:,}",
            percent(rate.count / rate.n) if rate.n else "",
            f"{percent(rate.low)} to {percent(rate.high)}",
        )
        for rate in rates
    ]
    return "\n".join([*lines, *table(("of all proposed", "#count", "#rate", "#95 % interval"), shares)])


def best_text(title: str, rows: Sequence[CrystalRow], diagrams: Sequence[HullDiagram]) -> str:
    """The best crystals as a table, then the hulls of their systems and their pictures."""
    facts = [
        (
            str(row.slot),
            row.formula,
            row.spacegroup_symbol or "",
            str(row.n_atoms),
            number(row.energy_above_hull),
            number(row.decomposition_energy, signed=True),
            row.dft_verdict or "",
        )
        for row in rows
    ]
    head = ("#slot", "crystal", "space group", "#atoms", "#above hull", "#to known hull", "DFT")
    lines = [f"## {_cell(title)}", ""]
    if not rows:
        return "\n".join([*lines, "No SUN crystal yet."])
    lines += [*table(head, facts), "", "Energies in eV/atom; to the known hull: negative below it."]
    levels = sorted({f"{row.level}, hull: {row.reference}" for row in rows if row.level})
    lines += ["", *(f"Level: {_cell(level)}." for level in levels), ""]
    return "\n".join(lines) + _pictures(rows, diagrams, LARGEST)


def budget_text(title: str, rows: Sequence[BudgetRow], ended: str = "") -> str:
    """Each limit: spent, left, and how far it is burnt down."""
    cells = []
    for row in rows:
        share = None if row.limit is None else min(1.0, row.spent / row.limit)
        left = "" if row.limit is None else amount(max(0.0, row.limit - row.spent))
        limit = "no limit" if row.limit is None else amount(row.limit)
        burnt = "" if share is None else f"{bar(share)} {percent(share, 0)}"
        cells.append((row.label, amount(row.spent), limit, left, burnt))
    lines = [f"## {_cell(title)}", ""]
    lines += table(("limit", "#spent", "#of", "#left", "burnt down"), cells)
    return "\n".join([*lines, *(["", _cell(ended)] if ended else [])])


def failures_text(title: str, rows: Sequence[FailureRow]) -> str:
    """What could not be judged or computed, by stage and reason, most frequent first."""
    lines = [f"## {_cell(title)}", ""]
    if not rows:
        return "\n".join([*lines, "Nothing has failed."])
    ordered = sorted(rows, key=lambda row: -row.count)
    cells = [(row.stage, row.reason, f"{row.count:,}", row.example[:300]) for row in ordered]
    return "\n".join([*lines, *table(("stage", "reason", "#count", "for example"), cells)])


# --- parts ---------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; a column whose title begins with # is aligned right."""
    titles = [title.removeprefix("#") for title in head]
    aligned = ["---:" if title.startswith("#") else "---" for title in head]
    cells = [titles, aligned, *([_cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def bar(share: float) -> str:
    """A share in 0..1 as blocks; what is more than nothing shows."""
    full = max(round(_BAR * share), 1) if share > 0 else 0
    return "█" * full + "░" * (_BAR - full)


def amount(value: float) -> str:
    """A count as it is, any other amount to three digits."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def image(svg: Html, said: str) -> str:
    """A picture inside the text."""
    data = base64.b64encode(svg.encode()).decode()
    return f"![{said}](data:image/svg+xml;base64,{data})"


def _pictures(rows: Sequence[CrystalRow], diagrams: Sequence[HullDiagram], room: int) -> str:
    """The hulls one below the other, then the crystals side by side, as far as there is room."""
    left_out = 0

    def fits(text: str) -> bool:
        nonlocal room, left_out
        room -= len(text)
        left_out += room < 0
        return room >= 0

    parts = [text for text in _hulls(diagrams) if fits(text)]
    drawn = [(title, text) for title, text in _crystals(rows) if fits(text)]
    for begin in range(0, len(drawn), _ABREAST):
        row = [*drawn[begin : begin + _ABREAST], *[("", "")] * _ABREAST][:_ABREAST]
        titles, images = ([part[k] for part in row] for k in (0, 1))
        parts.append("\n".join(f"| {' | '.join(c)} |" for c in (titles, ["---"] * _ABREAST, images)))
    if left_out:
        parts.append(f"{left_out} more in the report.")
    return "\n" + "\n\n".join(parts)


def _crystals(rows: Sequence[CrystalRow]) -> Iterable[tuple[str, str]]:
    """(title, picture) of each crystal that can be drawn."""
    for row in rows:
        drawn = picture(row.crystal)
        if drawn is not None:
            said = _cell(
                " ".join(part for part in (f"{row.slot}: {row.formula}", row.spacegroup_symbol) if part)
            )
            yield said, image(drawn, said)


def _hulls(diagrams: Sequence[HullDiagram]) -> Iterable[str]:
    for diagram in diagrams:
        drawn = hull_svg(diagram)
        if drawn is not None:
            system = "-".join(diagram.elements)
            yield f"### Hull of {system}\n\n{image(_alone(drawn), f'phase diagram of {system}')}"


def _alone(plot: Html) -> Html:
    """A plot of the report with its style, on white."""
    white = h("rect", width="100%", height="100%", fill="#fff")
    style = Html(f"<style>{_STYLE}</style>")
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', plot)
    size = f' width="{found[1]}" height="{found[2]}"' if found else ""
    opening = f'<svg xmlns="http://www.w3.org/2000/svg"{size}'
    inside = plot.removeprefix("<svg")
    at = inside.index(">") + 1
    return Html(opening + inside[:at] + style + white + inside[at:])


def _reasons(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{n:,} {plain(why)}" for why, n in ordered)


def _cell(text: str) -> str:
    """Text that neither ends a table's cell nor becomes markup."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", flat) if flat else ""
