"""The discovery campaign as a Prefect flow: rounds of candidates until a budget is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from ..core.campaign import Budget, Campaign, load_campaign
from ..core.errors import InputError
from ..core.ledger import Work
from ..core.records import Stage
from ..core.settings import load_settings
from ..tasks.artifacts import Progress, publish, publish_report
from ..tasks.context import Context
from ..tasks.dft import is_sun, prepare_dft
from ..tasks.outputs import write_outputs
from ..tasks.shortlist import shortlist
from ..tasks.table import records
from .assemble import assemble
from .pinned import refuse_changed_version
from .pipeline import run_slots
from .stopping import stop_on_signals
from .verify import verify_slots

_LANES = 6  # at most so many batches at a time, over all stages
_PUBLISH_EVERY = 60  # seconds; it reads the whole campaign, so not after each of many short rounds


@flow(
    name="discover",
    flow_run_name="{folder}",
    task_runner=ThreadPoolTaskRunner(max_workers=_LANES),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,
)
def discover(campaign_file: str, folder: str, attempts: int = 1) -> dict[str, Any]:
    """Run a campaign, or go on with one, until its budget is spent.

    Args:
        campaign_file: path of the YAML file. folder: where ledger, report and inputs go.
        attempts: how often a candidate may fail at a stage before it is given up.

    Returns:
        The summary: counts, rates with intervals, why the campaign ended.
    """
    return conduct(load_campaign(campaign_file), Path(folder), attempts)


def conduct(campaign: Campaign, folder: Path, attempts: int = 1) -> dict[str, Any]:
    """The body of the flow, for a campaign that is already read."""
    logger = get_run_logger()
    context = assemble(campaign, folder, load_settings(), attempts)
    refuse_changed_inputs(context)
    if others := context.ledger.active_owners():
        logger.warning("%d other process(es) work on this campaign; joining", len(others))
    started = published = time.monotonic()
    end = "budget of candidates spent"
    with stop_on_signals() as asked, context.heartbeat(asked):
        progress = Progress(context)
        for slots in rounds(campaign.budget):
            run_slots(context, slots, progress.show)
            if asked.is_set():
                raise KeyboardInterrupt
            if time.monotonic() - published >= _PUBLISH_EVERY:
                publish(context, list(records(context.ledger)))
                published = time.monotonic()
            if reason := why_stop(context, started):
                end = reason
                break
        if Stage.DFT in context.ledger.stages:
            make_dft(context)
        if asked.is_set():
            raise KeyboardInterrupt
    logger.info("campaign ended: %s", end)
    found = list(records(context.ledger))
    publish(context, found)
    summary = write_outputs(context, found, end)
    publish_report(context)
    return summary


def refuse_changed_inputs(context: Context) -> None:
    """A campaign goes on only with the files that it was begun with.

    What was read before stays in the ledger: with other files under the same names, old and new would be
    mixed without a word.

    Raises:
        InputError: the generator's files or the reference's file have other content now, or the
            reference is of another version of its database.
    """
    campaign = context.campaign
    now: dict[str, Any] = {"the generator": getattr(context.generator, "provenance", {}).get("inputs")}
    if campaign.reference.kind == "file":
        now["the reference"] = context.reference.info.digest
    refuse_changed_version(context.reference.info, context.ledger)
    for record in context.ledger.provenances().values():
        begun = {
            "the generator": record.get("inputs"),
            "the reference": record.get("reference", {}).get("digest"),
        }
        for whose, digest in now.items():
            if begun[whose] not in (None, digest):
                raise InputError(
                    f"campaign '{campaign.name}' was begun with other files of {whose}: "
                    "names or content have changed since",
                    hint="put the old ones back, or give the campaign a new name (or another --out)",
                )


def rounds(budget: Budget) -> Iterator[range]:
    """The slots of each round."""
    for begin in range(0, budget.candidates, budget.round_size):
        yield range(begin, min(begin + budget.round_size, budget.candidates))


def why_stop(context: Context, started: float) -> str | None:
    """Whether a limit other than the number of candidates was reached."""
    budget = context.campaign.budget
    if (slot := context.ledger.exhausted_at()) is not None:
        return f"{context.generator.name} had nothing more to propose after {slot} crystals"
    if budget.hours is not None and time.monotonic() - started >= budget.hours * 3600:
        return f"budget of {budget.hours:g} hours spent"
    if budget.sun is not None:
        threshold = context.campaign.select.max_energy_above_hull
        found = sum(is_sun(o, threshold) for o in context.ledger.outcomes(Stage.ASSESS))
        if found >= budget.sun:
            return f"{found} SUN crystals found"
    return None


def make_dft(context: Context) -> None:
    """Prepare the DFT calculations of the selected crystals and, where they run here, their verdicts."""
    rule = context.campaign.select
    best = shortlist(list(records(context.ledger)), rule.max_energy_above_hull, rule.top)
    chosen = [item.record.slot for item in best]
    everything = range(context.campaign.budget.candidates)

    def claim(stage: Stage) -> list[Work]:
        return context.ledger.claim(
            stage, everything, max(len(chosen), 1), among=chosen, attempts=context.attempts
        )

    if work := claim(Stage.DFT):
        prepare_dft(context, work)
    if context.campaign.runs_dft and (work := claim(Stage.VERIFY)):
        verify_slots(context, work)
