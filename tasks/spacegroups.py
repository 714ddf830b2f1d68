"""Space groups, found once: with the outcome after which a crystal changes no more."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..core.crystal import Crystal
from ..core.records import Outcome
from ..report.cif import symmetry

SYMPREC = 0.1  # angstrom, for space groups in tables and report, as the Materials Project has it
_KEY = "spacegroup"

Group = tuple[int, str]


def as_data(crystal: Crystal) -> dict[str, Any]:
    """What an outcome records: number and symbol; finding them takes milliseconds."""
    return {_KEY: symmetry_of(crystal)}


def group_of(outcome: Outcome | None, crystal: Crystal) -> Group | None:
    """Number and symbol of a crystal's space group, from its outcome where that has it."""
    if outcome is None or _KEY not in outcome.data:
        return symmetry_of(crystal)
    found = outcome.data[_KEY]
    return None if found is None else (int(found[0]), str(found[1]))


def spacegroup_of(crystal: Crystal) -> int | None:
    """Number of the space group at `SYMPREC`; None where there is no finding."""
    group = symmetry_of(crystal)
    return group[0] if group else None


@lru_cache(maxsize=4096)
def symmetry_of(crystal: Crystal) -> Group | None:
    """Number and symbol of the space group at `SYMPREC`; None where there is no finding."""
    return symmetry(crystal, SYMPREC)
