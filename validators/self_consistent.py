"""A reference whose phases' energies are computed with the potential that judges, instead of DFT.

What a potential gets wrong for a crystal and for its competitors alike then cancels, and potentials of
other functionals can be used at all. The price: the hull is the potential's, with its faults, and
depends on which phases the reference knows.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS, chemsys, parse_elements
from ..core.errors import ReferenceUnavailableError
from ..core.protocols import Phase, ReferenceInfo
from ..core.records import Failure, Reason, Relaxed
from .energies import elemental_energies, formation_energy, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..core.crystal import Crystal
    from ..core.protocols import Reference, Relaxer
    from ..core.records import Verdict
    from .phase_energies import PhaseEnergies
    from .phases import Composition

log = logging.getLogger("heliodor.validators")

_NO_STRUCTURE = Failure("", Reason.NO_REFERENCE, "the reference has no structure of it")


class SelfConsistentReference:
    """Known phases at the minima of a potential, with its energies.

    The phases of a chemical system are relaxed when the system is first asked for, and kept for ever
    (`PhaseEnergies`). What cannot be relaxed is left out and counted; what has not converged is kept, as
    an upper bound, and counted.

    An element's reference energy is that of its lowest phase here. Where none could be computed, it is
    the Materials Project's if the potential is on that scheme; else nothing with the element has an
    energy. Energies above the hull do not depend on that choice, as long as it is one for all phases.

    Novelty is judged against the known phases as the reference has them, not as the potential does.

    Args:
        base: known phases with structures (`like` gives crystals).
        relaxer: the potential. energies: where its results are kept; of the same potential.

    Raises:
        InputError: the potential's scheme is not known.
    """

    def __init__(self, base: Reference, relaxer: Relaxer, energies: PhaseEnergies) -> None:
        self.comparable = scheme_of(relaxer.model).comparable
        self.model = relaxer.model
        self._base, self._relaxer, self._energies = base, relaxer, energies
        self._lock = threading.RLock()
        self._like: dict[Composition, tuple[Phase, ...]] = {}  # as the base has them
        self._systems: dict[frozenset[str], tuple[Composition, ...]] = {}
        self._results: dict[str, Relaxed | Failure] = {}  # by the known crystal's key
        self._own: dict[Composition, tuple[Phase, ...]] = {}

    @property
    def base(self) -> Reference:
        """The known phases with the energies of their source."""
        return self._base

    @property
    def info(self) -> ReferenceInfo:
        """The base's, with whose energies these are; the counts are of what was asked for so far."""
        about = self._base.info
        identity = f"{about.digest} {self.model} {self._energies.settings}"
        with self._lock:
            count = _count([p for phases in self._like.values() for p in phases], self._results)
        return replace(
            about,
            name=f"{about.name}, energies of {self.model}",
            digest=hashlib.sha256(identity.encode()).hexdigest(),
            coverage=f"{about.coverage}; all energies are {self.model}'s own, at its minima: {count}",
            hull="own",
        )

    def compute(self, systems: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
        """Relax the phases of chemical systems and their subsystems, all at once, where not yet done.

        Returns:
            The systems that the base cannot answer for, and why.

        Raises:
            HeliodorError: the relaxer cannot work or was closed, the disk refuses. What was computed is
                kept.
        """
        lacking: dict[tuple[str, ...], str] = {}
        members: dict[frozenset[str], tuple[Composition, ...]] = {}
        with self._lock:
            for system in systems:
                if frozenset(system) not in self._systems:
                    try:
                        members[frozenset(system)] = self._members(system)
                    except ReferenceUnavailableError as error:
                        lacking[system] = error.message
            known = {c: self._base.like(c) for m in members.values() for c in m if c not in self._like}
            crystals = {
                p.crystal.digest: p.crystal
                for phases in known.values()
                for p in phases
                if p.crystal is not None
            }
            self._relax({k: c for k, c in crystals.items() if k not in self._results})
            self._like.update({c: tuple(phases) for c, phases in known.items()})
            self._systems.update(members)
        return lacking

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases whose elements are a subset of `elements`, at the potential's minima.

        Of compositions for which the base knows no energy at all there are none.

        Raises:
            HeliodorError: see `compute`; or the base cannot answer for an element.
        """
        found = (p for composition in self._compositions(elements) for p in self._phases(composition))
        return tuple(p for p in found if p.formation_energy_per_atom is not None)

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition; without an energy where none could be computed.

        Raises:
            HeliodorError: see `compute`.
        """
        self._compositions(SYMBOLS[z] for z, _ in composition)
        if composition not in self._like:  # the base knows no energy of it
            return tuple(
                replace(p, formation_energy_per_atom=None) for p in self._base.like(composition)
            )
        return self._phases(composition)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty, by the base."""
        return self._base.match(batch)

    def elemental(self, elements: Iterable[str]) -> dict[int, float]:
        """Reference energies of elements, eV/atom, by atomic number; none where there is none.

        Raises:
            HeliodorError: see `compute`.
        """
        wanted = parse_elements(elements)
        self._compositions(wanted)
        found: dict[int, float] = {}
        for z in (ATOMIC_NUMBERS[s] for s in wanted):
            own = self._own_element(z)
            if own is not None:
                found[z] = own
            elif self.comparable and z in elemental_energies():
                found[z] = elemental_energies()[z]
        return found

    def coverage_of(self, elements: Iterable[str]) -> str:
        """How the phases of a chemical system were computed, in one line."""
        wanted = parse_elements(elements)
        phases = [p for c in self._compositions(wanted) for p in self._like[c]]
        text = f"phases of {chemsys(wanted)} by {self.model}: {_count(phases, self._results)}"
        foreign = [s for s in wanted if self._own_element(ATOMIC_NUMBERS[s]) is None]
        if foreign and self.comparable:
            text += f"; the Materials Project's elemental energy of {', '.join(foreign)}"
        return text

    def _compositions(self, elements: Iterable[str]) -> tuple[Composition, ...]:
        """Compositions of the phases of a system, which are then computed."""
        system = parse_elements(elements)
        for reason in self.compute([system]).values():
            raise ReferenceUnavailableError(reason)
        return self._systems[frozenset(system)]

    def _members(self, system: tuple[str, ...]) -> tuple[Composition, ...]:
        """Compositions of the known phases of a system; the elements always."""
        found = {p.composition for p in self._base.entries(system)}
        found |= {((ATOMIC_NUMBERS[s], 1),) for s in system}
        return tuple(sorted(found))

    def _relax(self, crystals: dict[str, Crystal]) -> None:
        self._results.update(self._energies.get(list(crystals)))
        left = [c for key, c in crystals.items() if key not in self._results]
        if left:
            log.info("relaxing %d known phases with %s", len(left), self.model)
        for result in self._relaxer.relax(left):
            self._energies.put(result)
            self._results[result.key] = result

    def _own_element(self, z: int) -> float | None:
        """Energy of the lowest phase of an element, eV/atom; None where none could be computed."""
        results = (self._result(p) for p in self._like[((z, 1),)])
        energies = [r.energy / len(r.crystal) for r in results if isinstance(r, Relaxed)]
        return min(energies, default=None)

    def _result(self, phase: Phase) -> Relaxed | Failure:
        return _NO_STRUCTURE if phase.crystal is None else self._results[phase.crystal.digest]

    def _phases(self, composition: Composition) -> tuple[Phase, ...]:
        """The phases of a computed composition, as the potential has them."""
        if composition not in self._own:
            references = self.elemental(SYMBOLS[z] for z, _ in composition)
            self._own[composition] = tuple(
                self._as_computed(p, references) for p in self._like[composition]
            )
        return self._own[composition]

    def _as_computed(self, phase: Phase, references: dict[int, float]) -> Phase:
        result = self._result(phase)
        if isinstance(result, Failure):
            return replace(phase, formation_energy_per_atom=None)
        found = formation_energy(self.model, result.crystal, result.energy, references)
        value = None if isinstance(found, Failure) else found.value
        return replace(phase, formation_energy_per_atom=value, crystal=result.crystal)


def _count(phases: Sequence[Phase], results: dict[str, Relaxed | Failure]) -> str:
    """How many were computed, in words."""
    found = [results.get(p.crystal.digest) for p in phases if p.crystal is not None]
    relaxed = [r for r in found if isinstance(r, Relaxed)]
    text = f"{len(relaxed):,} of {len(phases):,} computed"
    if len(relaxed) < len(phases):
        text += f", {len(phases) - len(relaxed):,} left out"
    if loose := sum(not r.converged for r in relaxed):
        text += f", {loose:,} not converged (upper bounds)"
    return text
