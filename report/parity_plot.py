"""The potential against DFT: the signed energy above hull of each verified crystal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .markup import Html, h, join, number, plain_formula
from .model import DftCard
from .plots import METASTABLE, energy_class

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 408.0, 14.0, 364.0
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # eV/atom between ticks
_MOST_TICKS = 7


def parity_plot(cards: Sequence[DftCard]) -> Html:
    """A dot per crystal, which leads to its card; on the diagonal both agree."""
    energies = [e for card in cards for e in card.decomposition_energies]
    step, low, high = _axis(energies)

    def x(energy: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (energy - low) / (high - low)

    def y(energy: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (energy - low) / (high - low)

    marks = [*_ticks(low, high, step, x, y), *_thresholds(low, high, x, y)]
    marks.append(h("line", x1=x(low), y1=y(low), x2=x(high), y2=y(high), class_="diagonal"))
    marks.append(h("rect", x=_LEFT, y=_TOP, width=_RIGHT - _LEFT, height=_BOTTOM - _TOP, class_="frame"))
    marks.extend(_dot(card, x, y) for card in cards)
    marks.extend(_names())
    said = f"Signed energy above hull of {len(cards)} crystals by the potential and by DFT, in eV/atom"
    return h(
        "svg", join(marks), viewBox="0 0 420 412", class_="plot parity", role="img", aria_label=said
    )


def _axis(energies: Sequence[float]) -> tuple[float, float, float]:
    """(distance between ticks, lowest, highest); both ends are ticks, 0 and 0.1 lie within."""
    low, high = min([*energies, 0.0]), max([*energies, METASTABLE])
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), _STEPS[-1])
    margin = 0.15 * step
    return step, step * math.floor((low - margin) / step), step * math.ceil((high + margin) / step)


def _ticks(
    low: float, high: float, step: float, x: Callable[[float], float], y: Callable[[float], float]
) -> list[Html]:
    marks = []
    every = max(1, math.ceil((high - low) / step / _MOST_TICKS))
    digits = 2 if step * every < 0.1 else 1
    for k in range(round(low / step), round(high / step) + 1):
        if k % every:
            continue
        value = k * step
        text = number(value, digits)
        marks.append(h("line", x1=x(value), x2=x(value), y1=_TOP, y2=_BOTTOM, class_="grid"))
        marks.append(h("line", x1=_LEFT, x2=_RIGHT, y1=y(value), y2=y(value), class_="grid"))
        marks.append(h("text", text, x=x(value), y=_BOTTOM + 17, class_="tick mid"))
        marks.append(h("text", text, x=_LEFT - 7, y=y(value) + 4, class_="tick end"))
    return marks


def _thresholds(
    low: float, high: float, x: Callable[[float], float], y: Callable[[float], float]
) -> list[Html]:
    """The hull, on both axes."""
    return [
        h("line", x1=x(0), x2=x(0), y1=y(low), y2=y(high), class_="threshold"),
        h("line", x1=x(low), x2=x(high), y1=y(0), y2=y(0), class_="threshold"),
    ]


def _dot(card: DftCard, x: Callable[[float], float], y: Callable[[float], float]) -> Html:
    potential, dft = card.decomposition_energies
    said = (
        f"{plain_formula(card.formula)}, {card.verdict}: {number(dft, signed=True)} eV/atom by DFT, "
        f"{number(potential, signed=True)} by the potential"
    )
    dot = h("circle", h("title", said), cx=x(potential), cy=y(dft), r=6, class_="cand")
    return h("a", dot, href=f"#dft-{card.slot}", class_=energy_class(dft), aria_label=said)


def _names() -> list[Html]:
    middle = (_TOP + _BOTTOM) / 2
    turned = f"rotate(-90 13 {middle:g})"
    across = (_LEFT + _RIGHT) / 2
    return [
        h("text", "above hull by the potential (eV/atom)", x=across, y=_BOTTOM + 40, class_="name"),
        h("text", "above hull by DFT (eV/atom)", x=13, y=middle, transform=turned, class_="name"),
    ]
