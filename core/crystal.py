"""The crystal: one small immutable value type that every room shares."""

from __future__ import annotations

import hashlib
import math
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .elements import SYMBOLS, chemsys

_DIGEST_DECIMALS = 6
_MAGIC = b"HX1"


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic crystal.

    Values may be non-finite or unphysical (a generator can produce anything); judging that is the
    work of the validity check. Shapes and atomic numbers are checked here.

    Args:
        lattice: (3, 3) float64 in angstrom; the rows are the cell vectors a, b, c.
        frac_coords: (n, 3) float64 fractional coordinates, wrapped into [0, 1).
        atomic_numbers: (n,) int64, 1 to 118.

    Raises:
        ValueError: wrong shapes, no atoms, or an atomic number outside 1 to 118.
    """

    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]

    def __post_init__(self) -> None:
        lattice = np.array(self.lattice, dtype=np.float64)
        numbers = np.array(self.atomic_numbers)
        frac = np.array(self.frac_coords, dtype=np.float64)
        if lattice.shape != (3, 3):
            raise ValueError(f"lattice has shape {lattice.shape}, expected (3, 3)")
        if numbers.ndim != 1 or len(numbers) == 0:
            raise ValueError(f"atomic_numbers has shape {numbers.shape}, expected (n,) with n >= 1")
        if frac.shape != (len(numbers), 3):
            raise ValueError(f"frac_coords has shape {frac.shape}, expected ({len(numbers)}, 3)")
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 1 or numbers.max() > 118:
            raise ValueError(f"atomic_numbers must be integers from 1 to 118, got {numbers}")
        with np.errstate(invalid="ignore"):
            frac = frac - np.floor(frac)
        frac[frac >= 1.0] = 0.0  # -1e-17 - floor(-1e-17) rounds to 1.0
        for name, array in (
            ("lattice", lattice),
            ("frac_coords", frac),
            ("atomic_numbers", numbers.astype(np.int64)),
        ):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Crystal) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Crystal({self.formula}, {len(self)} atoms, {self.digest[:12]})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the content at 1e-6 resolution, independent of the order of the atoms."""
        lattice = np.round(self.lattice, _DIGEST_DECIMALS) + 0.0
        frac = np.round(self.frac_coords, _DIGEST_DECIMALS) + 0.0
        frac[frac >= 1.0] = 0.0
        order = np.lexsort((frac[:, 2], frac[:, 1], frac[:, 0], self.atomic_numbers))
        content = (lattice, frac[order], self.atomic_numbers[order])
        return hashlib.sha256(
            b"".join(np.ascontiguousarray(part).tobytes() for part in content)
        ).hexdigest()

    @cached_property
    def volume(self) -> float:
        """Cell volume in cubic angstrom (absolute value of the determinant)."""
        with np.errstate(
            all="ignore"
        ):  # absurd cells overflow; judging them is the validity check's work
            return abs(float(np.linalg.det(self.lattice)))

    @cached_property
    def reduced_composition(self) -> tuple[tuple[int, int], ...]:
        """((atomic number, count), ...) by rising atomic number, divided by the common factor."""
        counts = Counter(self.atomic_numbers.tolist())
        factor = math.gcd(*counts.values())
        return tuple((z, counts[z] // factor) for z in sorted(counts))

    @cached_property
    def formula(self) -> str:
        """Reduced formula as pymatgen writes it, for example "LiFePO4"."""
        from pymatgen.core import Composition

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns of noble gases, whose X is unknown
            return Composition({SYMBOLS[z]: n for z, n in self.reduced_composition}).reduced_formula

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements present, sorted alphabetically."""
        return tuple(sorted(SYMBOLS[z] for z, _ in self.reduced_composition))

    @property
    def chemsys(self) -> str:
        """Chemical system, for example "Fe-Li-O-P"."""
        return chemsys(self.elements)

    def to_bytes(self) -> bytes:
        """Packed form, exact: magic, number of atoms, one zlib block of the three arrays."""
        body = (
            self.lattice.tobytes()
            + self.frac_coords.tobytes()
            + self.atomic_numbers.astype(np.uint8).tobytes()
        )
        return _MAGIC + len(self).to_bytes(4, "little") + zlib.compress(body, 6)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Crystal:
        """Inverse of `to_bytes`.

        Raises:
            ValueError: not such a block, or truncated.
        """
        if packed[:3] != _MAGIC:
            raise ValueError("not a packed crystal")
        n = int.from_bytes(packed[3:7], "little")
        try:
            body = zlib.decompress(packed[7:])
        except zlib.error as error:
            raise ValueError(f"packed crystal is damaged: {error}") from error
        if len(body) != 72 + 25 * n:
            raise ValueError("packed crystal is truncated")
        return cls(
            np.frombuffer(body, np.float64, 9).reshape(3, 3),
            np.frombuffer(body, np.float64, 3 * n, 72).reshape(n, 3),
            np.frombuffer(body, np.uint8, n, 72 + 24 * n).astype(np.int64),
        )
