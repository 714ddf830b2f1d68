"""`heliodor verify`: DFT verdicts on the finalists of a campaign that has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import State, flow
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ..core.campaign import Campaign
from ..core.choices.dft import DftRun
from ..core.errors import InputError
from ..core.ledger import Work
from ..core.records import Status
from ..core.settings import load_settings
from ..tasks.artifacts import dft_bar
from ..tasks.context import Context
from ..tasks.outputs import write_outputs
from ..tasks.shortlist import shortlist
from ..tasks.table import Record, records
from ..tasks.verdicts import verdict_row
from ..tasks.verify import calculator
from .assemble import assemble
from .build import remember, reopen
from .gate import allowed
from .on_cluster import on_cluster
from .parameters import Attempts, campaign_folder, checked, run_name
from .stopping import cancellable, stop_on_signals
from .verify import Progress, make_plans, verify_plans

EngineName = Literal["abinit", "gpaw", "mlip", "vasp"]
_told: ContextVar[Progress] = ContextVar("_told", default=lambda _done, _all: None)
_LANES = 256  # tasks side by side; how many calculations, `workers` or the cluster file decides


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Inside, flows tell `progress` how many of how many calculations have ended.

    It cannot be a parameter: those are what a form asks for, and what the server keeps.
    """
    before = _told.set(progress)
    try:
        yield
    finally:
        _told.reset(before)


@flow(
    name="verify",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=_LANES),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,  # `checked` does, and says what it found
)
@checked
@cancellable
def verify(
    folder: str,
    engine: EngineName | None = None,
    run: bool | None = None,
    top: Annotated[int, Field(ge=1)] | None = None,
    attempts: Attempts = 1,
    cluster: str | None = None,
) -> State[list[dict[str, Any]]]:
    """Compute the finalists of a campaign with DFT, judge them, and write table and report again.

    Crystals with a verdict of the same engine and settings are not judged again, and finished
    calculations are found by content, so a run that was stopped goes on.

    Args:
        folder: Of the campaign; a relative path begins in HELIODOR_RUNS of the machine that runs it.
        engine: Another engine than the campaign's. Empty: as the campaign file says.
        run: Whether to compute here; if not, the calculations are written, and those that have come back
            from where they ran are judged. Empty: with another engine yes, else as the campaign file
            says.
        top: How many crystals. Empty: as the campaign file says.
        attempts: How often a crystal may fail before it is left alone.
        cluster: A cluster file on the machine that runs this: whether calculations become jobs. Empty:
            the one that HELIODOR_CLUSTER names there, or none.

    Returns:
        What the ledger recorded of each, best first.

    Raises:
        InputError: no engine whose results are read, somebody is working on the campaign, or no
            crystals.
    """
    dft = {"kind": engine, "run": True} if engine else {}
    dft |= {} if run is None else {"run": run}
    rows = _verify(campaign_folder(folder, ""), dft or None, top, attempts, cluster)
    counts = Counter(str(row["verdict"]) for row in rows)
    return Completed(data=rows, message=", ".join(f"{n} {verdict}" for verdict, n in counts.items()))


def _verify(
    path: Path, dft: dict[str, Any] | None, top: int | None, attempts: int, cluster: str | None
) -> list[dict[str, Any]]:
    settings = load_settings(cluster)
    ledger, begun = reopen(path, settings)
    campaign = with_dft(begun, dft)
    if ledger.leases.active_owners():
        raise InputError(
            f"campaign '{campaign.name}' is being run", hint="wait until it has ended, or stop it"
        )
    remember(campaign, path)
    if (remote := on_cluster(campaign, path, settings)) is not None:
        remote.check()
    context = assemble(campaign, path, settings, attempts, probe=False)
    rule = campaign.select
    best = shortlist(list(records(context.ledger)), rule.max_energy_above_hull, top or rule.top)
    if not best:
        raise InputError(
            f"there are no SUN crystals within {rule.max_energy_above_hull:g} eV/atom in {path}",
            hint="select.max_energy_above_hull in the campaign file allows more",
        )
    with stop_on_signals() as asked, context.heartbeat(asked):
        work = [made for item in best if (made := _work(item.record, context)) is not None]
        plans, held = allowed(context, best, make_plans(context, work)) if work else ([], {})
        bar, told = dft_bar(context), _told.get()

        def progress(done: int, n: int) -> None:
            bar.show(done, n)
            told(done, n)

        verify_plans(context, plans, progress)
        if asked.is_set():
            raise KeyboardInterrupt
    found = list(records(context.ledger))
    write_outputs(assemble(campaign, path, settings, probe=False), found)
    of_slot = {record.slot: record for record in found}
    return [
        verdict_row(of_slot[slot], held.get(slot, "")) for slot in (item.record.slot for item in best)
    ]


def with_dft(campaign: Campaign, dft: dict[str, Any] | None) -> Campaign:
    """The campaign with another engine, or changes to its own; its results must be such as we read.

    Args:
        dft: as the campaign file would have it; of the same kind, or without a kind, what it changes.

    Raises:
        InputError: they are not.
    """
    if dft is not None:
        content = campaign.model_dump(mode="json")
        kept = content["dft"] if dft.get("kind", campaign.dft.kind) == campaign.dft.kind else {}
        campaign = Campaign.model_validate(content | {"dft": kept | dft})
    if not isinstance(campaign.dft, DftRun):
        raise InputError(
            f"dft: {campaign.dft.kind} of this campaign computes nothing that could be judged",
            hint="--dft abinit (or gpaw, mlip, vasp) names an engine that does",
        )
    return campaign


def _work(record: Record, context: Context) -> Work | None:
    """What is left to do for a crystal; None where it has a verdict, or has failed too often."""
    before, candidate = record.verify, record.candidate
    if candidate is None or record.assess is None:
        return None
    if before is None:
        return Work(record.slot, candidate, record.assess)
    engine, crystal, last = calculator(context), record.crystal, record.verify_failed or before
    if before.status != Status.FAILED and crystal:
        level = engine.level(crystal.elements).as_dict()
        if before.data["level"] == level:
            return None
    if last.status == Status.FAILED:
        tried = last.data.get("engine") == engine.name and last.attempt >= context.attempts
        if context.campaign.runs_dft and tried:
            return None
    return Work(record.slot, candidate, record.assess, last.attempt + 1)
