"""Judge relaxed crystals: from a potential's energy to the energy above the hull of a reference."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ..core.errors import ReferenceUnavailableError
from ..core.records import Failure, HullPoint, Reason
from .energies import formation_energy, scheme_of
from .hull import Hull

if TYPE_CHECKING:
    from ..core.protocols import Reference
    from ..core.records import Relaxed

log = logging.getLogger("heliodor.validators")

_CACHED_HULLS = 2048


class Stability:
    """Energy above the hull of a reference. Hulls are built per chemical system, once.

    Args:
        reference: the known phases.
        model: the potential that will be used, to refuse an unknown one before any work starts.

    Raises:
        InputError: `model` is given and not known to `energies.SCHEMES`.
    """

    def __init__(self, reference: Reference, model: str | None = None) -> None:
        if model is not None:
            scheme_of(model)
        self.reference = reference
        self._hull = lru_cache(maxsize=_CACHED_HULLS)(self._build)

    def judge(self, relaxed: Relaxed) -> HullPoint | Failure:
        """The crystal against the hull; never raises for an item.

        A relaxation that has not converged is judged all the same: its energy is an upper bound.

        Raises:
            InputError: the potential is not known to `energies.SCHEMES`: no crystal could be judged.
        """
        crystal = relaxed.crystal
        formation = formation_energy(relaxed.model, crystal, relaxed.energy)
        if isinstance(formation, Failure):
            return replace(formation, key=relaxed.key)
        try:
            hull = self._hull(crystal.elements)
            distance = hull.query(crystal.reduced_composition, formation.value)
        except ReferenceUnavailableError as error:
            return Failure(relaxed.key, Reason.NO_REFERENCE, error.message)
        except ArithmeticError as error:
            log.warning("hull of %s failed", crystal.chemsys, exc_info=True)
            return Failure(relaxed.key, Reason.CHECK_FAILED, str(error))
        info = self.reference.info
        return HullPoint(
            key=relaxed.key,
            energy_above_hull=distance.energy_above_hull,
            decomposition_energy=distance.decomposition_energy,
            formation_energy_per_atom=formation.value,
            decomposition=distance.decomposition,
            level=relaxed.model,
            corrections=formation.corrections,
            reference=f"{info.name} {info.digest[:12]}",
            coverage=info.coverage,
            uncertain=formation.uncertain,
        )

    def _build(self, elements: tuple[str, ...]) -> Hull:
        return Hull(self.reference.entries(elements))
