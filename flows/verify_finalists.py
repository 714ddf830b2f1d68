"""`heliodor verify`: DFT verdicts on the finalists of a campaign that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from ..core.campaign import Campaign
from ..core.choices.dft import DftRun
from ..core.errors import InputError
from ..core.ledger import Work
from ..core.records import Status
from ..core.settings import load_settings
from ..tasks.context import Context
from ..tasks.dft_columns import later_failure
from ..tasks.outputs import write_outputs
from ..tasks.shortlist import shortlist
from ..tasks.table import Record, records
from ..tasks.verify import calculator
from .assemble import assemble
from .build import remember, reopen
from .gate import allowed
from .stopping import stop_on_signals
from .verify import make_plans, verify_plans

NOT_COMPUTED = "not computed"
_LANES = 64  # tasks side by side; how many calculations, `workers` decides


@flow(
    name="verify",
    flow_run_name="{folder}",
    task_runner=ThreadPoolTaskRunner(max_workers=_LANES),  # type: ignore[arg-type]
    persist_result=False,
    validate_parameters=False,
)
def verify(
    folder: str,
    dft: dict[str, Any] | None = None,
    top: int | None = None,
    attempts: int = 1,
    progress: Any = None,
) -> list[dict[str, Any]]:
    """Compute the finalists of a campaign with DFT, judge them, and write table and report again.

    With `run: false` nothing is computed here: the calculations are written, and those that have come
    back from where they ran are judged.

    Crystals with a verdict of the same engine and settings are not judged again, and finished
    calculations are found by content, so a run that was stopped goes on.

    Args:
        folder: of the campaign. dft: another engine than the campaign file's, as the file would have it;
            of the same kind, or without a kind, what it changes of it.
        top: how many crystals; None: as the campaign file says.
        attempts: how often a crystal may fail before it is left alone.
        progress: told how many of how many calculations have ended; see `verify.Progress`.

    Returns:
        What the ledger recorded of each, best first.

    Raises:
        InputError: no engine whose results are read, somebody is working on the campaign, or no
            crystals.
    """
    settings, path = load_settings(), Path(folder)
    ledger, begun = reopen(path, settings)
    campaign = with_dft(begun, dft)
    if ledger.active_owners():
        raise InputError(
            f"campaign '{campaign.name}' is being run", hint="wait until it has ended, or stop it"
        )
    remember(campaign, path)
    context = assemble(campaign, path, settings, attempts, probe=False)
    rule = campaign.select
    best = shortlist(list(records(context.ledger)), rule.max_energy_above_hull, top or rule.top)
    if not best:
        raise InputError(
            f"there are no SUN crystals within {rule.max_energy_above_hull:g} eV/atom in {folder}",
            hint="select.max_energy_above_hull in the campaign file allows more",
        )
    with stop_on_signals() as asked, context.heartbeat(asked):
        work = [made for item in best if (made := _work(item.record, context)) is not None]
        plans, held = allowed(context, best, make_plans(context, work)) if work else ([], {})
        verify_plans(context, plans, progress or (lambda _done, _all: None))
        if asked.is_set():
            raise KeyboardInterrupt
    found = list(records(context.ledger))
    write_outputs(assemble(campaign, path, settings, probe=False), found)
    of_slot = {record.slot: record for record in found}
    return [as_row(of_slot[slot], held.get(slot, "")) for slot in (item.record.slot for item in best)]


def with_dft(campaign: Campaign, dft: dict[str, Any] | None) -> Campaign:
    """The campaign with another engine, or changes to its own; its results must be such as we read.

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


def as_row(record: Record, held: str = "") -> dict[str, Any]:
    """A verdict in few words, for the terminal and `--json`. `held`: why it was not computed now."""
    outcome = record.verify
    data = outcome.data if outcome else {}
    hull, compared = data.get("hull", {}), data.get("compared", {})
    return {
        "slot": record.slot,
        "formula": record.crystal.formula if record.crystal else None,
        "verdict": data.get("verdict", "failed" if outcome else NOT_COMPUTED),
        "energy_above_hull": hull.get("energy_above_hull"),
        "energy_above_hull_mlip": (record.hull or {}).get("energy_above_hull"),
        "volume_ratio": compared.get("volume_ratio"),
        "rmsd": compared.get("rmsd"),
        "level": hull.get("level"),
        "corrections": hull.get("corrections"),
        "reference": hull.get("reference"),
        "detail": held or later_failure(record.verify_failed) or data.get("detail", ""),
    }
