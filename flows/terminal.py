"""A flow in the terminal: checks first, the live funnel meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ..core.campaign import Campaign
from ..core.errors import InputError, MissingError, missing_extra
from ..core.owner import in_words
from ..core.settings import load_settings
from .stopping import stop_on_signals


def prepare_prefect(*, verbose: bool) -> None:
    """Prefect's settings for a run from the command line, before its first import."""
    if find_spec("prefect") is None:
        raise missing_extra("prefect", "flows")
    # The first start of the ephemeral server migrates its database: 25 s on two cores.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")


def conduct(
    campaign: Campaign,
    folder: Path,
    resume: str,
    body: Callable[[], dict[str, Any]],
    *,
    alone: bool = False,
    cluster: Path | None = None,
) -> dict[str, Any]:
    """Check everything, then run the flow with the live funnel; Ctrl-C and SIGTERM stop it cleanly.

    Args:
        alone: refuse a campaign that another process works on, instead of sharing the work.
        cluster: a cluster file, in the place of what HELIODOR_CLUSTER says.
    """
    from .assemble import assemble
    from .build import open_ledger
    from .progress import live

    console = Console(stderr=True)
    settings = load_settings(cluster)
    assemble(campaign, folder, settings)  # everything that can be wrong is said here, before any work
    console.print(f"[bold]{campaign.name}[/]  {escape(str(folder))}", highlight=False)
    ledger = open_ledger(campaign, folder, settings)
    if others := ledger.leases.enter(alone=alone):
        where = "; ".join(sorted(set(map(in_words, others))))
        if alone:
            raise InputError(
                f"campaign '{campaign.name}' is being run: {where}",
                hint="stop it there, or share the work: leave --alone out",
            )
        console.print(f"sharing the work with: {where}", highlight=False, markup=False)
    budget = 0 if campaign.generator.kind == "files" else campaign.budget.candidates
    try:
        # Signals are heeded from here on: starting Prefect's server takes a while.
        with stop_on_signals(), live(ledger, budget, console):
            return body()
    except RuntimeError as error:
        if not str(error).startswith("Failed to reach API"):
            raise
        raise MissingError(
            f"no Prefect server answers at PREFECT_API_URL={os.environ.get('PREFECT_API_URL')}",
            hint="start it (prefect server start), or unset PREFECT_API_URL",
        ) from error
    except KeyboardInterrupt:
        console.print(
            f"stopped; nothing that was recorded is lost. Go on with: {resume}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        raise
    finally:
        ledger.leases.release()
