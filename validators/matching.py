"""When two crystals are the same: pymatgen's StructureMatcher, with each side reduced once.

The verdict is that of `StructureMatcher(ltol, stol, angle_tol, primitive_cell=True, scale=True)
.fit(earlier, later)` (Ong et al., Comput. Mater. Sci. 68, 314 (2013)), whatever index proposed the pair.
The same comparison runs here compiled, on plain arrays (`kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.packed import pack
from .geometry import require_computable
from .pool import MAX_ASPECT, Pool, failure

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

__all__ = ["MAX_ASPECT", "Matcher", "MatcherSettings", "ReducedStructure", "prepare"]


@dataclass(frozen=True)
class MatcherSettings:
    """Tolerances of the matcher; the defaults are the field's.

    Args:
        ltol: relative difference of cell lengths.
        stol: largest distance between paired sites, in units of (volume per atom)^(1/3).
        angle_tol: difference of cell angles, degrees.

    Raises:
        InputError: a tolerance is not a positive number.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0

    def __post_init__(self) -> None:
        for name in ("ltol", "stol", "angle_tol"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"matcher {name}: got {value}, expected a positive number")

    def __str__(self) -> str:
        return f"StructureMatcher {self.ltol:g}/{self.stol:g}/{self.angle_tol:g}"


@dataclass(frozen=True, eq=False)
class ReducedStructure:
    """What the matcher compares: the primitive Niggli cell, as exact arrays (24 n + 72 bytes).

    Args:
        lattice: (3, 3) angstrom, rows a, b, c. frac_coords: (n, 3). atomic_numbers: (n,).
        composition: reduced composition of the crystal.
    """

    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    atomic_numbers: NDArray[np.uint8]
    composition: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def structure(self) -> Structure:
        """A new pymatgen Structure of the reduced cell."""
        from pymatgen.core import Lattice, Structure

        return Structure(Lattice(self.lattice), self.atomic_numbers.tolist(), self.frac_coords)


def prepare(crystal: Crystal) -> ReducedStructure:
    """Reduce a crystal as the matcher does: Niggli, then primitive.

    Raises:
        ValueError: the cell is not finite, has no volume, is a needle or sheet, or holds too many atoms
            too close to one another.
    """
    require_computable(crystal)
    pool = Pool()
    pool.reduce(pool.append(pack([crystal])))
    error = pool.failed(0)
    if error is not None:
        raise error
    n = int(pool.sizes[0])
    return ReducedStructure(
        pool.lattices[0], pool.frac[:n].copy(), pool.numbers[:n].copy(), crystal.reduced_composition
    )


class Matcher:
    """Compares reduced structures. Verdicts depend on the order: pass the earlier one first.

    `StructureMatcher.fit` is not symmetric (it anchors on one site of the second structure), so the
    earlier crystal, or the known one, is always the first argument, as in `group_structures`.
    """

    def __init__(self, settings: MatcherSettings | None = None) -> None:
        self.settings = settings or MatcherSettings()

    @cached_property
    def _matcher(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        s = self.settings
        return StructureMatcher(s.ltol, s.stol, s.angle_tol, primitive_cell=True, scale=True)

    def matches(self, earlier: ReducedStructure, later: ReducedStructure) -> bool:
        """Whether the two are the same crystal: some cell and shift lay each site on a like one.

        Raises:
            ValueError: it would take more than about 2 s (needles; hundreds of like atoms on a grid).
        """
        # Without supercells the matcher needs equal primitive cells.
        if earlier.composition != later.composition or len(earlier) != len(later):
            return False
        from .kernels.sites import same_crystal

        s = self.settings
        a, b = (
            # Copies: what comes from a mapped file is read-only.
            (np.array(x.lattice), np.array(x.frac_coords), np.array(x.atomic_numbers))
            for x in (earlier, later)
        )
        code = same_crystal(*a, *b, s.ltol, s.stol, s.angle_tol)
        if code < 0:
            raise failure(code)
        return code == 1

    def rms(self, earlier: ReducedStructure, later: ReducedStructure) -> float | None:
        """Root mean square distance of paired sites over (volume per atom)^(1/3); None if no match."""
        found = self._matcher.get_rms_dist(earlier.structure(), later.structure())
        return None if found is None else float(found[0])
