"""Many crystals in flat arrays, and what identifies them worked out for all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .crystal import Crystal

_UNITS = 1_000_000  # of fractional coordinates in a digest


class Packed(NamedTuple):
    """Crystals in flat arrays, in order.

    Args:
        lattices: (m, 3, 3) in angstrom. sizes: (m,) number of atoms of each.
        frac_coords: (atoms, 3). atomic_numbers: (atoms,).
    """

    lattices: NDArray[np.float64]
    sizes: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where the atoms of each crystal end, (m,)."""
        return np.cumsum(self.sizes)

    def finite(self) -> NDArray[np.bool_]:
        """Which crystals have finite numbers alone, (m,)."""
        frac = np.isfinite(self.frac_coords).all(axis=1)
        inside = np.logical_and.reduceat(frac, self.ends - self.sizes)
        return inside & np.isfinite(self.lattices).all(axis=(1, 2))


def pack(crystals: Sequence[Crystal]) -> Packed:
    """Some crystals, at least one, in flat arrays."""
    return Packed(
        np.array([c.lattice for c in crystals]),
        np.array([len(c.atomic_numbers) for c in crystals]),
        np.concatenate([c.frac_coords for c in crystals]),
        np.concatenate([c.atomic_numbers for c in crystals]),
    )


def identify(crystals: Sequence[Crystal], packed: Packed) -> None:
    """Work out `digest` and `reduced_composition` of crystals and keep them there: 8 times as fast as
    one by one. The values are the same.
    """
    finite = packed.finite()
    with np.errstate(invalid="ignore"):
        units = np.rint(np.where(np.isfinite(packed.frac_coords), packed.frac_coords, 0) * _UNITS)
    units[units >= _UNITS] = 0
    x, y, z = units.astype(np.int64).T
    owners = np.repeat(np.arange(len(crystals)), packed.sizes) * 128 + packed.atomic_numbers
    order = np.lexsort(((x * _UNITS + y) * _UNITS + z, owners))
    owners = owners[order]
    digests = _digests(packed, units[order] / _UNITS, owners % 128)
    compositions = _compositions(owners)
    for crystal, good, digest, composition in zip(
        crystals, finite.tolist(), digests, compositions, strict=True
    ):
        known = crystal.__dict__  # where cached properties are kept
        known.setdefault("reduced_composition", composition)
        if good:
            known.setdefault("digest", digest)


def _digests(packed: Packed, frac: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[str]:
    """As `Crystal.digest`, from coordinates and numbers in its order."""
    with np.errstate(invalid="ignore"):
        cells = memoryview((np.round(packed.lattices, 6) + 0.0).tobytes())
    sites, kinds = memoryview(frac.tobytes()), memoryview(numbers.tobytes())
    found, begin = [], 0
    for i, end in enumerate(packed.ends.tolist()):
        content = hashlib.sha256(cells[72 * i : 72 * i + 72])
        content.update(sites[24 * begin : 24 * end])
        content.update(kinds[8 * begin : 8 * end])
        found.append(content.hexdigest())
        begin = end
    return found


def _compositions(owners: NDArray[np.int64]) -> list[tuple[tuple[int, int], ...]]:
    """As `Crystal.reduced_composition`, from 128 times the crystal plus the atomic number, rising."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(first, append=len(owners))
    kinds = owners[first]
    heads = np.flatnonzero(np.diff(kinds // 128, prepend=-1))
    factors = np.repeat(np.gcd.reduceat(counts, heads), np.diff(heads, append=len(kinds)))
    pairs = list(zip((kinds % 128).tolist(), (counts // factors).tolist(), strict=True))
    edges = [*heads.tolist(), len(pairs)]
    return [tuple(pairs[a:b]) for a, b in pairwise(edges)]
