"""Charge neutrality by SMACT's oxidation states (Davies et al., JOSS 4, 1361 (2019))."""

from __future__ import annotations

import warnings
from functools import lru_cache

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS
from ..core.errors import missing_extra

NON_METALS = frozenset(
    ATOMIC_NUMBERS[s] for s in "H He C N O F Ne P S Cl Ar Se Br Kr I Xe At Rn Ts Og".split()
)
"""Atomic numbers. Compounds without one are metals, alloys, borides, silicides, arsenides ...: whole
charges do not describe those, and they are exempt."""


@lru_cache(maxsize=1)
def _oxidation_states() -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """States of each element (ICSD 2024, reported at least three times), and who mixes valences."""
    try:
        from smact.screening import MIXED_VALENCE_ELEMENTS
        from smact.utils.oxidation import ICSD24OxStatesFilter
    except ImportError as error:  # pragma: no cover
        raise missing_extra("smact>=4", "all") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
    states = {
        str(element): tuple(int(q) for q in str(text).split())
        for element, text in zip(table["element"], table["oxidation_state"], strict=True)
    }
    return states, MIXED_VALENCE_ELEMENTS


@lru_cache(maxsize=100_000)
def charge_neutral(composition: tuple[tuple[int, int], ...]) -> bool | None:
    """Whether oxidation states can balance a composition, ((atomic number, count), ...).

    All atoms of an element share a state, except for SMACT's mixed-valence elements, whose atoms choose
    one by one. Unlike SMACT's own search this is exact for any count and linear in the number of atoms.
    The Pauling test is not made. Elements and compounds without a non-metal count as neutral.

    Returns:
        None where an element has no known oxidation state.
    """
    if len(composition) == 1 or not any(z in NON_METALS for z, _ in composition):
        return True
    states, mixed = _oxidation_states()
    symbols = [SYMBOLS[z] for z, _ in composition]
    if not all(s in states for s in symbols):
        return None
    # Bit q + offset of `reachable` says that a total charge of q can be had.
    reachable, offset = 1, 0
    for element, (_, count) in zip(symbols, composition, strict=True):
        repeats, size = (count, 1) if element in mixed else (1, count)
        lowest = min(states[element]) * size
        for _ in range(repeats):
            reachable = _either(reachable, [q * size - lowest for q in states[element]])
            offset -= lowest
    return offset >= 0 and bool(reachable >> offset & 1)


def _either(bits: int, shifts: list[int]) -> int:
    result = 0
    for shift in shifts:
        result |= bits << shift
    return result
