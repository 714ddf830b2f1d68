"""Whether the sites of two crystals fit on one another, in cells that are alike."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .algebra import (
    CROWDED,
    THIN,
    Floats,
    Ints,
    cell_angles,
    cell_lengths,
    copy,
    determinant,
    inverse,
    inverse_heights,
    lll_reduce,
    product,
    wrap,
)
from .assignment import assign
from .compiled import entry, inner
from .lattices import mappings

Numbers = NDArray[np.uint8]

_MAX_WORK = 500_000_000  # comparisons of sites, about 1 s


@inner
def _rarest(numbers: Numbers) -> int:
    """The first site of the rarest element."""
    counts = np.zeros(256, dtype=np.int64)
    for z in numbers:
        counts[z] += 1
    best = 0
    for i in range(len(numbers)):
        if counts[numbers[i]] < counts[numbers[best]]:
            best = i
    return best


@inner
def _all_near(
    moved: Floats, own: Numbers, frac: Floats, other: Numbers, reach: Floats, work: Ints
) -> bool:
    """Whether each site of `moved` has a like one of `frac` within `reach` along every axis."""
    for i in range(len(moved)):
        good = False
        for j in range(len(frac)):
            if own[i] != other[j]:
                continue
            p, q, r = moved[i, 0] - frac[j, 0], moved[i, 1] - frac[j, 1], moved[i, 2] - frac[j, 2]
            if (
                abs(p - np.rint(p)) <= reach[0]
                and abs(q - np.rint(q)) <= reach[1]
                and abs(r - np.rint(r)) <= reach[2]
            ):
                good = True
                break
        work[0] += len(frac)
        if not good:
            return False
    return True


@inner
def _fit(
    moved: Floats, own: Numbers, frac: Floats, other: Numbers, cell: Floats, limit: float, work: Ints
) -> bool:
    """Whether sites at `moved` pair with like ones at `frac`, within `limit` after a common shift."""
    basis = np.empty((3, 3))
    copy(cell, basis)
    if not lll_reduce(basis):
        return False
    change = product(cell, inverse(basis))
    for x in range(9):
        change[x // 3, x % 3] = np.rint(change[x // 3, x % 3])
    start, end = product(moved, change), product(frac, change)
    n, heights = len(moved), inverse_heights(basis)
    cost, shifts = np.full((n, n), np.inf), np.empty((n, n, 3))
    work[0] += n * n
    for i in range(n):
        paired = False
        for j in range(n):
            if own[i] == other[j] and _near(start, i, end, j, heights, 2 * limit):
                paired = True
                cost[i, j] = _shortest(start, i, end, j, basis, shifts)
                work[0] += 27
        if not paired:
            return False
    pairs = assign(cost)
    work[0] += n * n * int(math.sqrt(n))
    if pairs[0] < 0:
        return False
    for x in range(3):
        mean = 0.0
        for i in range(n):
            mean += shifts[i, pairs[i], x] / n
        for i in range(n):
            shifts[i, pairs[i], x] -= mean
    for i in range(n):
        p, q, r = shifts[i, pairs[i], 0], shifts[i, pairs[i], 1], shifts[i, pairs[i], 2]
        if not math.sqrt(p * p + q * q + r * r) < limit:
            return False
    return True


@inner
def _near(start: Floats, i: int, end: Floats, j: int, heights: Floats, reach: float) -> bool:
    """Whether two sites lie within `reach` of one another across every pair of faces."""
    for x in range(3):
        d = end[j, x] - start[i, x]
        if not abs(d - np.rint(d)) <= reach * heights[x]:
            return False
    return True


@inner
def _shortest(start: Floats, a: int, end: Floats, b: int, basis: Floats, shifts: Floats) -> float:
    """Squared length of the shortest of the 27 vectors between two sites, which goes into `shifts`."""
    best = np.inf
    u = (end[b, 0] - math.floor(end[b, 0])) - (start[a, 0] - math.floor(start[a, 0]))
    v = (end[b, 1] - math.floor(end[b, 1])) - (start[a, 1] - math.floor(start[a, 1]))
    w = (end[b, 2] - math.floor(end[b, 2])) - (start[a, 2] - math.floor(start[a, 2]))
    for i in range(-1, 2):
        for j in range(-1, 2):
            for k in range(-1, 2):
                p = (u + i) * basis[0, 0] + (v + j) * basis[1, 0] + (w + k) * basis[2, 0]
                q = (u + i) * basis[0, 1] + (v + j) * basis[1, 1] + (w + k) * basis[2, 1]
                r = (u + i) * basis[0, 2] + (v + j) * basis[1, 2] + (w + k) * basis[2, 2]
                square = p * p + q * q + r * r
                if square < best:
                    best = square
                    shifts[a, b, 0], shifts[a, b, 1], shifts[a, b, 2] = p, q, r
    return best


_PAIR = "float64[:,::1], float64[:,::1], uint8[::1]"


@entry(f"int64({_PAIR}, {_PAIR}, float64, float64, float64)")
def same_crystal(
    earlier: Floats,
    earlier_frac: Floats,
    earlier_numbers: Numbers,
    later: Floats,
    later_frac: Floats,
    later_numbers: Numbers,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> int:
    """1 if some cell and shift lay each site of the one on a like site of the other, else 0.

    Both are primitive Niggli cells (3, 3) in angstrom with fractional coordinates (n, 3) and atomic
    numbers (n,), of one composition. THIN or CROWDED where that takes too long to find out.
    """
    n = len(later_numbers)
    if len(earlier_numbers) != n:
        return 0
    # Both at the same volume: the geometric mean of the two.
    ratio = (abs(determinant(later)) / abs(determinant(earlier))) ** (1 / 6)
    scaled, lengths = np.empty((3, 3)), cell_lengths(later)
    for i in range(3):
        lengths[i] /= ratio
        for x in range(3):
            scaled[i, x] = earlier[i, x] * ratio
    fine, forms, cells = mappings(scaled, lengths, cell_angles(later), ltol, angle_tol)
    if not fine:
        return THIN
    if len(forms) == 0:
        return 0
    anchor = _rarest(later_numbers)
    moved, work = np.empty((n, 3)), np.zeros(1, dtype=np.int64)
    for m in range(len(forms)):
        frac = product(earlier_frac, inverse(forms[m]))
        wrap(frac)
        length = (determinant(cells[m]) / n) ** (1 / 3)
        reach = inverse_heights(cells[m])
        for x in range(3):
            reach[x] *= 2 * stol * length
        for site in range(n):
            if earlier_numbers[site] != later_numbers[anchor]:
                continue
            for i in range(n):
                for x in range(3):
                    moved[i, x] = later_frac[i, x] + (frac[site, x] - later_frac[anchor, x])
            near = _all_near(moved, later_numbers, frac, earlier_numbers, reach, work)
            if near and _fit(moved, later_numbers, frac, earlier_numbers, cells[m], stol * length, work):
                return 1
            if work[0] > _MAX_WORK:
                return CROWDED
    return 0
