"""What LeMat-GenBench asks of a crystal before it judges it (github.com/LeMaterial/lemat-genbench,
`validity_metrics.py`), for whoever must compare with its numbers.

Three tests, all on the crystal as it was given. Charges differ from the source: see `charge_neutral`.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from . import charge
from .geometry import periodic_images, reduced_cell, require_computable

if TYPE_CHECKING:
    from numpy.typing import NDArray

DISTANCE_SCALE = 0.5
DISTANCE_OFFSET = 0.7  # angstrom, added to the sum of the two atomic radii before it is scaled
ATOMS_PER_VOLUME = (1e-5, 0.5)  # 1/angstrom^3
MASS_DENSITY = (0.01, 25.0)  # g/cm^3
CELL_LENGTH = (1.0, 100.0)  # angstrom, of the cell as it was given
MIN_VOLUME = 1.0  # cubic angstrom
METALLICITY = 0.7  # SMACT's score above which charges are not asked for
_TO_GRAMS = 1.66053906660  # g/cm^3 in u/angstrom^3 (CODATA 2018)


def distances_valid(crystal: Crystal) -> bool:
    """Every two sites at least 0.5 (0.7 angstrom + r_i + r_j) apart, with Slater's atomic radii.

    Raises:
        ValueError: the cell is not finite or has no volume.
    """
    require_computable(crystal)
    basis, frac = reduced_cell(crystal)
    radii = _radii()[crystal.atomic_numbers]
    reach = DISTANCE_SCALE * (DISTANCE_OFFSET + 2 * float(radii.max()))
    images, owner = periodic_images(basis, frac, frac, reach)
    near = cKDTree(frac @ basis).sparse_distance_matrix(cKDTree(images), reach, output_type="ndarray")
    i, j = near["i"], owner[near["j"]]
    least = DISTANCE_SCALE * (DISTANCE_OFFSET + radii[i] + radii[j])
    return not bool(np.any((i != j) & (near["v"] < least)))


def plausible(crystal: Crystal) -> bool:
    """Densities and cell within wide limits.

    0.01 to 25 g/cm^3, 1e-5 to 0.5 atoms per cubic angstrom, lengths of 1 to 100 angstrom.
    """
    volume = crystal.volume
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    if not (volume > MIN_VOLUME and np.all((lengths >= CELL_LENGTH[0]) & (lengths <= CELL_LENGTH[1]))):
        return False
    mass = _TO_GRAMS * float(_masses()[crystal.atomic_numbers].sum()) / volume
    few, many = ATOMS_PER_VOLUME
    light, heavy = MASS_DENSITY
    return few <= len(crystal) / volume <= many and light <= mass <= heavy


@lru_cache(maxsize=100_000)
def charge_neutral(composition: tuple[tuple[int, int], ...]) -> bool:
    """Metallic by SMACT's score, or oxidation states balance.

    The source asks bond valences first and then a table of oxidation states of LeMat-Bulk, which is not
    at hand: here SMACT's states of the ICSD decide (`charge.charge_neutral`); elements without known
    states pass.
    """
    from pymatgen.core import Composition
    from smact.metallicity import metallicity_score

    if charge.charge_neutral(composition) is not False:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        amounts = Composition({SYMBOLS[z]: n for z, n in composition})
        return bool(metallicity_score(amounts) > METALLICITY)


@lru_cache(maxsize=1)
def _radii() -> NDArray[np.float64]:
    """Atomic radii in angstrom by atomic number (Slater, J. Chem. Phys. 41, 3199 (1964)).

    1 where none is known, as in the source.
    """
    from pymatgen.core import Element

    found = [Element.from_Z(z).atomic_radius for z in range(1, 119)]
    return np.array([1.0, *(1.0 if r is None else float(r) for r in found)])


@lru_cache(maxsize=1)
def _masses() -> NDArray[np.float64]:
    from ase.data import atomic_masses

    return np.asarray(atomic_masses, dtype=np.float64)
