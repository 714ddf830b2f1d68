"""What may be computed by DFT: what a person has approved, and what the budget still holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from prefect import suspend_flow_run
from prefect.context import FlowRunContext
from prefect.input import RunInput
from pydantic import Field, create_model

from ..core.journal import Kind
from ..core.records import DftResult, DftTicket, Failure, Stage
from ..tasks.approval import Asked, Decision, Proposal, ask, decide, decision, digest_of
from ..tasks.context import Context
from ..tasks.meter import HOUR
from ..tasks.notices import APPROVAL_WANTED, emit
from ..tasks.shortlist import Shortlisted
from ..tasks.spending import DFT_JOBS, resources, spent_up
from ..tasks.verify import Plan, calculator, distinct, paid_as

Held = dict[int, str]
"""Why crystals are not computed now, by slot."""


def allowed(
    context: Context, best: Sequence[Shortlisted], plans: Sequence[Plan]
) -> tuple[list[Plan], Held]:
    """The plans that may be carried out, best first, and why the others may not.

    In a run of a Prefect deployment the flow run is suspended until somebody has answered.

    Args:
        best: the whole shortlist. plans: of those of its crystals that have no verdict.
    """
    rank = {item.record.slot: i for i, item in enumerate(best)}
    ordered = sorted(plans, key=lambda plan: rank[plan.work.slot])
    if not context.campaign.runs_dft or not ordered:
        return ordered, {}
    held = _unapproved(context, best, ordered)
    ordered = [plan for plan in ordered if plan.work.slot not in held]
    beyond = _beyond_budget(context, ordered)
    return [plan for plan in ordered if plan.work.slot not in beyond], held | beyond


def held_back(held: Held) -> str:
    """What is left for later, and why: one sentence per reason."""
    reasons = list(dict.fromkeys(held.values()))
    counted = [(sum(why == reason for why in held.values()), reason) for reason in reasons]
    return "; ".join(f"{n} crystal{'s' if n > 1 else ''} {reason}" for n, reason in counted)


# --- the budget ----------------------------------------------------------------------------------


def _beyond_budget(context: Context, plans: Sequence[Plan]) -> Held:
    """The crystals whose calculations do not all fit into what is left, in the order of the list."""
    if reason := spent_up(context.campaign, context.journal, dft=False):
        return {plan.work.slot: f"without DFT: {reason}" for plan in plans}
    [jobs] = [r for r in resources(context.campaign, context.journal) if r.name == DFT_JOBS]
    if jobs.left is None:
        return {}
    left, held, granted = int(jobs.left), Held(), set[str]()
    for plan in plans:
        new = {t.input_digest for t in _to_start(context, plan.tickets)} - granted
        if len(new) > left:
            held[plan.work.slot] = f"left for later: {left} of {jobs.limit:g} DFT calculations are left"
            continue
        granted |= new
        left -= len(new)
    return held


def _to_start(context: Context, tickets: Iterator[DftTicket] | Sequence[DftTicket]) -> list[DftTicket]:
    """The calculations that have neither ended nor been paid for."""
    return [
        ticket
        for ticket in tickets
        if calculator(context).ended(ticket) is None
        and not context.journal.has(Kind.SPENT, paid_as(ticket))
    ]


# --- the approval --------------------------------------------------------------------------------


class Approval(RunInput):
    """The form. `leave_out` gets the crystals of the shortlist to choose from."""

    answer: Literal["yes", "no"] = Field(description="Whether DFT may compute the shortlist.")
    leave_out: list[str] = Field(default=[], description="Crystals that are not to be computed.")
    comment: str = Field(default="", description="Kept with the answer.")
    who: str = Field(default="", description="Your name, kept with the answer.")


def _unapproved(context: Context, best: Sequence[Shortlisted], plans: Sequence[Plan]) -> Held:
    """The crystals that must not be computed: nobody has said yes, or somebody no."""
    if not getattr(context.campaign.dft, "approval", False):
        return {}
    digest = digest_of(best, calculator(context).name)
    answer = decision(context.journal, digest)
    if answer is None:
        answer = _ask(context, _propose(context, digest, plans))
    slots = [plan.work.slot for plan in plans]
    if answer is None:
        return dict.fromkeys(slots, f"waiting for approval: heliodor approve {context.folder}")
    who = f" by {answer.who}" if answer.who else ""
    if not answer.yes:
        return dict.fromkeys(slots, f"declined{who}")
    return {slot: f"left out{who}" for slot in slots if slot in answer.leave_out}


def _ask(context: Context, proposal: Proposal) -> Decision | None:
    """Tell people; in a deployment's run wait for the form. None: a later run finds the answer."""
    run = _deployed_run()
    if ask(context.journal, proposal, run):
        emit(
            context,
            APPROVAL_WANTED,
            f"{proposal.campaign}: {proposal.cost()}",
            {"shortlist": proposal.digest},
        )
    if run is None:
        return None
    given = suspend_flow_run(wait_for_input=form(proposal), key=proposal.digest)
    left_out = tuple(c.slot for c in proposal.crystals if c.label in given.leave_out)
    answer = Decision(given.answer == "yes", left_out, given.who or "Prefect UI", given.comment)
    decide(context.journal, proposal.digest, answer)
    return answer


def form(proposal: Proposal) -> type[Approval]:
    """The form for a shortlist, with the table and its cost above."""
    label: Any = Literal[tuple(c.label for c in proposal.crystals)]
    choose: Any = Field(default=[], description=Approval.model_fields["leave_out"].description)
    made = create_model("Approval", __base__=Approval, leave_out=(list[label], choose))
    return made.with_initial_data(description=proposal.markdown())


def _deployed_run() -> str | None:
    """The id of this flow run, where a worker starts it again when it is resumed."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return str(run.id) if run is not None and run.deployment_id is not None else None


def _propose(context: Context, digest: str, plans: Sequence[Plan]) -> Proposal:
    engine, prices = calculator(context), context.campaign.budget.prices
    new = _to_start(context, distinct(plans))
    wanted = {ticket.input_digest for ticket in new}
    crystals = []
    for plan in plans:
        own = {ticket.input_digest for ticket in plan.tickets} & wanted
        wanted -= own
        above = float(plan.hull["energy_above_hull"])
        slot, crystal = plan.work.slot, plan.crystal
        crystals.append(Asked(slot, crystal.formula, len(crystal), above, len(own)))
    hours, basis = _estimate(context, plans, {ticket.input_digest for ticket in new})
    priced = hours is not None and prices.node_hour > 0
    return Proposal(
        campaign=context.campaign.name,
        digest=digest,
        engine=engine.name,
        crystals=tuple(crystals),
        calculations=len(new),
        ended=len(distinct(plans)) - len(new),
        node_hours=hours,
        money=hours * prices.node_hour if hours is not None and priced else None,
        basis=basis,
    )


def _estimate(context: Context, plans: Sequence[Plan], new: set[str]) -> tuple[float | None, str]:
    """Node hours of the new calculations, by the cube of their atoms, and what that is taken from.

    Plane-wave DFT grows with the cube of a cell at fixed k-points; k-points, symmetry and metals make
    single calculations differ by several times.
    """
    seconds = list(_earlier(context, plans))
    if not seconds:
        return None, "no calculation of this engine has ended here"
    rate = sum(s for _, s in seconds) / sum(n**3 for n, _ in seconds)
    sizes = {t.input_digest: n for plan in plans for t, n in plan.sizes if t.input_digest in new}
    # Here so many run side by side on one node; a job has a node of its own.
    share = 1 if getattr(context.dft, "remote", False) else context.workers
    hours = rate * sum(n**3 for n in sizes.values()) / share / HOUR
    small, large = min(n for n, _ in seconds), max(n for n, _ in seconds)
    return hours, f"from {len(seconds)} earlier calculations of {small} to {large} atoms, times atoms^3"


def _earlier(context: Context, plans: Sequence[Plan]) -> Iterator[tuple[int, float]]:
    """(atoms, seconds) of calculations of the campaign that have ended."""
    engine = calculator(context)
    codes = {engine.level(plan.crystal.elements).code for plan in plans}
    seen: set[str] = set()
    found: list[DftResult | Failure | None] = [engine.ended(ticket) for ticket in distinct(plans)]
    for result in found:
        if isinstance(result, DftResult) and result.seconds > 0:
            seen.add(result.input_digest)
            yield len(result.crystal), result.seconds
    for outcome in context.ledger.outcomes(Stage.VERIFY):
        result_data = outcome.data.get("result", {})
        if outcome.crystal is None or outcome.data.get("level", {}).get("code") not in codes:
            continue
        if result_data["input_digest"] in seen:
            continue
        if result_data["seconds"] > 0:
            yield len(outcome.crystal), float(result_data["seconds"])
