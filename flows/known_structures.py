"""Structures of known phases, for calculations at a level of their own.

Where the reference has structures, they are taken. The table that ships with Heliodor has none, only
fingerprints: there, crystals are proposed in the phase's composition and relaxed with the campaign's
potential, and one that the reference recognises as the phase is that phase. If none is, the lowest
of them stands in for the phase where it is as low in energy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.errors import HeliodorError
from ..core.protocols import Generator
from ..core.records import Candidate, Conditions, HullPoint, Relaxed, Stage
from ..tasks.context import Context
from ..validators.hull import ELEMENT_ID

log = logging.getLogger("heliodor.flows")

Composition = tuple[tuple[int, int], ...]

_TRIED = 60  # crystals relaxed for a phase, from each source
_MAX_ATOMS = 20
AS_LOW = 0.03
"""eV/atom: a stand-in may lie so far above the phase, by the potential: about the potentials' error."""
AS_LOW_ELEMENT = 0.15
"""The same for an element, whose reference energy is DFT's: CHGNet has fcc Al 81 meV/atom above it."""


@dataclass(frozen=True)
class KnownStructure:
    """A structure of a known phase.

    Args:
        material_id: of the phase; "element" for an elemental reference state.
        crystal: its structure.
        origin: where it comes from, for the report: "reference", "prototype, recognised by ...", ...
    """

    material_id: str
    crystal: Crystal
    origin: str


class KnownStructures:
    """Finds structures of known phases.

    Args:
        context: of the campaign: its reference, potential and judge.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: dict[tuple[str, Composition], KnownStructure | None] = {}

    def find(self, material_id: str, composition: Composition) -> KnownStructure | None:
        """The structure of a phase; None where there is none to be had.

        Args:
            composition: reduced, ((atomic number, count), ...) by rising atomic number.
        """
        wanted = (material_id, composition)
        if wanted not in self._found:
            self._found[wanted] = self._listed(*wanted) or self._searched(*wanted)
        return self._found[wanted]

    def _listed(self, material_id: str, composition: Composition) -> KnownStructure | None:
        """From the reference. Of an element any entry that is its lowest will do."""
        phases = [p for p in self._context.reference.like(composition) if p.crystal is not None]
        if material_id == ELEMENT_ID:
            phases = [p for p in phases if (p.formation_energy_per_atom or 0.0) <= AS_LOW]
        else:
            phases = [p for p in phases if p.material_id == material_id]
        if not phases:
            return None
        lowest = min(phases, key=lambda p: (p.formation_energy_per_atom or 0.0, p.material_id))
        if lowest.crystal is None:
            return None
        name = self._context.reference.info.name
        return KnownStructure(lowest.material_id, lowest.crystal, name)

    def _searched(self, material_id: str, composition: Composition) -> KnownStructure | None:
        """Proposals in its composition, relaxed: the phase itself, or one as low in energy.

        First what the campaign made itself, then prototypes, then the diffusion model, which has learned
        from known crystals.
        """
        seen: list[tuple[Relaxed, HullPoint]] = []
        for propose in (self._own, self._prototypes, self._generated):
            seen += self._judged(propose(composition))
            seen.sort(key=lambda pair: (pair[1].formation_energy_per_atom, pair[0].key))
            found = self._recognised(material_id, seen) or self._as_low(material_id, composition, seen)
            if found is not None:
                return found
        if seen:
            log.warning(
                "%s (%s): the lowest of %d proposals lies %.0f meV/atom above it", material_id,
                seen[0][0].crystal.formula, len(seen),
                1000 * self._height(material_id, composition, seen),
            )  # fmt: skip
        return None

    def _recognised(
        self, material_id: str, seen: list[tuple[Relaxed, HullPoint]]
    ) -> KnownStructure | None:
        """The lowest that the reference knows as the phase."""
        verdicts = self._context.reference.match([relaxed.crystal for relaxed, _ in seen])
        for (relaxed, _), verdict in zip(seen, verdicts, strict=True):
            if verdict.match == material_id:
                origin = f"recognised by {self._context.reference.info.name}"
                return KnownStructure(material_id, relaxed.crystal, origin)
        return None

    def _as_low(
        self, material_id: str, composition: Composition, seen: list[tuple[Relaxed, HullPoint]]
    ) -> KnownStructure | None:
        """The lowest of all, where it lies as low as the phase."""
        allowed = AS_LOW_ELEMENT if material_id == ELEMENT_ID else AS_LOW
        if not seen or (height := self._height(material_id, composition, seen)) > allowed:
            return None
        origin = f"lowest of {len(seen)} proposals, {1000 * height:+.0f} meV/atom by the potential"
        return KnownStructure(material_id, seen[0][0].crystal, origin)

    def _height(
        self, material_id: str, composition: Composition, seen: list[tuple[Relaxed, HullPoint]]
    ) -> float:
        """eV/atom of the lowest above the phase."""
        target = self._formation_energy(material_id, composition)
        return seen[0][1].formation_energy_per_atom - target

    def _formation_energy(self, material_id: str, composition: Composition) -> float:
        """eV/atom, as the reference has it; 0 for an element."""
        phases = {p.material_id: p for p in self._context.reference.like(composition)}
        phase = phases.get(material_id)
        return (phase.formation_energy_per_atom or 0.0) if phase else 0.0

    def _own(self, composition: Composition) -> list[Crystal]:
        """Crystals of the campaign in that composition that are known: those it did not relax, too."""
        ledger = self._context.ledger
        judged = [o for stage in (Stage.SCREEN, Stage.ASSESS) for o in ledger.outcomes(stage)]
        known = [o.slot for o in judged if o.data.get("novelty", {}).get("passed") is False]
        crystals = (candidate.crystal for candidate in ledger.candidates(known).values())
        return [c for c in crystals if c.reduced_composition == composition][:_TRIED]

    def _prototypes(self, composition: Composition) -> list[Crystal]:
        from ..generators.substitution import SubstitutionGenerator

        return _proposed(SubstitutionGenerator(charge_balanced=False), composition)

    @staticmethod
    def _generated(composition: Composition) -> list[Crystal]:
        try:
            from ..generators.diffusion.generator import DiffusionGenerator

            return _proposed(DiffusionGenerator(), composition)
        except ImportError:  # the extra is not installed
            return []

    def _judged(self, crystals: list[Crystal]) -> list[tuple[Relaxed, HullPoint]]:
        """Relaxed with the campaign's potential; what fails is left out."""
        context = self._context
        if context.relaxer is None or context.judge is None or not crystals:
            return []
        distinct = list({crystal.digest: crystal for crystal in crystals}.values())
        ended = [r for r in context.relaxer.relax(distinct) if isinstance(r, Relaxed) and r.converged]
        judged = zip(ended, context.judge(ended), strict=True)
        return [(relaxed, point) for relaxed, point in judged if isinstance(point, HullPoint)]


def _proposed(generator: Generator, composition: Composition) -> list[Crystal]:
    """What a generator makes of a composition; nothing where it cannot serve it."""
    symbols = tuple((SYMBOLS[z], n) for z, n in composition)
    elements = tuple(symbol for symbol, _ in symbols)
    conditions = Conditions(elements=elements, composition=symbols, max_atoms=_MAX_ATOMS)
    try:
        stream = generator.generate(_TRIED, seed=0, conditions=conditions)
        return [item.crystal for item in stream if isinstance(item, Candidate)]
    except HeliodorError as error:  # no prototype of that stoichiometry, an unknown element
        log.info("%s: %s", symbols, error)
        return []
