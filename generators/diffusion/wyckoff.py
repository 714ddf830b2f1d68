"""The name of a group with its occupied Wyckoff positions, whatever the origin and order of atoms."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

GRID = 24  # translations in a group's standard setting are multiples of 1/12, some sites of 1/24

Float = NDArray[np.float64]


def key_of(
    number: int,
    rotations: Float,
    translations: Float,
    frac_coords: Float,
    orbit: NDArray[np.int64],
    spaces: Float,
) -> str:
    """Digest of the operations and of the Wyckoff positions, the same for every allowed origin.

    A Wyckoff position is told by where its points, lines or planes lie: with integer rows K that are a
    basis of the lattice of all integer vectors normal to the free directions, K x (mod 1) names the
    affine space through x. Origins differ by the translations that leave the group as it is.

    Args:
        number: of the space group.
        rotations: (g, 3, 3) of a primitive cell.
        translations: (g, 3) multiples of 1 / GRID.
        frac_coords: (n, 3) exactly symmetric.
        orbit: (n,) orbit of each atom.
        spaces: (n, 3, 3) projections (not orthogonal in general) on each atom's free directions.
    """
    normals = [_normals(np.round(space, 6).tobytes()) for space in spaces]
    owner = np.repeat(np.arange(len(normals)), [len(k) for k in normals])
    rows = np.concatenate(normals)
    places = np.rint(2 * GRID * (rows @ frac_coords.T)[np.arange(len(rows)), owner])
    turns = np.rint(2 * GRID * (_origins(rotations.tobytes()) @ rows.T)) % (2 * GRID)
    best: tuple[tuple[bytes, ...], ...] | None = None
    for turn in np.unique(turns, axis=0) if len(rows) else turns[:1]:
        moved = np.column_stack([rows, (places + turn) % (2 * GRID)]).astype(np.int8)
        atoms = [moved[owner == i].tobytes() for i in range(len(normals))]
        orbits: dict[int, list[bytes]] = {}
        for o, atom in zip(orbit.tolist(), atoms, strict=True):
            orbits.setdefault(o, []).append(atom)
        seen = tuple(sorted(tuple(sorted(members)) for members in orbits.values()))
        best = seen if best is None else min(best, seen)
    operations = np.column_stack([rotations.reshape(-1, 9), GRID * translations])
    listed = sorted(row.tobytes() for row in np.rint(operations).astype(np.int8))
    return digest(str(number), str(len(orbit)), repr(listed), repr(best))


def digest(*parts: str) -> str:
    """16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=4096)
def _normals(space: bytes) -> NDArray[np.int64]:
    """(3 - d, 3) basis of the integer vectors k with k v = 0 for all v of a d-dimensional space."""
    projection = np.frombuffer(space, np.float64).reshape(3, 3)
    dimension = round(float(np.trace(projection)))
    if dimension in (0, 3):
        return np.eye(3 - dimension, 3, dtype=np.int64)
    normal = _INTEGERS[np.abs(_INTEGERS @ projection).max(axis=1) < 1e-4]
    if dimension == 2:
        return np.asarray(normal[:1])
    for second in normal[1:]:
        cross = np.cross(normal[0], second)
        if np.gcd.reduce(cross) == 1:
            return np.asarray(np.stack([normal[0], second]))
    raise AssertionError("a rational line has two short normals")


def _integers(reach: int = 4) -> NDArray[np.int64]:
    """Integer vectors, shortest first, one of each pair of opposites."""
    every = np.array([v for v in product(range(-reach, reach + 1), repeat=3) if v > (0, 0, 0)])
    return every[np.lexsort((*every.T, (every**2).sum(axis=1)))]


_INTEGERS = _integers()


@lru_cache(maxsize=1024)
def _origins(rotations: bytes) -> Float:
    """(k, 3) shifts of the origin, multiples of 1/12, that leave the operations as they are."""
    w = np.frombuffer(rotations, np.float64).reshape(-1, 3, 3)
    grid = np.array(list(product(range(12), repeat=3)), dtype=np.float64)
    change = np.einsum("gij,kj->kgi", np.eye(3) - w, grid) % 12
    return np.asarray(grid[~change.any(axis=(1, 2))] / 12)
