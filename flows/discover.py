"""The discovery campaign as a Prefect flow: rounds of candidates until a budget is spent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.exceptions import Pause
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from ..core.campaign import Campaign
from ..core.errors import InputError
from ..core.ledger import Work
from ..core.owner import in_words
from ..core.records import Stage
from ..core.settings import load_settings
from ..tasks.artifacts import Progress, dft_bar, publish, publish_report
from ..tasks.context import Context
from ..tasks.dft import prepare_dft
from ..tasks.notices import tell_of_crystals, tell_of_failures, tell_the_end
from ..tasks.outputs import write_outputs
from ..tasks.protocol import plural
from ..tasks.shortlist import shortlist
from ..tasks.table import records
from .assemble import assemble
from .budget import rounds, why_stop
from .build import remember
from .gate import allowed, held_back
from .parameters import Attempts, Rounds, campaign_folder, checked, run_name
from .pinned import refuse_changed_version
from .pipeline import run_slots
from .stopping import cancellable, stop_on_signals
from .verify import make_plans, verify_plans

_LANES = 256  # tasks side by side; how many, the lanes decide, and for DFT `workers` or the cluster file
_PUBLISH_EVERY = 60.0  # seconds; it reads the whole campaign, so not after each of many short rounds
_PUBLISH_SHARE = (
    20.0  # times as long as it took last, so that large campaigns do not spend their time on it
)


@flow(
    name="discover",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=_LANES),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,  # `checked` does, and says what it found
)
@checked
@cancellable
def discover(
    campaign: Campaign,
    folder: str | None = None,
    rounds: Rounds | None = None,
    attempts: Attempts = 1,
    cluster: str | None = None,
) -> State[dict[str, Any]]:
    """Run a campaign, or go on with one, until its budget is spent.

    Args:
        campaign: What to search, how to judge it, and when to stop: the content of a campaign file.
        folder: Where ledger, report and inputs go. Empty: a folder of the campaign's name in
            HELIODOR_RUNS of the machine that runs it; a relative path begins there, too.
        rounds: End this run after so many rounds; the next run goes on. Empty: run until the budget is
            spent.
        attempts: How often a candidate may fail at a stage before it is given up.
        cluster: A cluster file on the machine that runs this: which stages become jobs. Empty: the one
            that HELIODOR_CLUSTER names there, or none.

    Returns:
        The summary: counts, rates with intervals, why the run ended.
    """
    return conduct(campaign, campaign_folder(folder, campaign.name), attempts, rounds, cluster)


def conduct(
    campaign: Campaign,
    folder: Path,
    attempts: int = 1,
    at_most: int | None = None,
    cluster: str | None = None,
) -> State[dict[str, Any]]:
    """The body of the flow.

    Args:
        at_most: so many rounds in which anything is left to do. cluster: as for `discover`.
    """
    logger = get_run_logger()
    context = assemble(campaign, folder, load_settings(cluster), attempts)
    refuse_changed_inputs(context)
    remember(campaign, folder)
    if others := context.ledger.leases.active_owners():
        logger.warning("sharing the work with: %s", "; ".join(sorted(set(map(in_words, others)))))
    started = published = time.monotonic()
    pause = _PUBLISH_EVERY
    end, done, paused, held = "budget of candidates spent", 0, False, ""
    with stop_on_signals() as asked, context.heartbeat(asked):
        progress = Progress(context)
        for slots in rounds(campaign.budget):
            if worked := run_slots(context, slots, progress.show):
                progress.show_now()
                tell_of_failures(context, slots)
                tell_of_crystals(context, slots)
            done += worked
            if asked.is_set():
                raise KeyboardInterrupt
            if time.monotonic() - published >= pause:
                began = time.monotonic()
                publish(context, list(records(context.ledger)))
                published = time.monotonic()
                pause = max(_PUBLISH_EVERY, _PUBLISH_SHARE * (published - began))
            if reason := why_stop(context, started, slots):
                end = reason
                break
            if paused := done == at_most and slots.stop < campaign.budget.candidates:
                break
        if Stage.DFT in context.ledger.stages and not paused:  # it is for the best of all candidates
            try:
                held = make_dft(context)
            except Pause:  # until somebody has answered; what there is to see is there to be seen
                _finish(context, "waiting for approval")
                raise
        if asked.is_set():
            raise KeyboardInterrupt
    if paused:
        end = f"paused after {plural(done, 'round')}: {slots.stop:,} of {campaign.budget.candidates:,}"
    end = f"{end}; {held}" if held else end
    message = end if done else f"nothing was left to do: {end}"
    logger.info("campaign %s: %s", campaign.name, message)
    summary = _finish(context, end)
    if not paused:
        tell_the_end(context, end)
    return Completed(data=summary, message=message)


def _finish(context: Context, end: str) -> dict[str, Any]:
    """Show and write what is known, and tell of what was found; returns the summary."""
    found = list(records(context.ledger))
    tell_of_crystals(context, range(context.campaign.budget.candidates))
    publish(context, found, end)
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


def make_dft(context: Context) -> str:
    """Prepare the DFT calculations of the selected crystals and, where they run here, their verdicts.

    Returns:
        What is left for later, and why; empty: nothing.
    """
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
        plans, held = allowed(context, best, make_plans(context, work))
        verify_plans(context, plans, dft_bar(context).show)
        return held_back(held)
    return ""
