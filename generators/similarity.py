"""How likely one element takes the place of another in a crystal structure."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.elements import SYMBOLS


@lru_cache(maxsize=1)
def log_substitution() -> NDArray[np.float64]:
    """(119, 119) natural logarithm of p(new | old), indexed [new, old] by atomic number.

    Hautier, Fischer, Ehrlacher, Jain and Ceder, Inorg. Chem. 50, 656 (2011), with pymatgen's table.
    That model is about ions; an element pair takes the value of its likeliest pair of ions. Pairs
    without data take the table's smallest value.
    """
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability
    from pymatgen.core import Species

    model = SubstitutionProbability()
    ions: dict[str, list[Species]] = {}
    for ion in model.species:
        if isinstance(ion, Species) and ion.symbol in SYMBOLS:
            ions.setdefault(ion.symbol, []).append(ion)
    numbers = {s: SYMBOLS.index(s) for s in ions}
    best = np.full((119, 119), np.nan)
    for new, news in ions.items():
        for old, olds in ions.items():
            best[numbers[new], numbers[old]] = max(
                float(np.log(model.cond_prob(a, b))) for a in news for b in olds
            )
    return np.where(np.isnan(best), np.nanmin(best), best)
