"""Distances to the nearest atoms, all lattice translations counted."""

from __future__ import annotations

import math

import numpy as np

from .algebra import THIN, Floats, determinant, inverse_heights
from .compiled import entry, inner

_MAX_CLOUD = 20_000_000.0  # points looked at for one centre; only absurd cells ask for more


@inner
def _gather(
    basis: Floats,
    centres: Floats,
    own: int,
    targets: Floats,
    radius: float,
    heights: Floats,
    found: Floats,
) -> tuple[int, Floats]:
    """Number of points within `radius` of a centre, and their distances at the head of `found`."""
    count, square = 0, radius * radius
    d, low, high = np.empty(3), np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
    for t in range(len(targets)):
        empty = False
        for x in range(3):
            d[x] = targets[t, x] - centres[own, x]
            low[x] = math.ceil(-radius * heights[x] - d[x])
            high[x] = math.floor(radius * heights[x] - d[x])
            if low[x] > high[x]:
                empty = True
                break
        if empty:
            continue
        for i in range(low[0], high[0] + 1):
            for j in range(low[1], high[1] + 1):
                x = (d[0] + i) * basis[0, 0] + (d[1] + j) * basis[1, 0]
                y = (d[0] + i) * basis[0, 1] + (d[1] + j) * basis[1, 1]
                z = (d[0] + i) * basis[0, 2] + (d[1] + j) * basis[1, 2]
                for k in range(low[2], high[2] + 1):
                    p = x + (d[2] + k) * basis[2, 0]
                    q = y + (d[2] + k) * basis[2, 1]
                    r = z + (d[2] + k) * basis[2, 2]
                    s = p * p + q * q + r * r
                    if s <= square:
                        if count == len(found):
                            found = _longer(found)
                        found[count] = math.sqrt(s)
                        count += 1
    return count, found


@inner
def _longer(values: Floats) -> Floats:
    longer = np.empty(2 * len(values))
    for i in range(len(values)):
        longer[i] = values[i]
    return longer


@inner
def _sort(values: Floats, count: int, top: float) -> None:
    """Sort the first `count` distances up to `top`: by shells of one volume, then by insertion.

    The number of atoms grows as the volume, so that a shell holds about one: a third of np.sort's time.
    """
    shells = np.empty(count, dtype=np.int64)
    ends = np.zeros(count + 1, dtype=np.int64)
    for i in range(count):
        shell = int(count * (values[i] / top) ** 3)
        shells[i] = min(shell, count - 1)
        ends[shells[i] + 1] += 1
    for i in range(count):
        ends[i + 1] += ends[i]
    placed = np.empty(count)
    for i in range(count):
        placed[ends[shells[i]]] = values[i]
        ends[shells[i]] += 1
    for i in range(count):
        value, place = placed[i], i
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@entry("int64(float64[:,::1], float64[:,::1], float64[:,::1], int64, boolean, float64[:,::1])")
def neighbours(basis: Floats, centres: Floats, targets: Floats, k: int, own: bool, out: Floats) -> int:
    """Distances in angstrom from each centre to its k nearest targets, rising, into `out` (n, k).

    Args:
        basis: a reduced cell (3, 3). centres, targets: fractional coordinates.
        own: both are the same; an atom is not its own neighbour (its images are).

    Returns:
        0, or THIN where the cell is too thin to gather k neighbours.
    """
    wanted = k + 1 if own else k
    # The sphere that holds k targets on average, with a margin for uneven surroundings.
    volume = abs(determinant(basis))
    typical = 1.15 * (3 * (k + 1) * volume / (4 * math.pi * len(targets))) ** (1 / 3)
    heights = inverse_heights(basis)
    squares = np.empty(4 * (wanted + 16))
    for i in range(len(centres)):
        radius, count = typical, 0
        while True:
            cloud = float(len(targets))
            for x in range(3):
                cloud *= 2 * radius * heights[x] + 1
            if not cloud <= _MAX_CLOUD:
                return THIN
            count, squares = _gather(basis, centres, i, targets, radius, heights, squares)
            if count >= wanted:
                break
            radius *= 1.2 if 2 * count > wanted else 1.5
        _sort(squares, count, radius)
        for j in range(k):
            out[i, j] = squares[wanted - k + j]
    return 0


@inner
def mean_neighbours(basis: Floats, frac: Floats, k: int, out: Floats) -> int:
    """Average minimum distances (k,) in angstrom of a reduced cell into `out`; 0 or THIN."""
    each = np.empty((len(frac), k))
    code = neighbours(basis, frac, frac, k, True, each)
    if code == 0:
        for j in range(k):
            total = 0.0
            for i in range(len(frac)):
                total += each[i, j]
            out[j] = total / len(frac)
    return code
