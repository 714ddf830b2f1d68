"""Niggli cells as pymatgen finds them."""

from __future__ import annotations

import math

import numpy as np

from .algebra import (
    Floats,
    Ints,
    copy,
    determinant,
    dot,
    inverse,
    inverse_heights,
    lll_reduce,
    product,
    wrap,
)
from .compiled import inner

_MAX_SKEW = 50.0  # more skewed cells have too many images to list in pymatgen's order
_MAX_POINTS = 20_000_000.0


@inner
def niggli_form(basis: Floats, e: float, form: Floats) -> None:
    """Niggli form (a.a, b.b, c.c, 2b.c, 2a.c, 2a.b) at tolerance `e`, square angstrom, into `form`.

    The steps of Grosse-Kunstleve, Sauter and Adams, Acta Cryst. A 60, 1 (2004),
    doi:10.1107/S010876730302186X.
    """
    a, b, c = dot(basis, 0, 0), dot(basis, 1, 1), dot(basis, 2, 2)
    x, y, z = 2 * dot(basis, 1, 2), 2 * dot(basis, 0, 2), 2 * dot(basis, 0, 1)
    for _ in range(100):
        if b + e < a or (abs(a - b) < e and abs(x) > abs(y) + e):
            a, b, x, y = b, a, y, x
        if c + e < b or (abs(b - c) < e and abs(y) > abs(z) + e):
            b, c, y, z = c, b, z, y
            continue
        x, y, z = _signs(x, y, z, e)
        if abs(x) > b + e or (abs(x - b) < e and z - e > 2 * y) or (abs(x + b) < e and -e > z):
            s = math.copysign(1.0, x)
            c, x, y = b + c - s * x, x - 2 * s * b, y - s * z
        elif abs(y) > a + e or (abs(a - y) < e and z - e > 2 * x) or (abs(a + y) < e and -e > z):
            s = math.copysign(1.0, y)
            c, x, y = a + c - s * y, x - s * z, y - 2 * s * a
        elif abs(z) > a + e or (abs(a - z) < e and y - e > 2 * x) or (abs(a + z) < e and -e > y):
            s = math.copysign(1.0, z)
            b, x, z = a + b - s * z, x - s * y, z - 2 * s * a
        elif -e > x + y + z + a + b or abs(x + y + z + a + b) < e < z + 2 * (a + y):
            c, x, y = a + b + c + x + y + z, 2 * b + x + z, 2 * a + y + z
        else:
            break
    form[0], form[1], form[2], form[3], form[4], form[5] = a, b, c, x, y, z


@inner
def _signs(x: float, y: float, z: float, e: float) -> tuple[float, float, float]:
    """The same cell with angles all acute, or none of them."""
    p = 0.0 if abs(x) < e else math.copysign(1.0, x)
    q = 0.0 if abs(y) < e else math.copysign(1.0, y)
    r = 0.0 if abs(z) < e else math.copysign(1.0, z)
    if p * q * r == 1:
        return abs(x), abs(y), abs(z)
    i = -1.0 if p == 1 else 1.0
    j = -1.0 if q == 1 else 1.0
    k = -1.0 if r == 1 else 1.0
    if i * j * k == -1:  # flip one that is zero: a proper change of basis
        if r == 0:
            k = -1.0
        elif q == 0:
            j = -1.0
        elif p == 0:
            i = -1.0
    return x * j * k, y * i * k, z * i * j


@inner
def niggli_cell(lattice: Floats, cell: Floats) -> bool:
    """Right-handed Niggli cell in the orientation of `lattice`, into `cell`; False where none is found.

    That of pymatgen's `Lattice.get_niggli_reduced_lattice`: of the cells that fit the Niggli form to
    1e-5 V^(1/3) and 1 degree the first, in the order in which pymatgen lists lattice points.
    """
    basis, form, lengths = np.empty((3, 3)), np.empty(6), np.empty(3)
    copy(lattice, basis)
    if not lll_reduce(basis):
        return False
    e = 1e-5 * abs(determinant(basis)) ** (1 / 3)
    niggli_form(basis, e, form)
    for x in range(3):
        if not form[x] > 0:
            return False
        lengths[x] = math.sqrt(form[x])
    own = lattice if _largest(lattice) <= _MAX_SKEW * _largest(basis) else basis
    points, sizes = _points(own, lengths, e)
    low, high = np.empty(3), np.empty(3)
    for i in range(3):
        j, k = (1 if i == 0 else 0), (1 if i == 2 else 2)
        cosine = form[3 + i] / 2 / (lengths[j] * lengths[k])
        angle = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
        low[i] = math.cos(math.radians(min(angle + 1.0, 180.0)))
        high[i] = math.cos(math.radians(max(angle - 1.0, 0.0)))
    return _first_cell(points, sizes, low, high, determinant(lattice), cell)


@inner
def _largest(cell: Floats) -> float:
    """Largest absolute entry."""
    largest = 0.0
    for i in range(3):
        for x in range(3):
            largest = max(largest, abs(cell[i, x]))
    return largest


@inner
def _first_cell(
    points: Floats, sizes: Ints, low: Floats, high: Floats, hand: float, cell: Floats
) -> bool:
    """The first right-handed triple of points that enclose angles with cosines in [low, high]."""
    for i in range(sizes[0]):
        for x in range(3):
            cell[0, x] = points[0, i, x]
        for j in range(sizes[1]):
            for x in range(3):
                cell[1, x] = points[1, j, x]
            if not low[2] <= _cosine(cell, 0, 1) <= high[2]:
                continue
            for k in range(sizes[2]):
                for x in range(3):
                    cell[2, x] = points[2, k, x]
                if not low[1] <= _cosine(cell, 0, 2) <= high[1]:
                    continue
                if not low[0] <= _cosine(cell, 1, 2) <= high[0]:
                    continue
                det = determinant(cell)
                if det * hand > 0:
                    for x in range(9):
                        cell[x // 3, x % 3] *= math.copysign(1.0, det)
                    return True
    return False


@inner
def _cosine(cell: Floats, i: int, j: int) -> float:
    cosine = dot(cell, i, j) / math.sqrt(dot(cell, i, i) * dot(cell, j, j))
    return min(1.0, max(-1.0, cosine))


@inner
def _points(lattice: Floats, lengths: Floats, e: float) -> tuple[Floats, Ints]:
    """Lattice vectors as long as each of `lengths`, to 1 + e: (3, m, 3), and how many of each (3,).

    In pymatgen's order: by the cube of a grid that holds the point, then the last cell first.
    None where they are too many to list.
    """
    found, cubes = np.empty((3, 16, 3)), np.empty((3, 16), dtype=np.int64)
    sizes, counts = np.zeros(3, dtype=np.int64), np.empty(3, dtype=np.int64)
    radius = max(lengths[0], lengths[1], lengths[2]) * (1 + e)
    heights, total = inverse_heights(lattice), 1.0
    for x in range(3):
        total *= 2 * math.floor(radius * heights[x] + 1e-6) + 1
    if not total <= _MAX_POINTS:
        return found, sizes
    for x in range(3):
        counts[x] = math.floor(radius * heights[x] + 1e-6)
    edge = radius if radius >= 1.0 else 1.0 + 1e-8
    for p in range(counts[0], -counts[0] - 1, -1):
        for q in range(counts[1], -counts[1] - 1, -1):
            for r in range(counts[2], -counts[2] - 1, -1):
                x = p * lattice[0, 0] + q * lattice[1, 0] + r * lattice[2, 0]
                y = p * lattice[0, 1] + q * lattice[1, 1] + r * lattice[2, 1]
                z = p * lattice[0, 2] + q * lattice[1, 2] + r * lattice[2, 2]
                norm = math.sqrt(x * x + y * y + z * z)
                if norm > radius * (1 + 1e-12):
                    continue
                cube = 9 * _third(x, edge) + 3 * _third(y, edge) + _third(z, edge)
                for axis in range(3):
                    if not 1 / (1 + e) < norm / lengths[axis] < 1 + e:
                        continue
                    if sizes[axis] == found.shape[1]:
                        found, cubes = _longer(found, cubes)
                    place = sizes[axis]
                    while place > 0 and cubes[axis, place - 1] > cube:
                        cubes[axis, place] = cubes[axis, place - 1]
                        for i in range(3):
                            found[axis, place, i] = found[axis, place - 1, i]
                        place -= 1
                    cubes[axis, place] = cube
                    found[axis, place, 0], found[axis, place, 1], found[axis, place, 2] = x, y, z
                    sizes[axis] += 1
    return found, sizes


@inner
def _third(x: float, edge: float) -> int:
    """Which of the three cubes along an axis holds a point, as pymatgen's cell list counts them."""
    return math.floor((x + edge + 1e-8) / edge)


@inner
def _longer(found: Floats, cubes: Ints) -> tuple[Floats, Ints]:
    n = found.shape[1]
    more, keys = np.empty((3, 2 * n, 3)), np.empty((3, 2 * n), dtype=np.int64)
    for axis in range(3):
        for i in range(n):
            keys[axis, i] = cubes[axis, i]
            for x in range(3):
                more[axis, i, x] = found[axis, i, x]
    return more, keys


@inner
def niggli_setting(lattice: Floats, frac: Floats, cell: Floats) -> bool:
    """Niggli cell of a crystal into `cell`, its coordinates in it into `frac` (n, 3), in [0, 1]."""
    if not niggli_cell(lattice, cell):
        return False
    moved = product(frac, product(lattice, inverse(cell)))
    wrap(moved)
    copy(moved, frac)
    return True
