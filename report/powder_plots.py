"""Powder patterns drawn: calculated ones above each other; a measured one with what explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MOST_CURVES = 12
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")  # Okabe and Ito
_X = "2θ (degrees)"


@dataclass(frozen=True, eq=False)
class Curve:
    """A calculated pattern: its label, angles of its reflections (degrees), and points."""

    label: str
    reflections: Floats
    two_theta: Floats
    intensity: Floats


def draw_patterns(curves: Sequence[Curve], radiation: str, outs: Sequence[Path]) -> None:
    """The first `MOST_CURVES` patterns, each scaled to its highest peak, the first on top.

    Raises:
        StorageError: cannot be written.
    """
    shown = curves[:MOST_CURVES]
    figure, axes = _figure(1.2 + 0.9 * max(len(shown), 2))
    for k, curve in enumerate(shown):
        base, colour = 1.15 * (len(shown) - 1 - k), _COLOURS[k % len(_COLOURS)]
        axes.plot(curve.two_theta, base + curve.intensity / curve.intensity.max(), colour, lw=0.9)
        axes.text(
            0.995, base + 0.95, curve.label, color=colour, ha="right", va="top", fontsize=9,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set(xlabel=_X, ylabel="relative intensity", yticks=[], title=f"Calculated, {radiation}")
    axes.set_xlim(shown[0].two_theta[0], shown[0].two_theta[-1])
    axes.set_ylim(-0.05, 1.15 * len(shown) + 0.05)
    _save(figure, outs)


def draw_match(
    measured: Floats,
    curves: Sequence[Curve],
    unexplained: Floats,
    title: str,
    outs: Sequence[Path],
) -> None:
    """A measured pattern above background with the best candidate, their difference, and ticks.

    Args:
        measured: (n,) above background, on the angles of the first curve.
        curves: the best candidate first; of the next ones the reflections are shown.
        unexplained: angles of measured peaks that the best candidate leaves.

    Raises:
        StorageError: cannot be written.
    """
    best, top = curves[0], float(measured.max())
    figure, axes = _figure(5.2 + 0.25 * len(curves))
    x, scaled, fitted = best.two_theta, measured / top, best.intensity / top
    axes.plot(x, scaled, ".", color="0.35", ms=2, label="measured, background taken off")
    axes.plot(x, fitted, _COLOURS[0], lw=1.1, label=best.label)
    lowest = float(min((scaled - fitted).min(), 0.0))
    below = -0.08 + float(min(scaled.min(), 0.0)) - float((scaled - fitted).max())
    axes.plot(x, scaled - fitted + below, color="0.6", lw=0.7, label="difference")
    if len(unexplained):
        heights = np.interp(unexplained, x, scaled) + 0.04
        label = "not explained by the best"
        axes.plot(unexplained, heights, "v", color=_COLOURS[1], ms=6, label=label)
    floor = below + lowest - 0.06
    for k, curve in enumerate(curves):
        inside = curve.reflections[(curve.reflections >= x[0]) & (curve.reflections <= x[-1])]
        colour = _COLOURS[(k if k == 0 else k + 1) % len(_COLOURS)]
        axes.vlines(inside, floor - 0.035, floor, color=colour, lw=0.8)
        axes.text(
            1.005, floor - 0.0175, curve.label, color=colour, va="center", fontsize=8,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        floor -= 0.065
    axes.set(xlabel=_X, ylabel="relative intensity", title=title)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(floor, 1.08)
    axes.set_yticks([0, 0.5, 1])
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _save(figure, outs)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, outs: Sequence[Path]) -> None:
    for out in outs:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, dpi=150)
        except OSError as error:
            raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
