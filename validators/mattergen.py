"""What MatterGen's evaluator asks of a crystal, for whoever must compare with numbers that it gave.

Zeni et al., Nature 639, 624 (2025); github.com/microsoft/mattergen, `mattergen/evaluation/metrics`.
Its rules are looser than `validity`: they pass ten of twelve kinds of broken crystals.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from math import prod

import numpy as np
from scipy.spatial import cKDTree

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from .change import Change, spacing
from .geometry import periodic_images, reduced_cell, require_computable

MIN_DISTANCE = 0.5  # angstrom, between two different sites
MIN_VOLUME = 0.1  # cubic angstrom, of the cell
MAX_RMSD = 0.5  # (V/atom)^(1/3); what a relaxation counts as whose sites cannot be paired
_MAX_COMBINATIONS = 200_000  # of oxidation states; about a second
_STATES = "smact14"  # the oxidation states that `smact` gave by default when the evaluator was written

_CHANGE = Change()


def structure_valid(crystal: Crystal) -> bool:
    """No two sites within 0.5 angstrom, and a cell of at least 0.1 cubic angstrom.

    A site's own images do not count: a cell may be flatter than 0.5 angstrom.

    Raises:
        ValueError: the cell is not finite or has no volume.
    """
    require_computable(crystal)
    if crystal.volume < MIN_VOLUME:
        return False
    basis, frac = reduced_cell(crystal)
    images, owner = periodic_images(basis, frac, frac, MIN_DISTANCE)
    near = cKDTree(frac @ basis).sparse_distance_matrix(
        cKDTree(images), MIN_DISTANCE, output_type="ndarray"
    )
    other = near["i"] != owner[near["j"]]
    return not bool(np.any(near["v"][other] < MIN_DISTANCE))


@lru_cache(maxsize=100_000)
def composition_valid(composition: tuple[tuple[int, int], ...]) -> bool | None:
    """SMACT's test: oxidation states that balance and obey Pauling's order of electronegativities.

    Elements and alloys of metals pass. All atoms of an element share a state.

    Returns:
        None where there are more than 200,000 combinations of states to try.
    """
    from pymatgen.core import Composition
    from smact import Element
    from smact.screening import smact_validity

    states = [Element(SYMBOLS[z]).oxidation_states_smact14 or [0] for z, _ in composition]
    if prod(len(s) for s in states) > _MAX_COMBINATIONS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        amounts = Composition({SYMBOLS[z]: n for z, n in composition})
        return bool(smact_validity(amounts, oxidation_states_set=_STATES))


def relaxation_rmsd(before: Crystal, after: Crystal) -> float:
    """Displacement by relaxation in angstrom; where sites cannot be paired, half of (V/atom)^(1/3)."""
    found = _CHANGE.rmsd(before, after)
    return MAX_RMSD * spacing(before, after) if found is None else found
