"""A crystal as one SVG that needs nothing else: for markdown, where no script runs."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .markup import Html, h, join
from .viewer import element_styles, scene

_TURN, _TILT = np.radians(-18.0), np.radians(-76.0)  # about z, then about x: c points up
_NEAR_FACE = 1e-3  # fractional: an atom on a face of the cell is drawn on the opposite face too
_SHRUNK = 0.42  # drawn radius as a share of the covalent one
_MARGIN, _SIZE = 0.9, 300.0  # angstrom around; pixels of the longer side

Vectors = NDArray[np.float64]


def picture(crystal: Crystal) -> Html | None:
    """The conventional cell with its bonds, seen along about a; None where it cannot be drawn."""
    shown = scene(crystal)
    if shown is None:
        return None
    lattice = np.array(shown["lattice"]).reshape(3, 3)
    frac = np.array(shown["frac"]).reshape(-1, 3)
    view = _view()
    drawn = _with_images(frac)
    index = {name: k for k, name in enumerate(drawn)}
    places = np.array([frac[i] + shift for i, *shift in drawn]) @ lattice @ view
    corners = np.array(list(product((0, 1), repeat=3))) @ lattice @ view
    styles = element_styles(shown["kinds"])
    kinds = [shown["kinds"][shown["types"][i]] for i, *_ in drawn]
    low, high = _frame(np.vstack([places, corners]))
    scale = _SIZE / float((high - low).max())

    def at(point: Vectors) -> tuple[float, float]:
        return float((point[0] - low[0]) * scale), float((high[1] - point[1]) * scale)

    marks: list[tuple[float, Html]] = []
    for a, b in _edges():
        marks.append((-1e3, _line(at(corners[a]), at(corners[b]), "#9aa1a9", 1.0)))
    for i, j in _bonds(shown["bonds"], index):
        middle = (places[i] + places[j]) / 2
        for end in (i, j):
            depth = float((places[end][2] + middle[2]) / 2) - 0.4
            marks.append((depth, _line(at(places[end]), at(middle), styles[kinds[end]][0], 4.5)))
    for place, kind in zip(places, kinds, strict=True):
        x, y = at(place)
        radius = _SHRUNK * styles[kind][1] * scale
        ball = h("circle", h("title", kind), cx=x, cy=y, r=radius, fill=f"url(#{kind})", class_="atom")
        marks.append((float(place[2]), ball))
    marks.sort(key=lambda mark: mark[0])
    width, height = (float(x) * scale for x in (high - low))
    gradients = h("defs", join(_gradient(kind, styles[kind][0]) for kind in shown["kinds"]))
    key = _legend(shown["kinds"], {k: s[0] for k, s in styles.items()}, height)
    return h(
        "svg", gradients, join(mark for _, mark in marks), key,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:.0f} {height + 26:.0f}",
        width=round(width), height=round(height + 26), font_family="sans-serif", font_size="13",
    )  # fmt: skip


def _view() -> Vectors:
    """Row vectors in angstrom to (right, up, towards the reader)."""
    c, s = np.cos(_TURN), np.sin(_TURN)
    turn: Vectors = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    c, s = np.cos(_TILT), np.sin(_TILT)
    tilt = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    view: Vectors = turn @ tilt
    return view


def _with_images(frac: Vectors) -> list[tuple[int, int, int, int]]:
    """(atom, shift): the atoms of the cell, and those on its faces, edges and corners repeated."""
    found = []
    for i, place in enumerate(frac):
        ways = [(0, 1) if x < _NEAR_FACE else (0, -1) if x > 1 - _NEAR_FACE else (0,) for x in place]
        found += [(i, a, b, c) for a, b, c in product(*ways)]
    return found


def _bonds(flat: list[int], index: dict[tuple[int, int, int, int], int]) -> list[tuple[int, int]]:
    """Pairs of drawn atoms."""
    found = []
    for k in range(0, len(flat), 5):
        i, j, *image = flat[k : k + 5]
        for (atom, *shift), drawn in index.items():
            if atom != i:
                continue
            a, b, c = (s + t for s, t in zip(shift, image, strict=True))
            if (other := index.get((j, a, b, c))) is not None:
                found.append((drawn, other))
    return found


def _edges() -> list[tuple[int, int]]:
    """Pairs of the corners of the cell, in the order of `product`."""
    return [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]


def _frame(points: Vectors) -> tuple[Vectors, Vectors]:
    return points[:, :2].min(axis=0) - _MARGIN, points[:, :2].max(axis=0) + _MARGIN


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> Html:
    ends: dict[str, Any] = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    return h("line", **ends, stroke=colour, stroke_width=width, stroke_linecap="round")


def _gradient(kind: str, colour: str) -> Html:
    stops = (("0%", "#ffffff"), ("35%", colour), ("100%", _darker(colour)))
    inside = join(h("stop", offset=offset, stop_color=c) for offset, c in stops)
    return h("radialGradient", inside, id=kind, cx="35%", cy="32%", r="75%")


def _darker(colour: str) -> str:
    parts = (int(colour[k : k + 2], 16) * 6 // 10 for k in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _legend(kinds: list[str], colours: dict[str, str], top: float) -> Html:
    parts, x = [], 12.0
    for kind in kinds:
        dot = h("circle", cx=x, cy=top + 13, r=6.0, fill=colours[kind], stroke="#5b646e")
        parts += [dot, h("text", kind, x=x + 10, y=top + 17, fill="#5b646e")]
        x += 46
    return h("g", join(parts))
