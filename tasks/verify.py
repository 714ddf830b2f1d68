"""Last stage: the calculations of the selected crystals and of the phases they compete with, and what
they say.

VASP's energies with the Materials Project's settings go on its hull: PBE with the MP2020 corrections,
r2SCAN as they are, where that hull is the reference (`thermo_type: R2SCAN`). All others are judged on a
hull of their own level of theory: the elements and the phases that the decomposition names are computed
at the same level, once for all crystals that need them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS
from ..core.journal import Kind
from ..core.ledger import Work
from ..core.levels import Level
from ..core.protocols import DftCalculator, Reference
from ..core.records import DftResult, DftTicket, Failure, HullPoint, Outcome, Reason, Stage, Status
from ..validators.change import Change
from ..validators.hull import ELEMENT_ID
from ..validators.level_hull import LevelHull
from ..validators.reference_hull import KnowsElements, on_reference
from ..validators.self_consistent import SelfConsistentReference
from .context import Context, failed
from .spending import DFT_JOBS, spent_up

CONFIRMED, METASTABLE, REFUTED = "confirmed", "metastable", "refuted"

Ended = Mapping[str, DftResult | Failure]
"""What calculations came to, by the digest of their inputs."""


@dataclass(frozen=True)
class Competitor:
    """A phase that a crystal competes with.

    Args:
        material_id: of the known phase. formula: its reduced formula. origin: where its structure comes
            from. ticket: its calculation, or why there is none. n_atoms: of that structure.
    """

    material_id: str
    formula: str
    origin: str
    ticket: DftTicket | Failure
    n_atoms: int = 0


@dataclass(frozen=True)
class Plan:
    """What must be computed to judge one crystal."""

    work: Work
    crystal: Crystal
    hull: Mapping[str, Any]
    ticket: DftTicket | Failure
    competitors: tuple[Competitor, ...]

    @property
    def tickets(self) -> Iterator[DftTicket]:
        """All calculations, the cheapest to judge by first: what it competes with, then itself."""
        for ticket in (*(c.ticket for c in self.competitors), self.ticket):
            if isinstance(ticket, DftTicket):
                yield ticket

    @property
    def sizes(self) -> Iterator[tuple[DftTicket, int]]:
        """Each calculation and the atoms in its cell."""
        for ticket, n in (
            *((c.ticket, c.n_atoms) for c in self.competitors),
            (self.ticket, len(self.crystal)),
        ):
            if isinstance(ticket, DftTicket):
                yield ticket, n

    def hopeless(self, ended: Ended) -> Failure | None:
        """Why it cannot be judged whatever else is computed."""
        own = self._came_to(self.ticket, ended)
        if isinstance(own, Failure):
            return own
        for competitor in self.competitors:
            found = self._came_to(competitor.ticket, ended)
            if isinstance(found, Failure):
                detail = f"{competitor.formula} ({competitor.material_id}): {found.detail}"
                return Failure(self.work.candidate.key, Reason.NO_COMPETITORS, detail)
        return None

    def ready(self, ended: Ended) -> bool:
        """Whether it can be judged, or given up."""
        whole = all(ticket.input_digest in ended for ticket in self.tickets)
        return whole or self.hopeless(ended) is not None

    @staticmethod
    def _came_to(ticket: DftTicket | Failure, ended: Ended) -> DftResult | Failure | None:
        return ticket if isinstance(ticket, Failure) else ended.get(ticket.input_digest)


def competing(hull: Mapping[str, Any], crystal: Crystal) -> list[tuple[str, str]]:
    """(formula, material id) of the phases on a crystal's hull: the elements, then its products."""
    elements = [(symbol, ELEMENT_ID) for symbol in crystal.elements]
    products = [(f, m) for f, m, _ in hull["decomposition"] if f not in ATOMIC_NUMBERS]
    return elements + products


@task(
    name="compute",
    task_run_name="compute {ticket.path}",
    tags=["dft"],
    persist_result=False,
    cache_policy=NO_CACHE,
)
def compute(context: Context, ticket: DftTicket) -> DftResult | Failure | None:
    """Bring one calculation to its end; None where the campaign is to stop, or the budget is spent."""
    engine = calculator(context)
    if not context.campaign.runs_dft:
        return engine.run(ticket, context.stop)
    if (known := engine.ended(ticket)) is not None:
        return known
    if not _paid(context, ticket):
        return None
    with context.meter.using(engine):
        return engine.run(ticket, context.stop)


def paid_as(ticket: DftTicket) -> str:
    """Its key in the journal: a calculation counts once, however often it is continued or mended."""
    return f"dft {ticket.input_digest}"


def _paid(context: Context, ticket: DftTicket) -> bool:
    """Whether the budget allows it to run; what was begun may always go on."""
    key, limit = paid_as(ticket), context.campaign.budget.dft_jobs
    if context.journal.has(Kind.SPENT, key):
        return True
    if spent_up(context.campaign, context.journal, dft=False):
        return False
    return context.journal.take(key, DFT_JOBS, limit)


def calculator(context: Context) -> DftCalculator:
    """The campaign's engine, which must be one that runs its calculations."""
    if not isinstance(context.dft, DftCalculator):
        raise TypeError("this campaign has no DFT engine that runs its calculations")
    return context.dft


def record_verdict(context: Context, plan: Plan, ended: Ended) -> Outcome:
    """Judge a crystal whose calculations have ended, and record it.

    Calculations that ran elsewhere are looked at again and again: what failed as before is not news.
    """
    threshold = context.campaign.select.max_energy_above_hull
    outcome = verdict(plan, ended, dft_reference(context), threshold)
    ledger, slots = context.ledger, [outcome.slot]
    before = ledger.failed_since(Stage.VERIFY, slots) or ledger.outcomes(Stage.VERIFY, slots)
    if before and not context.campaign.runs_dft and _says_the_same(before[-1], outcome):
        return before[-1]
    ledger.record([outcome], context.provenance("verify", engine=calculator(context).name))
    return outcome


def _says_the_same(before: Outcome, outcome: Outcome) -> bool:
    return (before.status, before.reason, before.data) == (outcome.status, outcome.reason, outcome.data)


def verdict(plan: Plan, ended: Ended, reference: Reference, threshold: float) -> Outcome:
    """Confirmed: on or below the hull. Metastable: within `threshold` (eV/atom). Refuted: above."""
    slot, attempt = plan.work.slot, plan.work.attempt
    if (failure := plan.hopeless(ended)) is not None:
        return _without(plan, failure)
    assert isinstance(plan.ticket, DftTicket)
    own = ended[plan.ticket.input_digest]
    assert isinstance(own, DftResult)
    if on_reference_hull(own.level, reference):
        point = _on_the_reference(own, reference)
    else:
        point = _on_its_own_hull(plan, own, ended)
    if isinstance(point, Failure):
        return _without(plan, point)
    word = word_for(point.energy_above_hull, threshold)
    data = {
        "verdict": word,
        "level": own.level.as_dict(),
        "result": _plain(own),
        "hull": {k: v for k, v in asdict(point).items() if k != "key"},
        "compared": compared(plan, own, point),
        "phases": [_phase(c, ended) for c in plan.competitors],
    }
    if word == REFUTED:
        return Outcome(slot, Stage.VERIFY, Status.REJECTED, Reason.UNSTABLE, attempt, data, own.crystal)
    return Outcome(slot, Stage.VERIFY, Status.PASSED, None, attempt, data, own.crystal)


def _without(plan: Plan, failure: Failure) -> Outcome:
    """The outcome of a crystal that could not be judged; its engine tells whether to try again."""
    outcome = failed(plan.work.slot, Stage.VERIFY, failure, plan.work.attempt)
    engine = plan.ticket.engine if isinstance(plan.ticket, DftTicket) else ""
    return replace(outcome, data={**outcome.data, "engine": engine})


def word_for(energy_above_hull: float, threshold: float) -> str:
    """The verdict's word."""
    if energy_above_hull <= 0:
        return CONFIRMED
    return METASTABLE if energy_above_hull <= threshold else REFUTED


def on_reference_hull(level: Level, reference: Reference) -> bool:
    """Whether energies of that level may stand beside the reference's, once they are corrected."""
    return level.hull != "own" and level.hull == reference.info.hull


def dft_reference(context: Context) -> Reference:
    """The campaign's; the Materials Project with its own energies where a potential's replace them.

    Not so a file, which need not have energies.
    """
    reference = context.reference
    if isinstance(reference, SelfConsistentReference) and isinstance(reference.base, KnowsElements):
        return reference.base
    return reference


def _on_the_reference(own: DftResult, reference: Reference) -> HullPoint | Failure:
    from ..engines.vasp_entries import computed_entry, corrected

    raw = computed_entry(own)
    if own.level.hull == "R2SCAN":  # its entries carry no corrections
        return on_reference(reference, own, raw.energy, uncertain=False)
    entry = corrected(raw)
    if isinstance(entry, Failure):
        return entry
    uncertain = bool(entry.data["correction_uncertain"])
    return on_reference(reference, own, entry.energy, uncertain=uncertain)


def _on_its_own_hull(plan: Plan, own: DftResult, ended: Ended) -> HullPoint | Failure:
    phases = [
        (c.material_id if c.material_id != ELEMENT_ID else c.formula, ended[c.ticket.input_digest])
        for c in plan.competitors
        if isinstance(c.ticket, DftTicket)
    ]
    results = [(name, r) for name, r in phases if isinstance(r, DftResult)]
    return LevelHull(own.level, results).judge(own)


def compared(plan: Plan, own: DftResult, point: HullPoint) -> dict[str, Any]:
    """The potential against DFT: energies in eV/atom, RMSD in angstrom."""
    mlip = plan.hull
    return {
        "model": mlip["level"],
        "energy_above_hull": mlip["energy_above_hull"],
        "formation_energy_per_atom": mlip["formation_energy_per_atom"],
        "energy_above_hull_difference": mlip["decomposition_energy"] - point.decomposition_energy,
        "volume_per_atom": plan.crystal.volume / len(plan.crystal),
        "volume_ratio": own.crystal.volume / plan.crystal.volume,
        "rmsd": Change().rmsd(plan.crystal, own.crystal),
    }


def _plain(result: DftResult) -> dict[str, Any]:
    record = asdict(result)
    for name in ("crystal", "level", "key", "forces", "stress"):
        del record[name]
    return record | {
        "energy_per_atom": result.energy_per_atom,
        "volume_per_atom": result.crystal.volume / len(result.crystal),
        "mended": list(result.mended),
    }


def _phase(competitor: Competitor, ended: Ended) -> dict[str, Any]:
    assert isinstance(competitor.ticket, DftTicket)
    result = ended[competitor.ticket.input_digest]
    assert isinstance(result, DftResult)
    return {
        "material_id": competitor.material_id,
        "formula": competitor.formula,
        "origin": competitor.origin,
        "energy_per_atom": result.energy_per_atom,
        "path": result.path,
        "input_digest": result.input_digest,
    }


def distinct(plans: Sequence[Plan]) -> list[DftTicket]:
    """The calculations of all plans, each once; those that most plans wait for first."""
    tickets = [ticket for plan in plans for ticket in plan.tickets]
    waits = Counter(ticket.input_digest for ticket in tickets)
    first = {ticket.input_digest: ticket for ticket in reversed(tickets)}
    return [first[digest] for digest, _ in waits.most_common()]
