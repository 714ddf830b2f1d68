"""The likeliest oxidation states of a composition, by how often the ICSD reports each state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ..core.elements import SYMBOLS
from .charge import NON_METALS
from .phases import Composition

CONSENSUS = 3  # reports below which SMACT holds a state for an error
_CHOICES = 20_000  # neutral partial sums held for one composition; more are those of absurd formulas


@dataclass(frozen=True)
class Assignment:
    """Oxidation states that make a composition neutral.

    Args:
        states: ((symbol, state, number of atoms), ...) by rising atomic number and state.
        likelihood: weight of this assignment over the weight of all neutral ones, 0 to 1.
        frequency: of the rarest of the states among the reports of its element, 0 to 1.
        ordered: every cation is less electronegative (Pauling) than every anion; None where one is
        unknown.
    """

    states: tuple[tuple[str, int, int], ...]
    likelihood: float
    frequency: float
    ordered: bool | None

    def __str__(self) -> str:
        return " ".join(f"{symbol}{state:+d}" for symbol, state, _ in self.states)


@dataclass(frozen=True)
class _Choice:
    """States of one element's atoms: their total charge, and the mean frequency (geometric)."""

    charge: int
    weight: float
    states: tuple[tuple[str, int, int], ...]


@dataclass
class _Sum:
    """All choices so far of one total charge: their weight, and the best of them."""

    total: float
    best: float
    states: tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=100_000)
def assign(composition: Composition) -> Assignment | None:
    """The likeliest neutral assignment of a composition, ((atomic number, count), ...).

    The atoms of an element share a state; those of SMACT's mixed-valence elements may take two
    neighbouring states of one sign (the iron of Fe3O4). The weight of an assignment is the product over
    the elements of the frequency of their state in the ICSD (of two states, the geometric mean over the
    atoms), as if elements chose independently.

    Returns:
        None for elements, for compounds without a non-metal (as in `charge.charge_neutral`), for
        elements without states, and where nothing is neutral.
    """
    if len(composition) == 1 or not any(z in NON_METALS for z, _ in composition):
        return None
    frequencies = state_frequencies()
    if any(SYMBOLS[z] not in frequencies for z, _ in composition):
        return None
    sums = {0: _Sum(1.0, 1.0, ())}
    for z, count in composition:
        sums = _joined(sums, _choices(SYMBOLS[z], count))
        if len(sums) > _CHOICES:
            return None
    neutral = sums.get(0)
    if neutral is None:
        return None
    rarest = min(frequencies[symbol][state] for symbol, state, _ in neutral.states)
    return Assignment(neutral.states, neutral.best / neutral.total, rarest, _ordered(neutral.states))


def _joined(sums: dict[int, _Sum], choices: tuple[_Choice, ...]) -> dict[int, _Sum]:
    found: dict[int, _Sum] = {}
    for charge, old in sums.items():
        for choice in choices:
            best, states = old.best * choice.weight, old.states + choice.states
            total = old.total * choice.weight
            known = found.get(charge + choice.charge)
            if known is None:
                found[charge + choice.charge] = _Sum(total, best, states)
                continue
            known.total += total
            if best > known.best:
                known.best, known.states = best, states
    return found


@lru_cache(maxsize=10_000)
def _choices(symbol: str, count: int) -> tuple[_Choice, ...]:
    states = state_frequencies()[symbol]
    found = [_Choice(q * count, p, ((symbol, q, count),)) for q, p in states.items()]
    if symbol not in mixed_valence():
        return tuple(found)
    for low, high in pairwise(sorted(states)):
        if low * high < 0:
            continue
        for k in range(1, count):
            mean = math.exp((k * math.log(states[low]) + (count - k) * math.log(states[high])) / count)
            pair = ((symbol, low, k), (symbol, high, count - k))
            found.append(_Choice(low * k + high * (count - k), mean, pair))
    return tuple(found)


@lru_cache(maxsize=1)
def state_frequencies() -> dict[str, dict[int, float]]:
    """Share of each non-zero state among an element's reports in the ICSD (2024), as SMACT counts them.

    States reported less than three times are left out; elements without one (He, Ne, Ar ...) too.
    """
    import json
    from pathlib import Path

    from smact import data_directory

    path = Path(data_directory) / "oxidation_states_icsd24_counts.json"
    counts: dict[str, dict[int, int]] = {}
    for row in json.loads(path.read_text("utf-8")):
        if row["oxidation_state"] != 0 and row["results_count"] >= CONSENSUS:
            counts.setdefault(row["element"], {})[row["oxidation_state"]] = row["results_count"]
    return {
        symbol: {state: n / sum(of.values()) for state, n in sorted(of.items())}
        for symbol, of in counts.items()
    }


@lru_cache(maxsize=1)
def mixed_valence() -> frozenset[str]:
    """SMACT's list of elements whose atoms may differ in their state within a compound."""
    from smact.screening import MIXED_VALENCE_ELEMENTS

    return frozenset(MIXED_VALENCE_ELEMENTS)


@lru_cache(maxsize=1)
def electronegativity() -> dict[str, float]:
    """Pauling electronegativities of SMACT (CRC Handbook, 92nd edition, 2011); He, Ne, Ar have none."""
    from smact import Element

    found = {symbol: Element(symbol).pauling_eneg for symbol in SYMBOLS[1:104]}
    return {symbol: float(x) for symbol, x in found.items() if x is not None}


def _ordered(states: tuple[tuple[str, int, int], ...]) -> bool | None:
    scale = electronegativity()
    if any(symbol not in scale for symbol, _, _ in states):
        return None
    cations = [scale[symbol] for symbol, state, _ in states if state > 0]
    anions = [scale[symbol] for symbol, state, _ in states if state < 0]
    return max(cations) < min(anions)
