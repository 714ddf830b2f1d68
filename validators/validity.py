"""Validity: is this a crystal at all, and one that was asked for? About 0.3 ms a crystal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.errors import InputError
from ..core.records import Conditions, Reason, Verdict
from .charge import charge_neutral
from .geometry import periodic_images, reduced_cell
from .uniqueness import failed_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOLUME_PER_ATOM = (3.5, 150.0)
"""Cubic angstrom."""
CELL_LENGTH = (1.8, 80.0)
"""Angstrom, of the reduced cell. A reduced cell's angles need no check: they are 60 to 120 degrees."""
SEARCH = 3.0
"""Angstrom; how far the shortest distance is looked for."""
DISTANCE_FLOOR = 0.5
"""Angstrom; nothing in a crystal is nearer (H-H in the molecule: 0.74)."""


class Validity:
    """Checks a crystal; the first check that fails is the reason, with numbers in `detail`.

    In this order: finite numbers (NOT_FINITE); number of atoms (TOO_MANY_ATOMS); composition as asked
    (COMPOSITION); 3.5 to 150 cubic angstrom per atom (VOLUME); lengths of the reduced cell 1.8 to 80
    angstrom (CELL); every distance, self-images included, at least `min_distance_ratio` of the sum of
    covalent radii (Cordero et al., Dalton Trans. 2832 (2008)) and 0.5 angstrom (DISTANCE); oxidation
    states balance (CHARGE). `score` is the shortest distance in angstrom, up to 3.

    The geometric checks keep 99.96 % of 26,438 Materials Project crystals, charge neutrality
    98.1 %.

    Args:
        conditions: what was asked for; None admits every composition.
        charge_neutral: check charge neutrality (`charge.charge_neutral`); elements without known
            oxidation states are not rejected but noted.
        min_distance_ratio: share of the sum of covalent radii.
        max_atoms: largest cell, whatever was asked for.

    Raises:
        InputError: an argument is out of range.
    """

    check_name = "validity"

    def __init__(
        self,
        conditions: Conditions | None = None,
        *,
        charge_neutral: bool = True,
        min_distance_ratio: float = 0.55,
        max_atoms: int = 500,
    ) -> None:
        if not 0 < min_distance_ratio <= 1:
            raise InputError(f"min_distance_ratio: got {min_distance_ratio}, expected 0 to 1")
        if max_atoms < 1:
            raise InputError(f"max_atoms: got {max_atoms}, expected at least 1")
        self.conditions = conditions
        self.charge_neutral = charge_neutral
        self.min_distance_ratio = min_distance_ratio
        self.max_atoms = min(max_atoms, conditions.max_atoms) if conditions else max_atoms

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """One verdict per crystal, in the same order."""
        return [self._judge(crystal) for crystal in batch]

    def _judge(self, crystal: Crystal) -> Verdict:
        try:
            shortest = None
            fault = self._composition_fault(crystal) or _volume_fault(crystal)
            if fault is None:
                basis, frac = reduced_cell(crystal)
                fault = _length_fault(basis)
                if fault is None:
                    shortest, fault = self._distances(basis, frac, crystal.atomic_numbers)
            note = ""
            if fault is None and self.charge_neutral:
                fault, note = _charge_fault(crystal)
        except Exception as error:  # the failure of one crystal is a value
            return failed_check(crystal.digest, self.check_name, error)
        reason, detail = fault or (None, note)
        return Verdict(
            crystal.digest,
            self.check_name,
            passed=fault is None,
            reason=reason,
            score=shortest,
            unit="angstrom",
            detail=detail,
        )

    def _composition_fault(self, crystal: Crystal) -> tuple[Reason, str] | None:
        if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
            return Reason.NOT_FINITE, "a coordinate or cell vector is not finite"
        if len(crystal) > self.max_atoms:
            return Reason.TOO_MANY_ATOMS, f"{len(crystal)} atoms, at most {self.max_atoms}"
        if self.conditions and not self.conditions.admits(crystal):
            return Reason.COMPOSITION, f"{crystal.formula}, asked for {_asked(self.conditions)}"
        return None

    def _distances(
        self, basis: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int64]
    ) -> tuple[float | None, tuple[Reason, str] | None]:
        """Shortest distance in angstrom (None: beyond the search) and the worst of those too short."""
        radii = _radii()[numbers]
        reach = max(SEARCH, 2 * self.min_distance_ratio * float(radii.max()))
        images, owner = periodic_images(basis, frac, frac, reach)
        found = cKDTree(frac @ basis).sparse_distance_matrix(
            cKDTree(images), reach, output_type="ndarray"
        )
        i, j, distance = found["i"], owner[found["j"]], found["v"]
        other = (i != j) | (distance > 1e-6)  # all but the atom itself
        i, j, distance = i[other], j[other], distance[other]
        if len(distance) == 0:
            return None, None
        least = np.maximum(DISTANCE_FLOOR, self.min_distance_ratio * (radii[i] + radii[j]))
        worst = int((distance / least).argmin())
        if distance[worst] >= least[worst]:
            return float(distance.min()), None
        a, b = sorted(SYMBOLS[numbers[k]] for k in (i[worst], j[worst]))
        text = f"{a}-{b} {distance[worst]:.2f} angstrom, at least {least[worst]:.2f}"
        return float(distance.min()), (Reason.DISTANCE, text)


def _asked(conditions: Conditions) -> str:
    if conditions.composition:
        return " ".join(f"{symbol}{count}" for symbol, count in conditions.composition)
    return ("all of " if conditions.require_all else "some of ") + "-".join(conditions.elements)


def _volume_fault(crystal: Crystal) -> tuple[Reason, str] | None:
    with np.errstate(over="ignore", under="ignore"):
        volume = crystal.volume / len(crystal)
    low, high = VOLUME_PER_ATOM
    if low <= volume <= high:
        return None
    return Reason.VOLUME, f"{volume:.3g} cubic angstrom per atom, expected {low:g} to {high:g}"


def _length_fault(basis: NDArray[np.float64]) -> tuple[Reason, str] | None:
    lengths, (low, high) = np.linalg.norm(basis, axis=1), CELL_LENGTH
    if low < lengths.min() and lengths.max() < high:
        return None
    text = ", ".join(f"{x:.3g}" for x in lengths)
    return Reason.CELL, f"reduced cell of {text} angstrom, expected {low:g} to {high:g}"


def _charge_fault(crystal: Crystal) -> tuple[tuple[Reason, str] | None, str]:
    """The fault, if there is one, and a note where nothing can be said."""
    neutral = charge_neutral(crystal.reduced_composition)
    if neutral is None:
        return None, f"charge not checked: an element of {crystal.formula} has no known oxidation states"
    if neutral:
        return None, ""
    return (Reason.CHARGE, f"no oxidation states balance {crystal.formula}"), ""


@lru_cache(maxsize=1)
def _radii() -> NDArray[np.float64]:
    """Covalent radii in angstrom by atomic number; 0.2 where none is known."""
    from ase.data import covalent_radii

    return np.asarray(covalent_radii, dtype=np.float64)
