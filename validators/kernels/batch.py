"""What Python calls: many crystals in flat arrays, without the interpreter lock.

A store of crystals is seven arrays, a row per crystal where nothing else is said:

    lattices (m, 3, 3)  angstrom
    starts, sizes (m,)  where its atoms are in `frac` and `numbers`, and how many
    states (m,)         RAW, REDUCED, or the code of a failure, which is negative
    frac (atoms, 3), numbers (atoms,)
    rows (m,)           of its vector in `vectors`, or UNKNOWN or a failure
    vectors (v, k)      AMD over (volume per atom)^(1/3)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .algebra import THIN, Floats, Ints, cell_lengths, copy, determinant, lll_reduce
from .compiled import entry, inner
from .distances import mean_neighbours
from .primitive import primitive_niggli
from .sites import same_crystal

RAW, REDUCED = 0, 1
UNKNOWN = -100
"""Row of a vector that was not asked for."""

_CELLS = "float64[:,:,::1], int64[::1], int32[::1]"
_STORE = f"Tuple(({_CELLS}, int8[::1], float64[:,::1], uint8[::1], int32[::1]))"
_VECTORS = "float32[:,::1]"

Bytes = NDArray[np.int8]
Shorts = NDArray[np.int32]
Numbers = NDArray[np.uint8]
Vectors = NDArray[np.float32]


@inner
def _reduced(lattice: Floats, frac: Floats, numbers: Numbers, max_aspect: float) -> int:
    basis = np.empty((3, 3))
    copy(lattice, basis)
    if not lll_reduce(basis):
        return THIN
    lengths = cell_lengths(basis)
    shortest = min(lengths[0], lengths[1], lengths[2])
    if max(lengths[0], lengths[1], lengths[2]) > max_aspect * shortest:
        return THIN
    return primitive_niggli(lattice, frac, numbers)


@entry(f"void({_CELLS}, int8[::1], float64[:,::1], uint8[::1], int64[::1], float64)")
def reduce_many(
    lattices: Floats,
    starts: Ints,
    sizes: Shorts,
    states: Bytes,
    frac: Floats,
    numbers: Numbers,
    slots: Ints,
    max_aspect: float,
) -> None:
    """Reduce the crystals at `slots` in place, and set their states and sizes."""
    for s in slots:
        a, b = starts[s], starts[s] + sizes[s]
        n = _reduced(lattices[s], frac[a:b], numbers[a:b], max_aspect)
        states[s] = REDUCED if n > 0 else n
        if n > 0:
            sizes[s] = n


@entry(f"void({_CELLS}, float64[:,::1], int64[::1], int32[::1], {_VECTORS})")
def vectors_many(
    lattices: Floats,
    starts: Ints,
    sizes: Shorts,
    frac: Floats,
    slots: Ints,
    rows: Shorts,
    vectors: Vectors,
) -> None:
    """Scaled AMD of the reduced crystals at `slots` into their rows; a failure's row is its code."""
    out = np.empty(vectors.shape[1])
    for s in slots:
        n = sizes[s]
        code = mean_neighbours(lattices[s], frac[starts[s] : starts[s] + n], len(out), out)
        if code < 0:
            rows[s] = code
            continue
        length = (abs(determinant(lattices[s])) / n) ** (1 / 3)
        for k in range(len(out)):
            vectors[rows[s], k] = out[k] / length


@inner
def _largest_difference(a: Vectors, i: int, b: Vectors, j: int, limit: float) -> float:
    """Chebyshev distance of row i of a and row j of b, or some number above `limit`."""
    largest = 0.0
    for k in range(a.shape[1]):
        largest = max(largest, abs(float(a[i, k]) - float(b[j, k])))
        if largest > limit:
            break
    return largest


@entry(
    f"void({_STORE}, {_VECTORS}, {_STORE}, {_VECTORS}, int64[::1], int64[::1], int64[::1], int64[::1], "
    "int64, UniTuple(float64, 4), int64[::1], int64[::1], int64[::1])"
)
def first_matches(
    known: tuple[Floats, Ints, Shorts, Bytes, Floats, Numbers, Shorts],
    known_vectors: Vectors,
    asked: tuple[Floats, Ints, Shorts, Bytes, Floats, Numbers, Shorts],
    asked_vectors: Vectors,
    queries: Ints,
    members: Ints,
    heads: Ints,
    counts: Ints,
    few: int,
    tolerances: tuple[float, float, float, float],
    found: Ints,
    codes: Ints,
    compared: Ints,
) -> None:
    """The first crystal of a store that is the same as each one asked about.

    Query q compares with the crystals members[heads[q]] to members[heads[q] + counts[q] - 1] of `known`,
    in this order; where they are more than `few`, with those of them whose vectors are near.

    Args:
        queries: slots in the store `asked`. tolerances: radius of the vectors, ltol, stol, angle_tol.
        found: the slot of the match, or -1. codes: a failure of some comparison, or 0.
        compared: number of pairs that were compared.
    """
    lattices, starts, sizes, states, frac, numbers, rows = known
    own_lattices, own_starts, own_sizes, own_states, own_frac, own_numbers, own_rows = asked
    radius, ltol, stol, angle_tol = tolerances
    for q in range(len(queries)):
        own = queries[q]
        c, d = own_starts[own], own_starts[own] + own_sizes[own]
        if own_states[own] != REDUCED:
            codes[q] = own_states[own]
            continue
        if counts[q] > few and own_rows[own] < 0:
            codes[q] = own_rows[own]
            continue
        for place in range(heads[q], heads[q] + counts[q]):
            s = members[place]
            if states[s] != REDUCED or sizes[s] != own_sizes[own]:
                continue
            if counts[q] > few:
                if rows[s] < 0:
                    continue
                gap = _largest_difference(known_vectors, rows[s], asked_vectors, own_rows[own], radius)
                if gap > radius:
                    continue
            a, b = starts[s], starts[s] + sizes[s]
            compared[q] += 1
            code = same_crystal(
                lattices[s],
                frac[a:b],
                numbers[a:b],
                own_lattices[own],
                own_frac[c:d],
                own_numbers[c:d],
                ltol,
                stol,
                angle_tol,
            )
            if code > 0:
                found[q] = s
                break
            if code < 0:
                codes[q] = code
