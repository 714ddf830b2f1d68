"""A crystal exactly in the space group that it has within a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.crystal import Crystal
from ..core.records import Failure, Reason

SYMPREC = 0.01  # angstrom


def symmetrized(crystal: Crystal, *, primitive: bool) -> Crystal | Failure:
    """The standard cell (International Tables), exactly in the space group found at `SYMPREC`."""
    import spglib

    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        found = spglib.standardize_cell(cell, to_primitive=primitive, no_idealize=False, symprec=SYMPREC)
    except spglib.SpglibError as error:
        return Failure(crystal.digest, Reason.CHECK_FAILED, f"spglib: {error}")
    if found is None:
        return Failure(crystal.digest, Reason.CHECK_FAILED, "spglib finds no space group")
    lattice, positions, numbers = (np.asarray(part) for part in found)
    return Crystal(lattice, positions, numbers)
