"""Finalists made ready for phonons and elastic constants: relaxed tightly, and put into their symmetry.

Small displacements and strains tell the curvature of the energy only where forces and stress vanish, so
what the campaign relaxed (to 0.05 eV/angstrom by default) is relaxed further. Then the crystal is put
exactly into the space group found at 0.01 angstrom, which spares most displacements.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..core.crystal import Crystal
from ..core.protocols import Evaluator, Relaxer
from ..core.records import Failure, Judged, Reason
from .symmetry import symmetrized

FMAX = 0.005  # eV/angstrom
SMAX = 0.0003  # eV/angstrom^3 (0.05 GPa)


@runtime_checkable
class Potential(Relaxer, Evaluator, Protocol):
    """Relaxes, and gives the forces of crystals as they are."""


class Finalists:
    """Minima of crystals, kept for whoever asks next. Safe to ask from several threads.

    Args:
        potential: relaxes to `FMAX` and `SMAX`, or as far as its steps and its precision go.
        within: eV/atom above the hull; what lies higher is no finalist.
    """

    def __init__(self, potential: Potential, within: float) -> None:
        self.potential = potential
        self.within = within
        self._lock = threading.Lock()
        self._minima: dict[str, Crystal | Failure] = {}

    def minima(self, batch: Sequence[Judged]) -> list[Crystal | Failure]:
        """The primitive cell of each crystal at its minimum; a failure says why there is none."""
        found = [self._refusal(item) for item in batch]
        todo = {
            item.crystal.digest: item.crystal
            for item, refused in zip(batch, found, strict=True)
            if refused is None
        }
        with self._lock:
            new = [crystal for key, crystal in todo.items() if key not in self._minima]
            for result in self.potential.relax(new):
                if isinstance(result, Failure):
                    self._minima[result.key] = result
                else:
                    self._minima[result.key] = symmetrized(result.crystal, primitive=True)
            return [
                self._minima[item.crystal.digest] if refused is None else refused
                for item, refused in zip(batch, found, strict=True)
            ]

    def _refusal(self, item: Judged) -> Failure | None:
        if item.relaxed is None or item.hull is None:
            return Failure(item.key, Reason.CHECK_FAILED, "no energy")
        if item.hull.energy_above_hull > self.within:
            detail = f"{item.hull.energy_above_hull:.3f} eV/atom above the hull, limit {self.within:g}"
            return Failure(item.key, Reason.UNSTABLE, detail)
        return None
