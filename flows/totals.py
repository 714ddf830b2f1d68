"""The totals of a campaign in the terminal: counts with intervals, and what was counted beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_VERDICT = (
    ("formula", "formula", ""),
    ("verdict", "verdict", ""),
    ("eV/atom above hull, DFT", "energy_above_hull", ".3f"),
    ("by the potential", "energy_above_hull_mlip", ".3f"),
    ("volume, DFT / potential", "volume_ratio", ".3f"),
    ("RMSD, angstrom", "rmsd", ".3f"),
    ("why not", "detail", ""),
)


def show_summary(summary: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """The counts with their intervals, and where the report is."""
    console = Console()
    if as_json:
        console.print_json(json.dumps(summary))
        return
    found = f"[bold]{summary['n']:,} crystals[/], {summary['read']:,} read"
    console.print(f"{found}; {escape(summary['ended'])}", highlight=False)
    console.print(_rates(summary, summary["rates"], "of all"))
    for name, part in summary.get("potentials", {}).items():
        console.print(f"\n[bold]{escape(name)}[/], {part['judged']:,} judged", highlight=False)
        console.print(_rates(part, part["rates"], "of all"))
    for line in _continuous(summary.get("continuous") or {}):
        console.print(line, highlight=False, markup=False)
    if protocol := summary.get("protocol"):
        _show_protocol(protocol, console)
    if verdicts := summary.get("verdicts"):
        console.print()
        show_verdicts(verdicts, console)
    console.print(f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def show_verdicts(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What DFT says of each crystal, and at which level of theory, on which hull.

    Args:
        found: rows of `tasks.verdicts`.
    """
    shown = [column for column in _VERDICT if any(row[column[1]] not in (None, "") for row in found)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, _, _ in shown:
        table.add_column(title)
    for row in found:
        cells = ["-" if row[name] is None else format(row[name], spec) for _, name, spec in shown]
        table.add_row(*map(escape, cells))
    console.print(table)
    hulls = {(row["level"], row["corrections"], row["reference"]) for row in found if row["level"]}
    for level, corrections, reference in sorted(hulls):
        said = f"level: {level}; corrections: {corrections}; hull: {reference}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _rates(counts: Mapping[str, Any], rates: Mapping[str, Any], of: str) -> Table:
    table = _table("", "count", of, "95 % interval")
    for name, rate in rates.items():
        share = f"{rate['rate']:.1%}" if rate["rate"] is not None else "-"
        table.add_row(name, f"{counts[name]:,}", share, f"{rate['low']:.1%} to {rate['high']:.1%}")
    return table


def _continuous(measures: Mapping[str, Any]) -> list[str]:
    """A line for each measure: mean distances of structures and compositions."""
    lines = []
    for name, measure in measures.items():
        if measure is None:
            continue
        means = [(k, measure[k]) for k in ("structure", "composition") if measure[k] is not None]
        said = ", ".join(f"{kind} {mean['value']:.3g}" for kind, mean in means)
        lines.append(f"continuous {name}: {said} (mean distances of {measure['n']:,} crystals)")
    return lines


def _show_protocol(protocol: Mapping[str, Any], console: Console) -> None:
    """The numbers of another evaluator, and where ours are not its own."""
    table = _table("", "value", "counted", "95 % interval")
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
