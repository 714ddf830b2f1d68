"""Which compositions to draw: all that conditions and charge balance admit, small formulas likelier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from ..core.errors import InputError
from ..core.records import Conditions
from .charge import charge_balanced as is_balanced
from .volume import atomic_volumes, require_volumes

Counts = tuple[tuple[str, int], ...]

_FORMULA_ATOMS = 20  # largest formula unit to draw
_LISTED = 20_000  # more compositions of one chemical system than this are sampled
_SPECIES = 4  # most elements drawn together where not all must appear


class Compositions:
    """Draws the atoms of a cell.

    Args:
        conditions: elements, composition and cell size.
        charge_balanced: only compositions that oxidation states can balance.

    Raises:
        InputError: nothing can be drawn.
    """

    def __init__(self, conditions: Conditions, *, charge_balanced: bool) -> None:
        self._conditions = conditions
        self._charge_balanced = charge_balanced
        self._formulas: dict[tuple[str, ...], tuple[list[Counts], np.ndarray]] = {}
        fixed = tuple(symbol for symbol, _ in conditions.composition)
        self.elements = fixed or conditions.elements or tuple(atomic_volumes())
        require_volumes(self.elements)
        asked = set(conditions.elements)
        if (
            fixed
            and asked
            and not (set(fixed) == asked if conditions.require_all else set(fixed) <= asked)
        ):
            raise InputError(
                f"composition {dict(conditions.composition)} and elements "
                f"{'-'.join(conditions.elements)} disagree"
            )
        all_needed = bool(fixed) or (bool(conditions.elements) and conditions.require_all)
        most = len(self.elements)
        self._sizes = (
            [most] if all_needed else list(range(1, min(most, _SPECIES, conditions.max_atoms) + 1))
        )
        if all_needed and not self._of(self.elements)[0]:
            raise InputError(
                f"no composition of {'-'.join(self.elements)} with at most {conditions.max_atoms} atoms"
                + (" is in charge balance" if charge_balanced else ""),
                hint="allow more atoms, subsystems or charge_balanced: false",
            )

    def draw(self, rng: np.random.Generator) -> Counts:
        """Atoms of one primitive cell as (symbol, count) pairs; empty where the draw gave nothing."""
        size = int(rng.choice(self._sizes, p=np.array(self._sizes) / sum(self._sizes)))
        picked = rng.choice(len(self.elements), size, replace=False)
        formulas, weights = self._of(tuple(sorted(self.elements[i] for i in picked)))
        if not formulas:
            return ()
        formula = formulas[int(rng.choice(len(formulas), p=weights))]
        most = self._conditions.max_atoms // sum(n for _, n in formula)
        units = int(rng.integers(1, most + 1))
        return tuple((s, n * units) for s, n in formula)

    def listed(self, limit: int, rng: np.random.Generator) -> list[Counts]:
        """Some of the cells that can be drawn, for checks beforehand."""
        return list(dict.fromkeys(cell for _ in range(limit) if (cell := self.draw(rng))))

    def _of(self, elements: tuple[str, ...]) -> tuple[list[Counts], np.ndarray]:
        if elements not in self._formulas:
            formulas = list(self._admitted(elements))
            # There are about n^(k-1) formulas of n atoms: with n^-k all orders of size are as likely.
            weights = np.array([float(sum(n for _, n in f)) ** -len(elements) for f in formulas])
            self._formulas[elements] = formulas, weights / weights.sum() if formulas else weights
        return self._formulas[elements]

    def _admitted(self, elements: tuple[str, ...]) -> Iterator[Counts]:
        largest = self._conditions.max_atoms
        if self._conditions.composition:
            candidates = iter([tuple(n for _, n in sorted(self._conditions.composition))])
        else:
            candidates = _amounts(len(elements), min(largest, max(_FORMULA_ATOMS, len(elements))))
        for amounts in candidates:
            formula = tuple(zip(sorted(elements), amounts, strict=True))
            if sum(amounts) <= largest and (not self._charge_balanced or is_balanced(dict(formula))):
                yield formula


def _amounts(k: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Amounts of k elements with no common factor and at most `largest` atoms."""
    if math.comb(largest, k) <= _LISTED:
        # Cuts of a row of atoms: every composition of every total, once.
        for cuts in combinations(range(1, largest + 1), k):
            amounts = tuple(b - a for a, b in zip((0, *cuts), cuts, strict=False))
            if math.gcd(*amounts) == 1:
                yield amounts
        return
    rng = np.random.default_rng(0)  # the list belongs to the chemical system, not to the stream
    spare = largest - k
    seen = set()
    for _ in range(_LISTED):
        ends = np.sort(rng.integers(0, spare + 1, size=k))
        amounts = tuple((1 + np.diff(ends, prepend=0)).tolist())
        if amounts not in seen and math.gcd(*amounts) == 1:
            seen.add(amounts)
            yield amounts
