"""What recipes share: the check of a cell, the digest of inputs, the reading of documents."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.convert import from_structure
from ..core.crystal import Crystal
from ..core.levels import Level
from ..core.records import Vector

_FLAT = 1e-3  # cubic angstrom


def require_cell(crystal: Crystal) -> None:
    """Refuse what no code can compute.

    Raises:
        ValueError: a cell that is not finite or flat.
    """
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        raise ValueError("lattice or coordinates are not finite")
    if crystal.volume < _FLAT:
        raise ValueError(f"the cell is flat: its volume is {crystal.volume:.3g} cubic angstrom")


def input_digest(crystal: Crystal, level: Level) -> str:
    """`Inputs.digest` of a relaxation and a static calculation whose level says all there is to say."""
    parts = [crystal.digest, level.digest, "relax and static"]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def crystal_in(structure: Any) -> Crystal:
    """The crystal of a document: a pymatgen Structure, or its dictionary."""
    from pymatgen.core import Structure

    return from_structure(
        Structure.from_dict(dict(structure)) if isinstance(structure, Mapping) else structure
    )


def vectors(rows: Any, scale: float = 1.0) -> tuple[Vector, ...] | None:
    """Forces or a stress, times `scale`, as plain numbers; None stays None.

    Raises:
        ValueError: they are not finite, or no rows of three.
    """
    if rows is None:
        return None
    array = scale * np.asarray(rows, dtype=float).reshape(-1, 3)
    if not np.isfinite(array).all():
        raise ValueError("forces or stresses are not finite")
    return tuple((x, y, z) for x, y, z in array.tolist())


def longest(forces: Sequence[Vector] | None) -> float | None:
    """The largest force on an atom."""
    return None if forces is None else max(math.hypot(*force) for force in forces)


def largest_component(stress: Sequence[Vector] | None) -> float | None:
    """The largest absolute component of a stress."""
    return None if stress is None else max(abs(x) for row in stress for x in row)
