"""The primitive cell that the matcher compares, as pymatgen's `get_primitive_structure` finds it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..core.elements import SYMBOLS
from .niggli import niggli_cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cell = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]

TOLERANCE = 0.25
"""Angstrom along each cell vector, for sites that a translation maps on one another; pymatgen's."""

_SMALL = 4096  # pairs of sites compared at once; a tree finds the nearest of more
_MAX_TRIALS = 10_000_000  # comparisons, about 1 s; crowds of atoms alone ask for more


def primitive_niggli(
    lattice: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int64]
) -> Cell:
    """Primitive Niggli cell of a crystal: Niggli, primitive, Niggli, as the matcher does.

    Returns:
        Cell (3, 3) in angstrom, fractional coordinates (n, 3) and atomic numbers (n,).

    Raises:
        ValueError: the cell cannot be reduced, or too many smaller cells would have to be tried.
    """
    niggli = _niggli(lattice, frac, numbers)
    smaller = primitive(*niggli)
    return niggli if smaller is None else _niggli(*smaller)


def _niggli(lattice: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int64]) -> Cell:
    cell = niggli_cell(lattice)
    frac = frac @ (lattice @ np.linalg.inv(cell))
    return cell, frac - np.floor(frac), numbers


def primitive(
    cell: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int64]
) -> Cell | None:
    """The same crystal in the smallest cell found; coinciding sites are averaged.

    None where there is no smaller cell.

    Raises:
        ValueError: too many smaller cells would have to be tried.
    """
    elements = sorted(set(numbers.tolist()), key=SYMBOLS.__getitem__)
    groups = [frac[numbers == z] for z in elements]
    units = math.gcd(*map(len, groups))
    if units == 1:
        return None
    near = TOLERANCE / np.linalg.norm(cell, axis=1)
    shifts = _translations(sorted(groups, key=len), 2 * near)
    # With the null translation alone, a smaller cell has steps under 0.25 angstrom, and needs more sites
    # than fit with the 0.5 angstrom between them that `_fold` asks for: pymatgen finds none either.
    if len(shifts) == 1:
        return None
    neighbours = [_within(group, 2 * near) & ~np.eye(len(group), dtype=bool) for group in groups]
    for tried, (size, matrix) in enumerate(_sublattices(units, shifts, near)):
        _limit(tried * len(frac) ** 2)
        smaller = np.linalg.inv(matrix) @ cell
        reach = TOLERANCE / np.linalg.norm(smaller, axis=1)
        folded = []
        for group, close in zip(groups, neighbours, strict=True):
            sites = _fold(group @ matrix, close, reach, size)
            if sites is None:
                break
            folded.append(sites)
        else:
            counts = [len(sites) for sites in folded]
            found = smaller, np.concatenate(folded), np.repeat(np.array(elements), counts)
            return primitive(*found) or found
    return None


def _translations(groups: list[NDArray[np.float64]], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Translations (m, 3) that bring every site within `reach` of a like one, the null one included."""
    shifts: NDArray[np.float64] = groups[0] - groups[0][0]
    for group in groups:
        tree = None
        for site in group:
            if len(shifts) == 1:
                return shifts
            if len(shifts) * len(group) < _SMALL:
                distance = shifts[:, None] + (site - group)
                distance -= np.round(distance)
                shifts = shifts[(np.abs(distance) < reach).all(axis=2).any(axis=1)]
            else:
                tree = tree or cKDTree(group % 1 % 1 / reach, boxsize=1 / reach)
                found = tree.query((shifts + site) / reach, p=np.inf, distance_upper_bound=1)[0]
                shifts = shifts[np.isfinite(found)]
    return shifts


def _within(sites: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of sites are within `reach` of one another along every axis (n, n)."""
    distance = sites[:, None] - sites
    distance -= np.round(distance)
    return np.asarray((np.abs(distance) <= reach).all(axis=2))


def _sublattices(
    units: int, shifts: NDArray[np.float64], near: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Hermite normal forms [[a, b, c], [0, e, f], [0, 0, g]] whose inverse has rows near `shifts`.

    `cell = form @ smaller cell`; by rising determinant, which divides `units`, then a, e, b, c, f.
    """
    divisors = [d for d in range(1, units + 1) if units % d == 0]
    trials = 0
    for size in divisors[1:]:
        for a in (d for d in divisors if size % d == 0):
            for e in (d for d in divisors if (size // a) % d == 0):
                g = size // a // e
                if not _near(np.array([[0, 0, 1 / g]]), shifts, near)[0]:
                    continue
                f = np.arange(e)
                second = np.stack([0 * f, 0 * f + 1 / e, -f / (e * g)], axis=1)
                f = f[_near(second, shifts, near)]
                first = shifts[_near(shifts[:, :1], np.array([[1 / a]]), near)]
                trials += (e + len(f) * a * a) * len(shifts)
                _limit(trials)
                rows = [(b, c, k) for k in f.tolist() for b, c in _first_rows(a, e, g, k, first, near)]
                for b, c, k in sorted(rows):
                    yield size, np.array([[a, b, c], [0, e, k], [0, 0, g]], dtype=np.float64)


def _first_rows(
    a: int, e: int, g: int, f: int, shifts: NDArray[np.float64], near: NDArray[np.float64]
) -> Iterator[tuple[int, int]]:
    """(b, c) for which (1/a, -b/(ae), (bf - ce)/(aeg)) is near a shift."""
    b, c = (x.ravel() for x in np.indices((a, a)))
    rows = np.stack([0 * b + 1 / a, -b / (a * e), (b * f - c * e) / (a * e * g)], axis=1)
    good = _near(rows, shifts, near)
    return zip(b[good].tolist(), c[good].tolist(), strict=True)


def _limit(trials: int) -> None:
    if trials > _MAX_TRIALS:
        raise ValueError("too many smaller cells to try: the atoms are too many and too close")


def _near(
    rows: NDArray[np.float64], shifts: NDArray[np.float64], near: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which rows (n, d) differ from some shift, up to whole numbers, by less than `near` (n,)."""
    close = np.ones((len(rows), len(shifts)), dtype=bool)
    for axis in range(rows.shape[1]):
        distance = np.subtract.outer(rows[:, axis], shifts[:, axis])
        close &= np.abs(distance - np.round(distance)) < near[axis]
    return np.asarray(close.any(axis=1))


def _fold(
    sites: NDArray[np.float64], neighbours: NDArray[np.bool_], reach: NDArray[np.float64], size: int
) -> NDArray[np.float64] | None:
    """Sites in the smaller cell, those that coincide averaged; None if they are not `size` each time.

    Sites that were `neighbours` in the larger cell already do not coincide.
    """
    same = _within(sites, reach) & ~neighbours
    first = same.argmax(axis=1)
    if not ((same.sum(axis=0) == size).all() and (same == same[first]).all()):
        return None
    members = np.nonzero(same[np.unique(first)])[1].reshape(-1, size)
    wrapped = sites % 1
    mean = wrapped[members[:, 0]]
    for k in range(1, size):
        offset = wrapped[members[:, k]] - mean
        mean += (offset - np.round(offset)) / (k + 1)
    return mean
