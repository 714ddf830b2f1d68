"""How much room atoms take: volumes that add up, fitted to known crystals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from ..core.errors import InputError

_ANIONS = frozenset(("N", "O", "F", "S", "Cl", "Se", "Br", "I"))


@lru_cache(maxsize=1)
def atomic_volumes() -> dict[str, tuple[float, float]]:
    """Volume of an atom in cubic angstrom, in (compounds of anions, metals), by symbol.

    Fitted to 26,438 crystals of the Materials Project; on 6,438 left out of such a fit the predicted
    volume is within 20 % of the real one for 95 %, with a median ratio of 0.998.
    """
    text = (Path(__file__).parent / "data" / "atomic_volumes.json").read_text()
    return {s: (pair[0], pair[1]) for s, pair in json.loads(text)["volumes"].items()}


def cell_volume(counts: Mapping[str, int]) -> float:
    """Expected volume in cubic angstrom of a cell that holds `counts` atoms of each symbol."""
    column = 0 if _ANIONS & counts.keys() else 1
    return sum(n * atomic_volumes()[s][column] for s, n in counts.items())


def require_volumes(elements: Iterable[str]) -> None:
    """Refuse elements whose volume is unknown.

    Raises:
        InputError: names them.
    """
    missing = [s for s in elements if s not in atomic_volumes()]
    if missing:
        raise InputError(
            f"elements: no atomic volume is known for {', '.join(missing)}",
            hint="leave them out; elements up to Pu are covered, except Ne, Ar, Po, At, Rn, Fr and Ra",
        )
