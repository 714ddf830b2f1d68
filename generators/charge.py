"""Charge balance from known oxidation states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise


@lru_cache(maxsize=1)
def oxidation_states() -> dict[str, tuple[int, ...]]:
    """Non-zero oxidation states of each element, rising: the common ones and those met in the ICSD."""
    from pymatgen.core import Element

    return {
        e.symbol: tuple(
            sorted({int(q) for q in (*e.common_oxidation_states, *e.icsd_oxidation_states)} - {0})
        )
        for e in Element
        if e.symbol not in {"D", "T"}
    }


@lru_cache(maxsize=1)
def _metals() -> frozenset[str]:
    from pymatgen.core import Element

    return frozenset(e.symbol for e in Element if e.is_metal)


@lru_cache(maxsize=1)
def _electronegativity() -> dict[str, float]:
    from pymatgen.core import Element

    return {e.symbol: float(e.data["X"]) for e in Element if isinstance(e.data.get("X"), int | float)}


def charge_balanced(counts: Mapping[str, int]) -> bool:
    """Whether the elements' oxidation states can add up to zero.

    Each element takes one state, or one of them two neighbouring states side by side (the Mn of
    LiMn2O4); every cation is less electronegative than every anion (Davies et al., Chem 1, 617
    (2016)). Elements and alloys of metals alone need no balance.
    """
    factor = math.gcd(*counts.values())
    return _balanced(tuple(sorted((s, n // factor) for s, n in counts.items())))


@lru_cache(maxsize=100_000)
def _balanced(formula: tuple[tuple[str, int], ...]) -> bool:
    if len(formula) == 1 or all(s in _metals() for s, _ in formula):
        return True
    x = _electronegativity()
    if any(s not in x for s, _ in formula):
        return False
    # From the most electronegative element down: anions first, and no anion after the first cation.
    ordered = sorted(formula, key=lambda item: -x[item[0]])
    return _search(tuple(ordered), 0, charge=0, cations=False, mixed=False)


def _search(
    formula: tuple[tuple[str, int], ...], at: int, *, charge: int, cations: bool, mixed: bool
) -> bool:
    if at == len(formula):
        return charge == 0 and cations
    symbol, n = formula[at]
    states = oxidation_states()[symbol]
    totals = {(n * q, q > 0, mixed) for q in states if q > 0 or not cations}
    if not mixed:
        for low, high in pairwise(states):
            if low > 0:  # only cations share a site in two valences
                totals |= {(n * low + k * (high - low), True, True) for k in range(1, n)}
    return any(
        _search(formula, at + 1, charge=charge + total, cations=cations or positive, mixed=both)
        for total, positive, both in totals
    )
