"""Ordered derivatives: one role of a prototype shared by two elements, in the cell or a supercell.

The small-supercell enumeration of Hart and Forcade, Phys. Rev. B 77, 224115 (2008), with distances
between roles in place of group theory to tell orderings apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .prototypes import Prototype, role_fingerprint, same_fingerprint

_SHARES = (2, 3, 4)  # one half, one third or one quarter of the role's sites take the new element
_MAX_TRIED = 60  # orderings looked at for one role, share and supercell
_MAX_KEPT = 4  # of these, the simplest
_MAX_SUPERCELL = 4


def ordered_derivatives(prototype: Prototype, max_atoms: int) -> list[Prototype]:
    """Derivatives with one role more, distinct, those with the fewest kinds of sites first.

    The order follows Pauling's fifth rule: the kinds of constituents in a crystal tend to be few (J. Am.
    Chem. Soc. 51, 1010 (1929)).
    """
    found: list[tuple[int, Prototype]] = []
    kept: list[tuple[tuple[int, ...], NDArray[np.float64]]] = []
    for cell in _supercells(prototype, max_atoms):
        for role in range(len(cell.parents)):
            for share in _SHARES:
                for kinds, derivative in _orderings(cell, role, share):
                    ratio = _ratio(derivative.counts)
                    if any(r == ratio and same_fingerprint(f, derivative.fingerprint) for r, f in kept):
                        continue
                    kept.append((ratio, derivative.fingerprint))
                    found.append((kinds, derivative))
    return [derivative for _, derivative in sorted(found, key=lambda item: item[0])]


def can_derive(prototype: Prototype, amounts: Sequence[int]) -> bool:
    """Whether one split gives a formula of these amounts (rising), so that looking is worth the time."""
    total = sum(amounts)
    for role, n in enumerate(prototype.counts):
        others = [m for i, m in enumerate(prototype.counts) if i != role]
        for share in _SHARES:
            parts = sorted([*others, n / share, n - n / share])
            if np.allclose(np.array(parts) / sum(parts), np.array(amounts) / total):
                return True
    return False


def _ratio(counts: tuple[int, ...]) -> tuple[int, ...]:
    factor = math.gcd(*counts)
    return tuple(n // factor for n in counts)


def _orderings(cell: Prototype, role: int, share: int) -> Iterator[tuple[int, Prototype]]:
    """(kinds of sites, derivative) of the simplest ways to give 1/share of a role to a new element."""
    sites = np.flatnonzero(cell.roles == role)
    if len(sites) % share:
        return
    tried: list[tuple[int, NDArray[np.int64]]] = []
    for n, chosen in enumerate(combinations(sites.tolist(), len(sites) // share)):
        if n == _MAX_TRIED:
            break
        roles = cell.roles.copy()
        roles[list(chosen)] = len(cell.parents)
        tried.append((_kinds(cell.pairs[0], roles), roles))
    tried.sort(key=lambda item: item[0])
    seen: list[NDArray[np.float64]] = []
    for kinds, roles in tried:
        mark = role_fingerprint(cell.pairs[0], roles)
        if any(same_fingerprint(mark, other) for other in seen):
            continue
        seen.append(mark)
        parents = (*cell.parents, cell.parents[role])
        name = f"{cell.name} split {role}:1/{share}"
        yield kinds, Prototype(name, cell.lattice, cell.frac_coords, roles, parents)
        if len(seen) == _MAX_KEPT:
            return


def _kinds(density: NDArray[np.float64], roles: NDArray[np.int64]) -> int:
    """Number of sites that differ in role or surroundings."""
    onehot = np.eye(int(roles.max()) + 1)[roles]
    around = np.einsum("ijb,jk->ikb", density, onehot).reshape(len(roles), -1)
    # One number per site is enough to rank by: equal surroundings give equal numbers.
    marks = around @ np.sin(np.arange(1.0, around.shape[1] + 1))
    return len(set(zip(roles.tolist(), np.round(marks, 4).tolist(), strict=True)))


def _supercells(prototype: Prototype, max_atoms: int) -> Iterator[Prototype]:
    """The cell and its supercells of up to four times its size, one of each shape."""
    n = len(prototype.roles)
    for size in range(1, _MAX_SUPERCELL + 1):
        if n * size > max_atoms:
            return
        shapes: list[NDArray[np.float64]] = []
        for matrix in _hermite_normal_forms(size):
            cell = _supercell(prototype, matrix)
            shape = _shape(cell.lattice)
            if not any(np.allclose(shape, other, rtol=1e-3) for other in shapes):
                shapes.append(shape)
                yield cell


def _hermite_normal_forms(size: int) -> Iterator[NDArray[np.int64]]:
    """Lower triangular integer matrices, one for every superlattice of the size; rows are vectors."""
    for a in range(1, size + 1):
        for b in range(1, size + 1):
            if size % (a * b):
                continue
            c = size // (a * b)
            for d in range(a):
                for e in range(a):
                    for f in range(b):
                        yield np.array([[a, 0, 0], [d, b, 0], [e, f, c]])


def _supercell(prototype: Prototype, matrix: NDArray[np.int64]) -> Prototype:
    a, b, c = np.diag(matrix)
    shifts = np.array([(i, j, k) for i in range(a) for j in range(b) for k in range(c)])
    frac = (prototype.frac_coords[None] + shifts[:, None]).reshape(-1, 3) @ np.linalg.inv(matrix)
    return Prototype(
        prototype.name,
        matrix @ prototype.lattice,
        frac - np.floor(frac),
        np.tile(prototype.roles, len(shifts)),
        prototype.parents,
    )


def _shape(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest lattice vectors' lengths: enough to tell supercells apart."""
    steps = np.array(list(np.ndindex(5, 5, 5))) - 2
    return np.sort(np.linalg.norm(steps @ lattice, axis=1))[1:15]
