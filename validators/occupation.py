"""Which Wyckoff positions a crystal's elements occupy, the same for every setting of the crystal."""

from __future__ import annotations

import json
import logging
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from .geometry import reduced_basis, require_computable
from .matching import MAX_ASPECT

Occupation = tuple[int, str]
"""Number of the space group, and its occupied positions, such as (225, "a:Cl b:Na")."""

SYMPREC, ANGLE_TOLERANCE = 0.1, 5.0  # angstrom, degrees: the Materials Project's, for its space groups

_log = logging.getLogger("heliodor.validators")


def occupation(crystal: Crystal) -> Occupation | None:
    """Space group and occupied Wyckoff positions with their elements; about 2 ms.

    Letters that another choice of the origin exchanges are interchangeable: of the equivalent ways to
    write a crystal, the first is taken. None where spglib finds no symmetry.
    """
    import spglib

    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        _require_sound(crystal)
        found = spglib.get_symmetry_dataset(cell, SYMPREC, ANGLE_TOLERANCE)
    except Exception as error:  # of any kind, from a symmetry library on absurd cells
        _log.debug("no symmetry of %r: %r", crystal, error)
        return None
    if found is None:
        return None
    number = int(found.number)
    atoms = np.unique(found.crystallographic_orbits, return_index=True)[1].tolist()
    orbits = [(found.wyckoffs[i], SYMBOLS[int(crystal.atomic_numbers[i])]) for i in atoms]
    own, *others = _letters()[str(number)]
    choices = (str.maketrans(own, other) for other in (own, *others))
    return number, min(
        " ".join(f"{w}:{e}" for w, e in sorted((w.translate(choice), e) for w, e in orbits))
        for choice in choices
    )


def _require_sound(crystal: Crystal) -> None:
    """Spglib dies of cells that are not finite, and takes its time over needles. Raises ValueError."""
    require_computable(crystal)
    lengths = np.linalg.norm(reduced_basis(crystal.lattice), axis=1)
    if lengths[2] > MAX_ASPECT * lengths[0]:
        raise ValueError("the cell is too thin")


@cache
def _letters() -> dict[str, list[str]]:
    """By space group: its letters, then what they become under other choices of the origin."""
    text = resources.files(__package__).joinpath("data/wyckoff_letters.json").read_text("utf-8")
    letters: dict[str, list[str]] = json.loads(text)["letters"]
    return letters
