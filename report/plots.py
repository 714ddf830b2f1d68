"""Funnel, rates, energy histogram and element map. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS
from .markup import Html, h, join, number, percent, words
from .model import FunnelStep, Rate

METASTABLE = 0.1  # eV/atom; with 0, the threshold that is always reported
_BIN_WIDTHS = (0.01, 0.02, 0.025, 0.05, 0.1)  # eV/atom; 0 and 0.1 are edges of the bins of each
_MOST_BINS = 44
_LOWEST, _HIGHEST = -0.5, 1.5  # eV/atom; what lies beyond is gathered in one bar on either side


def energy_class(energy: float) -> str:
    """Style class of a signed energy above hull in eV/atom; five steps, the same in every plot."""
    return "e" + str(sum(energy > edge + 1e-9 for edge in (0.0, 0.025, 0.05, METASTABLE)))


def energy_legend() -> Html:
    """What the colours of `energy_class` mean."""
    labels = ("≤ 0 (on or below)", "≤ 0.025", "≤ 0.05", "≤ 0.1", "> 0.1 eV/atom above hull")
    items = (
        h("span", h("i", class_=f"swatch e{k}"), label, class_="key") for k, label in enumerate(labels)
    )
    return h("p", join(items), class_="legend")


# --- funnel and rates ----------------------------------------------------------------------------


def funnel(steps: Sequence[FunnelStep]) -> Html:
    """One bar per step: what is left, what was rejected there, what failed there, and why."""
    if not steps:
        return h("p", "No step has run yet.", class_="empty")
    full = max(1, *(_entered(step) for step in steps))
    return h("ol", join(_funnel_step(step, full, steps[0].count) for step in steps), class_="funnel")


def _entered(step: FunnelStep) -> int:
    return step.count + sum(step.dropped.values()) + sum(step.failed.values())


def _funnel_step(step: FunnelStep, full: int, proposed: int) -> Html:
    parts = (
        ("kept", step.count, f"{step.count} {step.label}"),
        ("dropped", sum(step.dropped.values()), "rejected: " + _reasons(step.dropped)),
        ("failed", sum(step.failed.values()), "failed: " + _reasons(step.failed)),
    )
    bars, x = [], 0.0
    for kind, count, tip in parts:
        if count:
            width = 100 * count / full
            bars.append(
                h(
                    "rect",
                    h("title", tip),
                    x=f"{x:.3f}%",
                    width=f"{width:.3f}%",
                    height="100%",
                    class_=kind,
                )
            )
            x += width
    said = "; ".join(tip for _, count, tip in parts if count)
    chips = [h("span", f"{n} {words(r)}", class_="chip dropped") for r, n in _ordered(step.dropped)]
    chips += [h("span", f"{n} {words(r)}", class_="chip failed") for r, n in _ordered(step.failed)]
    share = percent(step.count / proposed) if proposed else ""
    return h(
        "li",
        h("span", step.label, class_="label"),
        h("svg", join(bars), class_="bar", role="img", aria_label=f"{_entered(step)} entered; {said}"),
        h(
            "span",
            h("b", f"{step.count:,}".replace(",", "\u202f")),
            " ",
            h("small", share),
            class_="count",
        ),
        h("span", join(chips), class_="chips") if chips else None,
    )


def _ordered(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((r, n) for r, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {words(r)}" for r, n in _ordered(reasons))


def rates(items: Sequence[Rate]) -> Html:
    """Each rate as a dot with its 95 % interval, on one common axis."""
    if not items:
        return h("p", "No rate has been counted yet.", class_="empty")
    top = min(1.0, _nice_ceiling(max(0.01, *(r.high for r in items))))
    grid = join(h("line", x1=f"{25 * k}%", x2=f"{25 * k}%", y2="100%", class_="grid") for k in range(5))
    rows = [_rate(rate, top, grid) for rate in items]
    ticks = (
        h("text", f"{25 * top * k:g} %", x=f"{25 * k}%", y=13, text_anchor=anchor)
        for k, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    axis = h("li", h("svg", join(ticks), class_="rate ticks"), aria_hidden="true")
    about = h("li", "dot: share of all proposed; bar: 95 % Wilson interval", class_="legend")
    return h("ul", join([*rows, axis, about]), class_="rates")


def _rate(rate: Rate, top: float, grid: Html) -> Html:
    share = rate.count / rate.n if rate.n else 0.0
    low, mid, high = (f"{100 * v / top:.3f}%" for v in (rate.low, share, rate.high))
    interval = f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %"
    said = f"{rate.count} of {rate.n}, {percent(share)}, 95 % interval {interval}"
    drawn = h(
        "svg",
        h("title", f"{rate.label}: {said}"),
        grid,
        h("line", x1=low, x2=high, y1="50%", y2="50%", class_="whisker"),
        h("circle", cx=mid, cy="50%", r=5, class_="dot") if rate.n else None,
        class_="rate",
        role="img",
        aria_label=said,
    )
    shown = percent(share) if rate.n else "–"
    detail = h("small", f"{rate.count} of {rate.n} · {interval}")
    return h(
        "li",
        h("span", rate.label, class_="label"),
        h("span", h("b", shown), " ", detail, class_="count"),
        drawn,
        class_="sun" if rate.label.startswith("SUN") else None,
    )


def _nice_ceiling(value: float) -> float:
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 4, 8, 10, 20) if step * scale >= value - 1e-12)


# --- histogram -----------------------------------------------------------------------------------


def histogram(energies: Sequence[float]) -> Html:
    """Counts per energy interval (eV/atom, signed); lines at 0 and 0.1 eV/atom.

    An interval holds its upper edge, so that "<= 0" and "<= 0.1" are whole bars.
    """
    finite = [e for e in energies if math.isfinite(e)]
    if not finite:
        return h("p", "No relaxed crystal has an energy above hull.", class_="empty")
    width, low, n = _binning(finite)
    counts = Counter(min(max(math.ceil((e - low) / width - 1e-7) - 1, -1), n) for e in finite)
    return _draw_histogram(counts, finite, width, low, n)


def _binning(energies: Sequence[float]) -> tuple[float, float, int]:
    """(bin width, lowest edge, number of bins); both ends are multiples of the width."""
    low = min(max(min(energies), _LOWEST), 0.0)
    high = max(min(max(energies), _HIGHEST), 0.2)
    width = next((w for w in _BIN_WIDTHS if (high - low) / w <= _MOST_BINS), _BIN_WIDTHS[-1])
    first = math.ceil(low / width - 1e-7) - 1  # the interval is open below: one further down
    last = math.ceil(high / width - 1e-7)
    return width, first * width, last - first


def _draw_histogram(
    counts: Counter[int], energies: Sequence[float], width: float, low: float, n: int
) -> Html:
    left, right, top, bottom = 46.0, 548.0, 44.0, 246.0
    under, over = counts.get(-1, 0) > 0, counts.get(n, 0) > 0
    slots = n + under + over
    step = (right - left) / slots
    most = max(counts.values())

    def x(energy: float) -> float:
        return left + step * (under + (energy - low) / width)

    def y(count: float) -> float:
        return bottom - (bottom - top) * count / most

    marks: list[Html] = []
    for tick in _count_ticks(most):
        marks.append(h("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        marks.append(h("text", tick, x=left - 7, y=y(tick) + 4, class_="tick end"))
    for k, count in sorted(counts.items()):
        marks.append(_bar(k, count, n, width, low, left + step * (k + under), step, y(count), bottom))
    marks.extend(_energy_axis(low, width, n, x, bottom))
    marks.extend(_thresholds(energies, x, top, bottom))
    marks.append(
        h("text", "energy above hull (eV/atom)", x=(left + right) / 2, y=bottom + 40, class_="name")
    )
    middle = (top + bottom) / 2
    turned = f"rotate(-90 12 {middle:g})"
    marks.append(h("text", "crystals", x=12, y=middle, transform=turned, class_="name"))
    stable, near = (sum(e <= t + 1e-9 for e in energies) for t in (0.0, METASTABLE))
    said = (
        f"Histogram of the energy above hull of {len(energies)} relaxed crystals: "
        f"{stable} at or below 0, {near} at or below {METASTABLE} eV/atom."
    )
    return h("svg", join(marks), viewBox="0 0 560 292", class_="plot", role="img", aria_label=said)


def _count_ticks(most: int) -> list[int]:
    step = max(1, int(_nice_ceiling(most / 4)))
    return list(range(0, most + 1, step))


def _bar(
    k: int, count: int, n: int, width: float, low: float, x: float, step: float, y: float, bottom: float
) -> Html:
    lower, upper = low + k * width, low + (k + 1) * width
    if k == -1:
        interval, shade = f"≤ {number(low, 2)}", energy_class(low)
    elif k == n:
        interval, shade = f"> {number(low + n * width, 2)}", "e4"
    else:
        interval, shade = f"{number(lower)} to {number(upper)}", energy_class(upper)
    title = h("title", f"{count} crystal{'s' if count > 1 else ''}, {interval} eV/atom")
    gap = min(1.5, step / 6)
    return h("rect", title, x=x + gap / 2, y=y, width=step - gap, height=bottom - y, class_=shade)


def _energy_axis(
    low: float, width: float, n: int, x: Callable[[float], float], bottom: float
) -> list[Html]:
    high = low + n * width
    every = next((s for s in (0.1, 0.2, 0.5) if (high - low) / s <= 9), 1.0)
    marks = [h("line", x1=x(low), x2=x(high), y1=bottom, y2=bottom, class_="axis")]
    for k in range(math.ceil(low / every - 1e-9), math.floor(high / every + 1e-9) + 1):
        place = x(k * every)
        marks.append(h("line", x1=place, x2=place, y1=bottom, y2=bottom + 5, class_="axis"))
        marks.append(h("text", number(k * every, 1), x=place, y=bottom + 19, class_="tick mid"))
    return marks


def _thresholds(
    energies: Sequence[float], x: Callable[[float], float], top: float, bottom: float
) -> list[Html]:
    marks = []
    for energy, level, label in ((0.0, top - 26, "≤ 0"), (METASTABLE, top - 10, "≤ 0.1")):
        count = sum(e <= energy + 1e-9 for e in energies)
        text = f"{label} eV/atom: {count} of {len(energies)} ({percent(count / len(energies))})"
        marks.append(h("line", x1=x(energy), x2=x(energy), y1=level - 8, y2=bottom, class_="threshold"))
        marks.append(h("text", text, x=x(energy) + 6, y=level + 2, class_="note"))
    return marks


# --- element map ---------------------------------------------------------------------------------

_ROW_ENDS = (2, 10, 18, 36, 54, 86, 118)


def place(z: int) -> tuple[int, int]:
    """(row, column) of an element in the 18-column table, from 0; lanthanoids and actinoids below."""
    if 57 <= z <= 70 or 89 <= z <= 102:
        return (7, z - 57 + 2) if z < 89 else (8, z - 89 + 2)
    row = next(k for k, end in enumerate(_ROW_ENDS) if z <= end)
    from_end = _ROW_ENDS[row] - z
    start = _ROW_ENDS[row - 1] + 1 if row else 1
    s_block = 1 if row == 0 else 2
    column = z - start if z - start < s_block else 17 - from_end
    return row, column


def element_map(counts: Mapping[str, tuple[int, int]]) -> Html:
    """Periodic table: shade = proposed crystals with the element, gold bar = share of them SUN."""
    most = max((proposed for proposed, _ in counts.values()), default=0)
    size, cells = 30.0, []
    for z in range(1, 119):
        row, column = place(z)
        x, y = column * size, row * size + (6 if row > 6 else 0)
        cells.append(_element(SYMBOLS[z], counts.get(SYMBOLS[z]), most, x, y, size - 2))
    known = sorted((s for s in counts if s in ATOMIC_NUMBERS), key=ATOMIC_NUMBERS.__getitem__)
    said = "Elements (proposed, SUN): " + ", ".join(f"{s} {counts[s][0]}, {counts[s][1]}" for s in known)
    drawn = h(
        "svg", join(cells), viewBox="0 0 540 278", class_="plot elements", role="img", aria_label=said
    )
    legend = h(
        "p",
        h("span", h("i", class_="swatch el-p"), "crystals proposed with the element", class_="key"),
        h("span", h("i", class_="swatch el-s"), "of them SUN (bar: share)", class_="key"),
        class_="legend",
    )
    return join([drawn, legend])


def _element(
    symbol: str, count: tuple[int, int] | None, most: int, x: float, y: float, size: float
) -> Html:
    middle = x + size / 2
    box = h("rect", x=x, y=y, width=size, height=size, rx=3, class_="cell")
    if not count or not count[0]:
        return h("g", box, h("text", symbol, x=middle, y=y + 18, class_="symbol off"))
    proposed, sun = count
    strength = 0.25 + 0.75 * math.sqrt(proposed / most)
    shade = h("rect", x=x, y=y, width=size, height=size, rx=3, class_="el-p", opacity=strength)
    share = h("rect", x=x, y=y + size - 4, width=size * sun / proposed, height=4, class_="el-s")
    ring = h("rect", x=x + 0.75, y=y + 0.75, width=size - 1.5, height=size - 1.5, rx=3, class_="el-ring")
    strong = "on strong" if strength > 0.62 else "on"
    return h(
        "g",
        h("title", f"{symbol}: in {proposed} proposed crystals, in {sun} SUN crystals"),
        box,
        shade,
        share if sun else None,
        ring if sun else None,
        h("text", symbol, x=middle, y=y + 13, class_=f"symbol {strong}"),
        h("text", proposed, x=middle, y=y + 22, class_=f"small {strong}"),
    )
