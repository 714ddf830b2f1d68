"""Chemistry of compositions as columns: neutrality, SMACT's test, oxidation states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ..core.columns import Column, Value
from ..core.elements import SYMBOLS
from ..core.records import Judged
from .charge import charge_neutral
from .oxidation import assign, electronegativity, state_frequencies
from .phases import Composition

_log = logging.getLogger("heliodor.validators")

_SMACT = "SMACT (Davies et al., J. Open Source Softw. 4, 1361 (2019))"
_ICSD = "states and their counts in the ICSD (2024), as SMACT 4 ships them"


class Chemistry:
    """Whether a composition is one that chemistry knows how to charge; 0.3 ms a new composition."""

    name = "chemistry"
    columns = (
        Column(
            "charge_neutral",
            "boolean",
            "oxidation states can balance; the validity check's own test",
            "",
            f"{_SMACT}; {_ICSD}, reported at least three times",
            "true for elements and for compounds without a non-metal, whose charges are not whole; null "
            "where an element has no known state; 98 % of known phases and of theoretical ones pass",
        ),
        Column(
            "smact_valid",
            "boolean",
            "SMACT's `smact_validity` as it is by default: one state per element balances, every cation "
            "less electronegative than every anion; elements and compounds of metals pass",
            "",
            f"{_SMACT}; {_ICSD}, reported at least three times",
            "no mixed valence (Fe3O4 fails), so 9 of 100 known phases fail",
        ),
        Column(
            "oxidation_states",
            "string",
            'the likeliest neutral assignment, for example "Li+1 O-2 P+5 Fe+2"',
            "",
            _ICSD,
            "from the composition alone, elements independent of one another; null for elements, for "
            "compounds without a non-metal and where nothing is neutral",
        ),
        Column(
            "oxidation_state_likelihood",
            "float64",
            "weight of that assignment among all neutral ones, 0 to 1",
            "",
            _ICSD,
            "how sure the assignment is, not how plausible: 1 where there is only one; null as above",
        ),
        Column(
            "oxidation_state_frequency",
            "float64",
            "share of its element's reports that the rarest assigned state has, 0 to 1",
            "",
            _ICSD,
            "low means that only an unusual state balances; known peroxides have 0.004; null as above",
        ),
        Column(
            "pauling_ordered",
            "boolean",
            "in that assignment every cation is less electronegative than every anion",
            "",
            "Pauling electronegativities (CRC Handbook, 92nd edition, 2011) as SMACT ships them",
            "false for ammonium salts, thiosulfates and other compounds that exist; null as above",
        ),
    )

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return by_composition(batch, chemistry)


def by_composition(
    batch: Sequence[Judged], columns: Callable[[Composition], Mapping[str, Value]]
) -> list[Mapping[str, Value]]:
    """The columns of each crystal's composition; none where they cannot be told."""
    found: list[Mapping[str, Value]] = []
    for item in batch:
        try:
            found.append(columns(item.crystal.reduced_composition))
        except Exception as error:  # one crystal must not stop a batch
            _log.debug("no %s of %s: %r", columns.__name__, item.key, error)
            found.append({})
    return found


def chemistry(composition: Composition) -> dict[str, Value]:
    """The columns of a composition."""
    found = assign(composition)
    return {
        "charge_neutral": charge_neutral(composition),
        "smact_valid": smact_valid(composition),
        "oxidation_states": str(found) if found else None,
        "oxidation_state_likelihood": found.likelihood if found else None,
        "oxidation_state_frequency": found.frequency if found else None,
        "pauling_ordered": found.ordered if found else None,
    }


@lru_cache(maxsize=100_000)
def smact_valid(composition: Composition) -> bool:
    """What `smact.screening.smact_validity` returns by default, without trying all combinations.

    The states of each element by themselves (ICSD 2024, at least three reports); all atoms of an element
    share one; all cations below all anions in electronegativity. SMACT tries every combination of
    states, some million for six elements; this sums charges, for each place where cations may end.
    """
    symbols = [SYMBOLS[z] for z, _ in composition]
    if len(symbols) == 1 or all(s in _metals() for s in symbols):
        return True
    states, scale = state_frequencies(), electronegativity()
    if not all(s in states and s in scale for s in symbols):
        return False
    counts = [n for _, n in composition]
    return any(
        0 in _charges([_admitted(s, limit) for s in symbols], counts)
        for limit in {scale[s] for s in symbols}
    )


def _admitted(symbol: str, limit: float) -> list[int]:
    """States of an element where cations lie below an electronegativity, and anions from there on."""
    anion = electronegativity()[symbol] >= limit
    return [state for state in state_frequencies()[symbol] if (state < 0) == anion]


def _charges(states: Sequence[Sequence[int]], counts: Sequence[int]) -> set[int]:
    """Total charges that can be had."""
    totals = {0}
    for of, count in zip(states, counts, strict=True):
        totals = {total + state * count for total in totals for state in of}
    return totals


@lru_cache(maxsize=1)
def _metals() -> frozenset[str]:
    """SMACT's metals; with Ge and Sb, without B, Si, As and Te."""
    from smact import metals

    return frozenset(metals)
