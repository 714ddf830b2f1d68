"""Judge relaxed crystals: from a potential's energy to the energy above the hull of a reference."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.errors import InputError, ReferenceUnavailableError
from ..core.records import Failure, HullPoint, Reason, Relaxed
from .energies import FormationEnergy, formation_energy, require_comparable, scheme_of
from .hull import Hull
from .self_consistent import SelfConsistentReference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.crystal import Crystal
    from ..core.protocols import Phase, Reference, ReferenceInfo

log = logging.getLogger("heliodor.validators")


class Stability:
    """Energy above the hull of a reference.

    Args:
        reference: the known phases.
        model: the potential that will be used, to refuse what cannot be compared before any work starts.

    Raises:
        InputError: `model` is given and not known to `energies.SCHEMES`, is of another functional than
            the reference's energies, or is not the potential that computed them.
    """

    def __init__(self, reference: Reference, model: str | None = None) -> None:
        self.reference = reference
        if model is not None:
            self._require(model)

    def judge(self, relaxed: Relaxed) -> HullPoint | Failure:
        """One crystal against the hull, see `judge_many`."""
        return self.judge_many([relaxed])[0]

    def judge_many(self, batch: Sequence[Relaxed]) -> list[HullPoint | Failure]:
        """Each crystal against the hull, in the same order; never raises for an item.

        A relaxation that has not converged is judged all the same: its energy is an upper bound.

        Raises:
            InputError: a potential is not known to `energies.SCHEMES`, or cannot be compared with the
                reference: no crystal could be judged.
            HeliodorError: a self-consistent reference cannot be computed, see `SelfConsistentReference`.
        """
        for model in sorted({relaxed.model for relaxed in batch}):
            self._require(model)
        known, lacking = self._phases({r.crystal.elements for r in batch})
        found: list[HullPoint | Failure] = [
            Failure(r.key, Reason.NO_REFERENCE, lacking.get(r.crystal.elements, "")) for r in batch
        ]
        formations: dict[int, FormationEnergy] = {}
        for i, relaxed in enumerate(batch):
            if relaxed.crystal.elements in lacking:
                continue
            formation = self._formation(relaxed)
            if isinstance(formation, Failure):
                found[i] = replace(formation, key=relaxed.key)
            else:
                formations[i] = formation
        try:
            states = Hull(known).ground_states(
                [batch[i].crystal.reduced_composition for i in formations]
            )
        except ArithmeticError as error:
            if len(batch) > 1:  # one of them; the others must not suffer
                return [self.judge(relaxed) for relaxed in batch]
            log.warning("hull of %s failed", batch[0].crystal.chemsys, exc_info=True)
            return [Failure(batch[0].key, Reason.CHECK_FAILED, str(error))]
        info = self.reference.info
        for j, (i, formation) in enumerate(formations.items()):
            distance = formation.value - float(states.energies[j])
            found[i] = HullPoint(
                key=batch[i].key,
                energy_above_hull=max(0.0, distance),
                decomposition_energy=distance,
                formation_energy_per_atom=formation.value,
                decomposition=states.decomposition(j),
                level=batch[i].model,
                corrections=formation.corrections,
                reference=f"{info.name} {info.digest[:12]}",
                coverage=self._coverage(batch[i].crystal.elements, info),
                uncertain=formation.uncertain,
            )
        return found

    def ceilings(self, batch: Sequence[Crystal], *, model: str, above: float) -> list[float | None]:
        """Energies of the cells (eV, as the potential gives them) `above` the hull, in eV/atom.

        A crystal's distance to the hull is linear in its energy, so that of an energy of zero says it.
        The corrections are those of the crystal as it is, before its relaxation. None: it cannot be
        judged.

        Raises:
            InputError: as `judge_many`.
        """
        nought = [Relaxed(c.digest, c, 0.0, 0.0, 0.0, 0, converged=False, model=model) for c in batch]
        return [
            None if isinstance(point, Failure) else (above - point.decomposition_energy) * len(crystal)
            for crystal, point in zip(batch, self.judge_many(nought), strict=True)
        ]

    def _require(self, model: str) -> None:
        """Refuse a potential that cannot be compared with the reference."""
        scheme_of(model)
        if not isinstance(self.reference, SelfConsistentReference):
            require_comparable(model, self.reference.info.hull)
        elif self.reference.model != model:
            raise InputError(
                f"model: got {model}, but the energies of '{self.reference.info.name}' are "
                f"{self.reference.model}'s",
                hint="judge with the potential that computed the reference",
            )

    def _phases(self, systems: set[tuple[str, ...]]) -> tuple[list[Phase], dict[tuple[str, ...], str]]:
        """The phases of some chemical systems, and why those of others are not there."""
        lacking: dict[tuple[str, ...], str] = {}
        known: dict[int, Phase] = {}  # by identity: subsystems share their phases
        if isinstance(self.reference, SelfConsistentReference):
            lacking = self.reference.compute(systems)
        for system in sorted(systems - lacking.keys()):
            try:
                known.update((id(phase), phase) for phase in self.reference.entries(system))
            except ReferenceUnavailableError as error:
                lacking[system] = error.message
        return list(known.values()), lacking

    def _formation(self, relaxed: Relaxed) -> FormationEnergy | Failure:
        references = None
        if isinstance(self.reference, SelfConsistentReference):
            references = self.reference.elemental(relaxed.crystal.elements)
        return formation_energy(relaxed.model, relaxed.crystal, relaxed.energy, references)

    def _coverage(self, elements: tuple[str, ...], info: ReferenceInfo) -> str:
        if isinstance(self.reference, SelfConsistentReference):
            return self.reference.coverage_of(elements)
        return info.coverage
