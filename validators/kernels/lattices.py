"""The cells of one lattice that are like the cell of another."""

from __future__ import annotations

import math

import numpy as np

from .algebra import (
    Floats,
    Ints,
    cell_angles,
    determinant,
    dot,
    inverse_heights,
    stable_order,
)
from .compiled import inner

_MAX_POINTS = 1_000_000.0  # lattice vectors; a needle 250 times as long as wide has as many
_MAX_WORK = 200_000_000  # triples of vectors, about 1 s


@inner
def mappings(
    lattice: Floats, lengths: Floats, angles: Floats, ltol: float, angle_tol: float
) -> tuple[bool, Floats, Floats]:
    """The cells of `lattice` with these lengths (3,) and angles (3,) in degrees, to the tolerances.

    Returns:
        False where they are too many to try; the steps of each cell along the vectors of `lattice`
        (m, 3, 3), best first; the mean of that cell and of the given one (m, 3, 3), in angstrom.
    """
    low, high = np.empty(3), np.empty(3)
    for x in range(3):
        low[x] = math.cos(math.radians(min(angles[x] + angle_tol, 180.0)))
        high[x] = math.cos(math.radians(max(angles[x] - angle_tol, 0.0)))
    fine, steps, units, norms = _points(lattice, lengths, ltol)
    members, sizes = np.empty((3, len(norms)), dtype=np.int64), np.zeros(3, dtype=np.int64)
    for i in range(len(norms)):
        for x in range(3):
            if 1 / (1 + ltol) < norms[i] / lengths[x] < 1 + ltol:
                members[x, sizes[x]] = i
                sizes[x] += 1
    triples, count, work, trial = np.empty((16, 3), dtype=np.int64), 0, 0, np.empty((3, 3))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            work += 1
            p, q = members[0, i], members[1, j]
            if work > _MAX_WORK or not low[2] <= _cosine(units, p, q) <= high[2]:
                continue
            work += sizes[2]
            for k in range(sizes[2]):
                r = members[2, k]
                if not low[1] <= _cosine(units, p, r) <= high[1]:
                    continue
                if not low[0] <= _cosine(units, q, r) <= high[0]:
                    continue
                _set_rows(trial, steps, p, q, r)
                if not 0.5 <= abs(determinant(trial)) <= 1.5:
                    continue
                if count == len(triples):
                    triples = _longer(triples)
                triples[count, 0], triples[count, 1], triples[count, 2] = p, q, r
                count += 1
    order = _best_first(triples[:count], units, norms, lengths, angles)
    forms, means = np.empty((count, 3, 3)), np.empty((count, 3, 3))
    mean_lengths, mean_angles = np.empty(3), np.empty(3)
    for place in range(count):
        t = order[place]
        p, q, r = triples[t, 0], triples[t, 1], triples[t, 2]
        _set_rows(forms[place], steps, p, q, r)
        _set_rows(trial, units, p, q, r)
        own = cell_angles(trial)
        for x in range(3):
            mean_lengths[x] = (norms[triples[t, x]] + lengths[x]) / 2
            mean_angles[x] = math.radians((own[x] + angles[x]) / 2)
        _cell(mean_lengths, mean_angles, means[place])
    return fine and work <= _MAX_WORK, forms, means


@inner
def _best_first(triples: Ints, units: Floats, norms: Floats, lengths: Floats, angles: Floats) -> Ints:
    """Order of the triples by their difference from `lengths` and `angles`; 60 degrees count as one."""
    differences, trial = np.zeros(len(triples)), np.empty((3, 3))
    for t in range(len(triples)):
        _set_rows(trial, units, triples[t, 0], triples[t, 1], triples[t, 2])
        own = cell_angles(trial)
        for x in range(3):
            differences[t] += abs(norms[triples[t, x]] / lengths[x] - 1)
            differences[t] += abs(own[x] - angles[x]) / 60
    return stable_order(differences)


@inner
def _set_rows(cell: Floats, vectors: Floats, p: int, q: int, r: int) -> None:
    """Make three vectors the rows of a cell."""
    for x in range(3):
        cell[0, x], cell[1, x], cell[2, x] = vectors[p, x], vectors[q, x], vectors[r, x]


@inner
def _longer(triples: Ints) -> Ints:
    longer = np.empty((2 * len(triples), 3), dtype=np.int64)
    for t in range(len(triples)):
        for x in range(3):
            longer[t, x] = triples[t, x]
    return longer


@inner
def _points(lattice: Floats, lengths: Floats, ltol: float) -> tuple[bool, Floats, Floats, Floats]:
    """Lattice vectors between the shortest and the longest of `lengths`, to the tolerance.

    Returns:
        False where they are too many; steps (n, 3), unit vectors (n, 3), norms (n,).
    """
    radius = max(lengths[0], lengths[1], lengths[2]) * (1 + ltol)
    shortest = min(lengths[0], lengths[1], lengths[2]) / (1 + ltol)
    heights = inverse_heights(lattice)
    counts, total = np.empty(3, dtype=np.int64), 1.0
    for x in range(3):
        total *= 2 * math.floor(radius * heights[x] + 1e-6) + 1
    if not total <= _MAX_POINTS:
        return False, np.empty((0, 3)), np.empty((0, 3)), np.empty(0)
    for x in range(3):
        counts[x] = math.floor(radius * heights[x] + 1e-6)
    steps, units, norms = np.empty((int(total), 3)), np.empty((int(total), 3)), np.empty(int(total))
    n = 0
    for i in range(-counts[0], counts[0] + 1):
        for j in range(-counts[1], counts[1] + 1):
            for k in range(-counts[2], counts[2] + 1):
                x = i * lattice[0, 0] + j * lattice[1, 0] + k * lattice[2, 0]
                y = i * lattice[0, 1] + j * lattice[1, 1] + k * lattice[2, 1]
                z = i * lattice[0, 2] + j * lattice[1, 2] + k * lattice[2, 2]
                square = x * x + y * y + z * z
                if square < shortest * shortest * (1 - 1e-12) or square > radius * radius:
                    continue
                norm = math.sqrt(square)
                steps[n, 0], steps[n, 1], steps[n, 2] = i, j, k
                units[n, 0], units[n, 1], units[n, 2] = x / norm, y / norm, z / norm
                norms[n] = norm
                n += 1
    return True, steps[:n], units[:n], norms[:n]


@inner
def _cosine(units: Floats, i: int, j: int) -> float:
    return min(1.0, max(-1.0, dot(units, i, j)))


@inner
def _cell(lengths: Floats, angles: Floats, cell: Floats) -> None:
    """Right-handed cell of lengths and angles in radians, into `cell`: c along z, a in x-z."""
    alpha, beta, gamma = angles[0], angles[1], angles[2]
    star = (math.cos(alpha) * math.cos(beta) - math.cos(gamma)) / (math.sin(alpha) * math.sin(beta))
    star = min(1.0, max(-1.0, star))
    cell[0, 0], cell[0, 1] = lengths[0] * math.sin(beta), 0.0
    cell[0, 2] = lengths[0] * math.cos(beta)
    cell[1, 0] = -lengths[1] * math.sin(alpha) * star
    cell[1, 1] = lengths[1] * math.sin(alpha) * math.sqrt(1 - star * star)
    cell[1, 2] = lengths[1] * math.cos(alpha)
    cell[2, 0], cell[2, 1], cell[2, 2] = 0.0, 0.0, lengths[2]
