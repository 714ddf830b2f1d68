"""A flow in the terminal: checks first, the live funnel meanwhile, the summary at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.campaign import Campaign
from ..core.errors import MissingError, missing_extra
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
    campaign: Campaign, folder: Path, resume: str, body: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Check everything, then run the flow with the live funnel; Ctrl-C and SIGTERM stop it cleanly."""
    from .assemble import assemble
    from .build import open_ledger, remember
    from .progress import live

    console = Console(stderr=True)
    settings = load_settings()
    assemble(campaign, folder, settings)  # everything that can be wrong is said here, before any work
    remember(campaign, folder)
    console.print(f"[bold]{campaign.name}[/]  {escape(str(folder))}", highlight=False)
    ledger = open_ledger(campaign, folder, settings)
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


def _show_protocol(protocol: dict[str, Any], console: Console) -> None:
    """The numbers of another evaluator, and where ours are not its own."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "value", "counted", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for metric in protocol["metrics"]:
        value = "-" if metric["value"] is None else f"{metric['value']:.4f}"
        shared = metric["count"] is not None
        counted = f"{metric['count']:,} of {metric['n']:,}" if shared else f"mean of {metric['n']:,}"
        low, high = metric["low"], metric["high"]
        between = "" if low is None else f"{low:.1%} to {high:.1%}"
        table.add_row(metric["name"], value, counted, between)
    console.print(f"\n[bold]by the rules of {protocol['protocol']}[/]", highlight=False)
    console.print(table)
    differs = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("differs", protocol["protocol"], "here"):
        differs.add_column(column, ratio=1)
    for item in protocol["differences"]:
        differs.add_row(*(escape(item[key]) for key in ("what", "theirs", "ours")))
    console.print(differs)


def show_summary(summary: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """The counts with their intervals, and where the report is."""
    if as_json:
        Console().print_json(json.dumps(summary))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "count", "of all", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in summary["rates"].items():
        share = f"{rate['rate']:.1%}" if rate["rate"] is not None else "-"
        table.add_row(name, f"{summary[name]:,}", share, f"{rate['low']:.1%} to {rate['high']:.1%}")
    console = Console()
    found = f"[bold]{summary['n']:,} crystals[/], {summary['read']:,} read"
    console.print(f"{found}; {escape(summary['ended'])}", highlight=False)
    console.print(table)
    if protocol := summary.get("protocol"):
        _show_protocol(protocol, console)
    console.print(f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
