"""When to give up a crystal that is relaxed: its energy is heading far above the hull.

The optimiser's quadratic model of the energy says how far the energy would still fall if the model
held: g B^-1 g / 2 with the gradient g and the Hessian B. Early on the model is poor, so the rule wants
the energy to stay above the ceiling even after `SAFETY` times that fall, for `PATIENCE` evaluations in a
row. How often it is wrong is measured by `benchmarks/early_stop.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SAFETY = 3.0  # times the fall that the model predicts
PATIENCE = 4  # evaluations in a row


class Watch(Protocol):
    """Looks at each step of a minimisation, and may end it."""

    def look(self, energy: float, remaining: float) -> str:
        """Told the lowest energy so far and the fall that the model predicts (eV, of the cell).

        Returns why the minimisation should end; empty: it goes on.
        """
        ...


@dataclass
class EarlyStop:
    """Ends a minimisation that is heading above `ceiling` (eV, of the cell, `n_atoms` atoms)."""

    ceiling: float
    n_atoms: int
    _above: int = 0

    def look(self, energy: float, remaining: float) -> str:
        """See `Watch`."""
        expected = energy - SAFETY * remaining
        self._above = self._above + 1 if expected > self.ceiling else 0
        if self._above < PATIENCE:
            return ""
        return (
            f"{(energy - self.ceiling) / self.n_atoms:.3f} eV/atom above the ceiling, and "
            f"{(expected - self.ceiling) / self.n_atoms:.3f} after {SAFETY:g} times the fall that is "
            "expected"
        )
