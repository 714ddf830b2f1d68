"""When two crystals are the same: pymatgen's StructureMatcher, with each side reduced once.

The verdict is that of `StructureMatcher(ltol, stol, angle_tol, primitive_cell=True, scale=True)
.fit(earlier, later)` (Ong et al., Comput. Mater. Sci. 68, 314 (2013)), whatever index proposed the pair.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.errors import InputError
from .geometry import reduced_basis, require_computable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure


MAX_ASPECT = 500.0
"""Longest over shortest vector of the reduced cell of what is compared."""


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
    """Reduce a crystal as the matcher does: Niggli, then primitive (about 2 ms).

    Raises:
        ValueError: the cell is not finite, has no volume, or is a needle or sheet, for which pymatgen's
            reductions take gigabytes (a cell of 0.001 x 1000 x 1000 angstrom: 96 GB).
        Exception: whatever pymatgen raises for absurd cells; callers turn it into a verdict.
    """
    require_computable(crystal)
    lengths = np.linalg.norm(reduced_basis(crystal.lattice), axis=1)
    if lengths.max() > MAX_ASPECT * lengths.min():
        raise ValueError(
            f"the cell is too thin: {lengths.max() / lengths.min():.3g} times as long as wide"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        niggli = to_structure(crystal).get_reduced_structure(reduction_algo="niggli")
        reduced = niggli.get_primitive_structure()
    return ReducedStructure(
        np.array(reduced.lattice.matrix),
        np.array(reduced.frac_coords),
        np.array(reduced.atomic_numbers, dtype=np.uint8),
        crystal.reduced_composition,
    )


class Matcher:
    """Compares reduced structures. Verdicts depend on the order: pass the earlier one first.

    `StructureMatcher.fit` is not symmetric (it anchors on one site of the second structure), so the
    earlier crystal, or the known one, is always the first argument, as in `group_structures`.
    """

    def __init__(self, settings: MatcherSettings | None = None) -> None:
        self.settings = settings or MatcherSettings()
        self._structure = lru_cache(maxsize=2048)(ReducedStructure.structure)  # 0.1 ms each

    @cached_property
    def _matcher(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        s = self.settings
        return StructureMatcher(s.ltol, s.stol, s.angle_tol, primitive_cell=True, scale=True)

    def matches(self, earlier: ReducedStructure, later: ReducedStructure) -> bool:
        """Whether the two are the same crystal."""
        # Without supercells the matcher needs equal primitive cells: no need to ask it otherwise.
        if earlier.composition != later.composition or len(earlier) != len(later):
            return False
        first, second = self._structure(earlier), self._structure(later)
        return bool(self._matcher.fit(first, second, skip_structure_reduction=True))

    def rms(self, earlier: ReducedStructure, later: ReducedStructure) -> float | None:
        """Root mean square distance of paired sites over (volume per atom)^(1/3); None if no match."""
        found = self._matcher.get_rms_dist(self._structure(earlier), self._structure(later))
        return None if found is None else float(found[0])
