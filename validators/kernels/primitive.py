"""The primitive cell that the matcher compares, as pymatgen's `get_primitive_structure` finds it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...core.elements import SYMBOLS
from .algebra import CROWDED, THIN, Floats, Ints, cell_lengths, copy, inverse, product, stable_order
from .compiled import inner
from .niggli import niggli_setting

TOLERANCE = 0.25
"""Angstrom along each cell vector, for sites that a translation maps on one another; pymatgen's."""

Numbers = NDArray[np.uint8]

_MAX_WORK = 200_000_000  # comparisons, about 2 s; crowds of like atoms alone ask for more
_RANK = np.argsort(np.argsort(np.array(SYMBOLS)))  # pymatgen sorts sites by symbol


@inner
def primitive_niggli(lattice: Floats, frac: Floats, numbers: Numbers) -> int:
    """Niggli, primitive, Niggli, as the matcher does, in place.

    Returns:
        The number of atoms left, at the head of `frac` and `numbers`, or THIN or CROWDED.
    """
    cell = np.empty((3, 3))
    if not niggli_setting(lattice, frac, cell):
        return THIN
    work = np.zeros(1, dtype=np.int64)
    n = len(numbers)
    while True:
        found = smaller_cell(cell, frac[:n], numbers[:n], work)
        if found < 0:
            return found
        if found == 0:
            break
        n = found
    copy(cell, lattice)
    if n < len(numbers) and not niggli_setting(cell, frac[:n], lattice):
        return THIN
    return n


@inner
def smaller_cell(cell: Floats, frac: Floats, numbers: Numbers, work: Ints) -> int:
    """The same crystal in a smaller cell, in place; coinciding sites are averaged.

    `work` counts comparisons. Returns the number of atoms left, 0 where there is no smaller cell, or
    CROWDED.
    """
    n, starts = len(numbers), np.zeros(len(_RANK) + 1, dtype=np.int64)
    for i in range(n):  # sites by element, as pymatgen sorts them
        starts[_RANK[numbers[i]] + 1] += 1
    groups, units = 0, starts[0]  # 0, but no literal: numba compiles once more for those
    for rank in range(len(_RANK)):
        size = starts[rank + 1]
        if size > 0:
            units = math.gcd(units, size)
            starts[groups + 1] = starts[groups] + size
            groups += 1
    if units == 1:
        return 0
    sites, elements = _by_element(frac, numbers)
    near = np.empty(3)
    lengths = cell_lengths(cell)
    for x in range(3):
        near[x] = TOLERANCE / lengths[x]
    shifts, count = _translations(sites, starts[: groups + 1], near, work)
    # With the null translation alone, a smaller cell has steps under 0.25 angstrom, and needs more sites
    # than fit with the 0.5 angstrom between them that `_folds` asks for: pymatgen finds none either.
    if work[0] > _MAX_WORK:
        return CROWDED
    if count == 1:
        return 0
    left = _first_form(cell, sites, starts[: groups + 1], shifts[:count], units, near, work)
    if left > 0:
        copy(sites[:left], frac)
        for i in range(left):
            numbers[i] = elements[i * (n // left)]
    return left


@inner
def _by_element(frac: Floats, numbers: Numbers) -> tuple[Floats, Numbers]:
    """Sites and atomic numbers by element."""
    sites, elements = np.empty((len(frac), 3)), np.empty(len(frac), dtype=np.uint8)
    keys = np.empty(len(frac))
    for i in range(len(frac)):
        keys[i] = _RANK[numbers[i]]
    order = stable_order(keys)
    for i in range(len(frac)):
        elements[i] = numbers[order[i]]
        for x in range(3):
            sites[i, x] = frac[order[i], x]
    return sites, elements


@inner
def _translations(sites: Floats, starts: Ints, near: Floats, work: Ints) -> tuple[Floats, int]:
    """Translations (m, 3) that bring every site within 2 `near` of a like one, and their number.

    The null one is among them.
    """
    best = 0
    along, order = np.empty(len(sites)), np.empty(len(sites), dtype=np.int64)
    for g in range(len(starts) - 1):
        low, high = starts[g], starts[g + 1]
        if high - low < starts[best + 1] - starts[best]:
            best = g
        wrapped = np.empty(high - low)
        for i in range(low, high):
            wrapped[i - low] = sites[i, 0] - math.floor(sites[i, 0])
        ranks = stable_order(wrapped)
        for i in range(high - low):
            along[low + i], order[low + i] = wrapped[ranks[i]], low + ranks[i]
    first, kept = starts[best], 0
    shifts, shift = np.empty((starts[best + 1] - first, 3)), np.empty(3)
    for s in range(first, starts[best + 1]):
        for x in range(3):
            shift[x] = sites[s, x] - sites[first, x]
        if _maps(shift, sites, starts, order, along, near, work):
            for x in range(3):
                shifts[kept, x] = shift[x]
            kept += 1
        if work[0] > _MAX_WORK:
            break
    return shifts, kept


@inner
def _maps(
    shift: Floats, sites: Floats, starts: Ints, order: Ints, along: Floats, near: Floats, work: Ints
) -> bool:
    """Whether a translation brings every site within 2 `near` of a like one.

    `order` sorts the sites of each element `along` the first axis.
    """
    for g in range(len(starts) - 1):
        low, size = starts[g], starts[g + 1] - starts[g]
        for i in range(low, low + size):
            begin = shift[0] + sites[i, 0] - 2 * near[0] - 1e-9
            begin -= math.floor(begin)
            place = _position(along, low, low + size, begin)
            good = False
            for step in range(size):
                j = low + (place - low + step) % size
                ahead = along[j] - begin
                ahead += 1.0 if ahead < 0 else 0.0
                if ahead > 4 * near[0] + 4e-9 and near[0] < 0.24:
                    break
                work[0] += 1
                good = True
                for x in range(3):
                    distance = shift[x] + (sites[i, x] - sites[order[j], x])
                    good = good and abs(distance - np.rint(distance)) < 2 * near[x]
                if good:
                    break
            if not good or work[0] > _MAX_WORK:
                return False
    return True


@inner
def _position(values: Floats, low: int, high: int, value: float) -> int:
    """The first of the rising values low to high that is not below `value`."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _first_form(
    cell: Floats, sites: Floats, starts: Ints, shifts: Floats, units: int, near: Floats, work: Ints
) -> int:
    """The first smaller cell that folds the sites, into `cell` and the head of `sites`.

    Tried are the Hermite normal forms [[a, b, c], [0, e, f], [0, 0, g]], `cell = form @ smaller cell`,
    whose inverse has rows near `shifts`: by rising determinant, a divisor of `units`, then a, e, b, c.

    Returns:
        The number of sites left; 0 where no cell folds them; CROWDED.
    """
    form = np.zeros((3, 3))
    for size in range(2, units + 1):
        if units % size != 0:
            continue
        for a in range(1, size + 1):
            if size % a != 0:
                continue
            for e in range(1, size // a + 1):
                if (size // a) % e != 0:
                    continue
                g = size // a // e
                if not _near(0.0, 0.0, 1 / g, shifts, near):
                    continue
                work[0] += (e + a * a) * len(shifts)
                form[0, 0], form[1, 1], form[2, 2] = a, e, g
                for b in range(a):
                    for c in range(a):
                        for f in range(e):
                            if work[0] > _MAX_WORK:
                                return CROWDED
                            work[0] += len(shifts)
                            if not _near(0.0, 1 / e, -f / (e * g), shifts, near):
                                continue
                            third = (b * f - c * e) / (a * e * g)
                            if not _near(1 / a, -b / (a * e), third, shifts, near):
                                continue
                            form[0, 1], form[0, 2], form[1, 2] = b, c, f
                            work[0] += len(sites) ** 2
                            if _folds(cell, sites, starts, form, size, near):
                                return len(sites) // size
    return 0


@inner
def _near(x: float, y: float, z: float, shifts: Floats, near: Floats) -> bool:
    """Whether a translation differs from some shift, up to whole numbers, by less than `near`."""
    for s in range(len(shifts)):
        p, q, r = x - shifts[s, 0], y - shifts[s, 1], z - shifts[s, 2]
        if (
            abs(p - np.rint(p)) < near[0]
            and abs(q - np.rint(q)) < near[1]
            and abs(r - np.rint(r)) < near[2]
        ):
            return True
    return False


@inner
def _folds(cell: Floats, sites: Floats, starts: Ints, form: Floats, size: int, near: Floats) -> bool:
    """Fold `cell` and the head of `sites` into the smaller cell, if each site then has `size` - 1 others
    at its place; sites that were neighbours in the larger cell already do not count.
    """
    smaller, moved = product(inverse(form), cell), product(sites, form)
    n, lengths, reach = len(sites), cell_lengths(smaller), np.empty(3)
    for x in range(3):
        reach[x] = TOLERANCE / lengths[x]
    means, rows = np.empty((n // size, 3)), np.empty((n // size, size), dtype=np.int64)
    row_of, members = np.full(n, -1), np.empty(size, dtype=np.int64)
    filled = 0
    for g in range(len(starts) - 1):
        for i in range(starts[g], starts[g + 1]):
            if not _members(i, moved, sites, starts[g], starts[g + 1], reach, near, members):
                return False
            if members[0] == i:
                if filled == len(rows):
                    return False
                row_of[i] = filled
                _mean(moved, members, means[filled])
                filled += 1
            row = row_of[members[0]]
            if row < 0:
                return False
            for k in range(size):
                if members[0] == i:
                    rows[row, k] = members[k]
                if rows[row, k] != members[k]:
                    return False
    copy(smaller, cell)
    copy(means, sites)
    return True


@inner
def _members(
    i: int,
    moved: Floats,
    sites: Floats,
    low: int,
    high: int,
    reach: Floats,
    near: Floats,
    members: Ints,
) -> bool:
    """The sites low to high at the place of site i, itself included; False if not len(members)."""
    count = 0
    for j in range(low, high):
        close, before = True, True
        for axis in range(3):
            d = moved[i, axis] - moved[j, axis]
            if not abs(d - np.rint(d)) <= reach[axis]:
                close = False
                break
            d = sites[i, axis] - sites[j, axis]
            before = before and abs(d - np.rint(d)) <= 2 * near[axis]
        if close and (i == j or not before):
            if count == len(members):
                return False
            members[count] = j
            count += 1
    return count == len(members)


@inner
def _mean(moved: Floats, members: Ints, mean: Floats) -> None:
    """Mean position of sites that coincide up to lattice vectors, into `mean`."""
    for axis in range(3):
        first = moved[members[0], axis]
        value = first - math.floor(first)
        for k in range(1, len(members)):
            own = moved[members[k], axis]
            offset = own - math.floor(own) - value
            value += (offset - np.rint(offset)) / (k + 1)
        mean[axis] = value
