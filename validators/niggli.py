"""Niggli cells as pymatgen finds them, on plain arrays: 0.1 ms instead of 0.4."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .geometry import dot, minus

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lll_basis(lattice: NDArray[np.float64], delta: float = 0.75) -> NDArray[np.float64]:
    """Basis (3, 3) of a lattice reduced by Lenstra, Lenstra and Lovasz, doi:10.1007/BF01457454.

    Raises:
        ValueError: no end after 1,000 steps (cells at the limits of floating point).
    """
    rows: list[list[float]] = lattice.tolist()
    k = 1
    for _ in range(1000):
        if k == 3:
            return np.array(rows)
        for j in range(k - 1, -1, -1):
            q = round(_projection(rows, k, j)[0])
            if q:
                rows[k] = minus(rows[k], q, rows[j])
        mu, below = _projection(rows, k, k - 1)
        if _projection(rows, k, k)[1] >= (delta - mu * mu) * below:
            k += 1
        else:
            rows[k - 1], rows[k] = rows[k], rows[k - 1]
            k = max(k - 1, 1)
    raise ValueError("the cell cannot be reduced")


def _projection(rows: list[list[float]], k: int, j: int) -> tuple[float, float]:
    """Gram-Schmidt coefficient of row k on row j, and the squared length of what row j adds."""
    own = rows[0]
    if j:
        own = _across(rows[j], rows[0])
        if j == 2:
            own = _across(own, _across(rows[1], rows[0]))
    square = dot(own, own)
    return dot(rows[k], own) / square, square


def _across(v: list[float], u: list[float]) -> list[float]:
    """The part of v at a right angle to u."""
    return minus(v, dot(v, u) / dot(u, u), u)


def niggli_form(basis: NDArray[np.float64], e: float) -> tuple[float, float, float, float, float, float]:
    """Niggli form (a.a, b.b, c.c, 2b.c, 2a.c, 2a.b) of a lattice, square angstrom, at tolerance `e`.

    The steps of Grosse-Kunstleve, Sauter and Adams, Acta Cryst. A 60, 1 (2004),
    doi:10.1107/S010876730302186X.
    """
    u, v, w = basis.tolist()
    a, b, c = dot(u, u), dot(v, v), dot(w, w)
    x, y, z = 2 * dot(v, w), 2 * dot(u, w), 2 * dot(u, v)
    for _ in range(100):
        if b + e < a or (abs(a - b) < e and abs(x) > abs(y) + e):
            a, b, x, y = b, a, y, x
        if c + e < b or (abs(b - c) < e and abs(y) > abs(z) + e):
            b, c, y, z = c, b, z, y
            continue
        x, y, z = _signs(x, y, z, e)
        if abs(x) > b + e or (abs(x - b) < e and z - e > 2 * y) or (abs(x + b) < e and -e > z):
            s = math.copysign(1, x)
            c, x, y = b + c - s * x, x - 2 * s * b, y - s * z
        elif abs(y) > a + e or (abs(a - y) < e and z - e > 2 * x) or (abs(a + y) < e and -e > z):
            s = math.copysign(1, y)
            c, x, y = a + c - s * y, x - s * z, y - 2 * s * a
        elif abs(z) > a + e or (abs(a - z) < e and y - e > 2 * x) or (abs(a + z) < e and -e > y):
            s = math.copysign(1, z)
            b, x, z = a + b - s * z, x - s * y, z - 2 * s * a
        elif -e > x + y + z + a + b or abs(x + y + z + a + b) < e < z + 2 * (a + y):
            c, x, y = a + b + c + x + y + z, 2 * b + x + z, 2 * a + y + z
        else:
            break
    return a, b, c, x, y, z


def _signs(x: float, y: float, z: float, e: float) -> tuple[float, float, float]:
    """The same cell with angles all acute, or none of them."""
    signs = [0 if abs(t) < e else int(math.copysign(1, t)) for t in (x, y, z)]
    if math.prod(signs) == 1:
        return abs(x), abs(y), abs(z)
    i, j, k = (-1 if s == 1 else 1 for s in signs)
    if i * j * k == -1:  # flip one that is zero: a proper change of basis
        if signs[2] == 0:
            k = -1
        elif signs[1] == 0:
            j = -1
        elif signs[0] == 0:
            i = -1
    return x * j * k, y * i * k, z * i * j


def niggli_cell(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Right-handed Niggli cell (3, 3) in angstrom, in the orientation of `lattice`.

    That of pymatgen's `Lattice.get_niggli_reduced_lattice`: of the cells that fit the Niggli form to
    1e-5 V^(1/3) and 1 degree the first, in the order in which pymatgen lists lattice points.

    Raises:
        ValueError: the cell cannot be reduced.
    """
    from pymatgen.core import Lattice

    basis = lll_basis(lattice)
    if np.abs(lattice).max() > 50 * np.abs(basis).max():
        lattice = basis  # so skewed a cell has too many images to list; no order to follow
    e = 1e-5 * abs(float(np.linalg.det(basis))) ** (1 / 3)
    a, b, c, x, y, z = niggli_form(basis, e)
    lengths = np.sqrt([a, b, c])
    cosines = np.array([x, y, z]) / 2 / (lengths[[1, 0, 0]] * lengths[[2, 2, 1]])
    found: Any = Lattice(lattice).get_points_in_sphere(
        [[0, 0, 0]], [0, 0, 0], lengths.max() * (1 + e), zip_results=False
    )
    steps, norms = found[:2]
    share = norms / lengths[:, None]
    p, q, r = (steps[near] @ lattice for near in (share < 1 + e) & (share > 1 / (1 + e)))
    i, j, k = mappings(p, q, r, np.degrees(np.arccos(cosines)), 1.0)
    cells = np.stack([p[i], q[j], r[k]], axis=1)
    handed = np.linalg.det(cells) * np.sign(np.linalg.det(lattice)) > 0
    if not handed.any():
        raise ValueError("no Niggli cell found")
    cell: NDArray[np.float64] = cells[handed.argmax()]
    return cell if np.linalg.det(cell) > 0 else -cell


def mappings(
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    r: NDArray[np.float64],
    angles: NDArray[np.float64],
    angle_tol: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the triples p[i], q[j], r[k] that enclose the angles (q^r, p^r, p^q) in degrees.

    `p`, `q`, `r` are vectors (n, 3).
    """
    low = np.cos(np.radians(np.minimum(angles + angle_tol, 180)))
    high = np.cos(np.radians(np.maximum(angles - angle_tol, 0)))
    p, q, r = (v / np.sqrt(np.einsum("ij,ij->i", v, v))[:, None] for v in (p, q, r))
    qr, pr, pq = (np.clip(x, -1, 1) for x in (q @ r.T, p @ r.T, p @ q.T))
    alpha, beta, gamma = (
        (x >= lo) & (x <= hi) for x, lo, hi in zip((qr, pr, pq), low, high, strict=True)
    )
    i, j = np.nonzero(gamma)
    pair, k = np.nonzero(beta[i] & alpha[j])
    return i[pair], j[pair], k


def cell_cosines(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines (n, 3) of alpha, beta, gamma of cells (n, 3, 3)."""
    unit = cells / np.linalg.norm(cells, axis=2, keepdims=True)
    a, b, c = unit[:, 0], unit[:, 1], unit[:, 2]
    return np.stack([(b * c).sum(axis=1), (a * c).sum(axis=1), (a * b).sum(axis=1)], axis=1)
