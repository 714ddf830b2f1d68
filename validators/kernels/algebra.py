"""Cells of three vectors (3, 3), rows a, b, c: volumes, inverses, short bases."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .compiled import inner

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

THIN = -1
"""Code of a result: the cell is too thin, or too skewed, to be worked with."""

CROWDED = -2
"""Code of a result: too many ways to lay the atoms on one another would have to be tried."""


@inner
def dot(m: Floats, i: int, j: int) -> float:
    """Scalar product of rows i and j."""
    return m[i, 0] * m[j, 0] + m[i, 1] * m[j, 1] + m[i, 2] * m[j, 2]


@inner
def determinant(m: Floats) -> float:
    """Signed volume."""
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


@inner
def inverse(m: Floats) -> Floats:
    """Inverse of a cell: column i is orthogonal to the two rows other than i."""
    out = np.empty((3, 3))
    det = determinant(m)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        out[0, i] = (m[j, 1] * m[k, 2] - m[j, 2] * m[k, 1]) / det
        out[1, i] = (m[j, 2] * m[k, 0] - m[j, 0] * m[k, 2]) / det
        out[2, i] = (m[j, 0] * m[k, 1] - m[j, 1] * m[k, 0]) / det
    return out


@inner
def product(a: Floats, b: Floats) -> Floats:
    """The product a @ b for a (n, 3) and b (3, 3)."""
    out = np.empty((len(a), 3))
    for i in range(len(a)):
        for x in range(3):
            out[i, x] = a[i, 0] * b[0, x] + a[i, 1] * b[1, x] + a[i, 2] * b[2, x]
    return out


@inner
def wrap(frac: Floats) -> None:
    """Move fractional coordinates (n, 3) into [0, 1], in place."""
    for i in range(len(frac)):
        for x in range(3):
            frac[i, x] -= math.floor(frac[i, x])


@inner
def copy(source: Floats, target: Floats) -> None:
    """Copy rows (n, 3) to the head of `target`: loops, for slices take seconds to compile."""
    for i in range(len(source)):
        for x in range(3):
            target[i, x] = source[i, x]


@inner
def inverse_heights(cell: Floats) -> Floats:
    """One over the distances between opposite faces (3,)."""
    back = inverse(cell)
    out = np.empty(3)
    for i in range(3):
        out[i] = math.sqrt(back[0, i] ** 2 + back[1, i] ** 2 + back[2, i] ** 2)
    return out


@inner
def cell_lengths(cell: Floats) -> Floats:
    """Lengths (3,) of the rows."""
    out = np.empty(3)
    for i in range(3):
        out[i] = math.sqrt(dot(cell, i, i))
    return out


@inner
def cell_angles(cell: Floats) -> Floats:
    """Angles (3,): b^c, a^c, a^b in degrees."""
    lengths = cell_lengths(cell)
    out = np.empty(3)
    for i in range(3):
        j, k = (1 if i == 0 else 0), (1 if i == 2 else 2)
        cosine = dot(cell, j, k) / (lengths[j] * lengths[k])
        out[i] = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    return out


@inner
def _across(rows: Floats, k: int, own: Floats) -> None:
    """Gram-Schmidt vectors of rows 0 to k into `own` (k + 1, 3)."""
    for i in range(k + 1):
        for x in range(3):
            own[i, x] = rows[i, x]
        for j in range(i):
            share = own[i, 0] * own[j, 0] + own[i, 1] * own[j, 1] + own[i, 2] * own[j, 2]
            share /= dot(own, j, j)
            for x in range(3):
                own[i, x] -= share * own[j, x]


@inner
def _projection(rows: Floats, k: int, own: Floats, j: int) -> float:
    """Gram-Schmidt coefficient of row k on row j."""
    share = rows[k, 0] * own[j, 0] + rows[k, 1] * own[j, 1] + rows[k, 2] * own[j, 2]
    return share / dot(own, j, j)


@inner
def lll_reduce(rows: Floats) -> bool:
    """Reduction of a cell, in place; False where it finds no end.

    Lenstra, Lenstra and Lovasz, Math. Ann. 261, 515 (1982), doi:10.1007/BF01457454, with delta = 0.75.
    """
    own = np.empty((3, 3))
    k = 1
    for _ in range(1000):
        if k == 3:
            return True
        _across(rows, k, own)
        for back in range(k):
            j = k - 1 - back
            q = np.rint(_projection(rows, k, own, j))
            if q != 0:
                for x in range(3):
                    rows[k, x] -= q * rows[j, x]
        mu = _projection(rows, k, own, k - 1)
        if dot(own, k, k) >= (0.75 - mu * mu) * dot(own, k - 1, k - 1):
            k += 1
        else:
            for x in range(3):
                rows[k - 1, x], rows[k, x] = rows[k, x], rows[k - 1, x]
            k = max(k - 1, 1)
    return False


@inner
def stable_order(values: Floats) -> Ints:
    """Indices that sort, equal values in their order (numpy's sorts take seconds to compile)."""
    n = len(values)
    order, spare = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for i in range(n):
        order[i] = i
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for k in range(low, high):
                if j == high or (i < middle and values[order[i]] <= values[order[j]]):
                    spare[k] = order[i]
                    i += 1
                else:
                    spare[k] = order[j]
                    j += 1
        order, spare = spare, order
        width *= 2
    return order
