"""The command `heliodor review`: a closer look at the finalists of a campaign that has ended."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .flows.review import Finalist


class Opinion(StrEnum):
    """Potentials by name, as in the campaign file; its list is not imported, or `--help` would wait."""

    CHGNET = "chgnet"
    SEVENNET = "sevennet"
    SEVENNET_MF_PBE = "sevennet-mf-pbe"
    SEVENNET_MF_R2SCAN = "sevennet-mf-r2scan"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(review)


def review(
    folder: Annotated[Path, typer.Argument(help="The campaign's folder.")],
    phonons: Annotated[bool, typer.Option("--phonons", help="Imaginary modes (phonopy).")] = False,
    elastic: Annotated[
        bool, typer.Option("--elastic", help="Elastic constants, Born's criteria.")
    ] = False,
    potential: Annotated[
        list[Opinion] | None, typer.Option(help="A second opinion; may be given several times.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="At most so many, lowest above the hull first.")] = 10,
    within: Annotated[float, typer.Option(min=0, help="eV/atom above the hull, at most.")] = 0.1,
    everything: Annotated[
        bool, typer.Option("--all", help="Also known, repeated and invalid crystals.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Look closer at the finalists of a campaign: phonons, elasticity, second opinions."""
    from rich.console import Console

    from .core.campaign import Review
    from .core.settings import load_settings
    from .flows.build import reopen
    from .flows.terminal import prepare_prefect

    prepare_prefect(verbose=False)
    from .flows.review import review_finalists

    settings = load_settings()
    ledger, campaign = reopen(folder, settings)
    asked = Review.model_validate(
        {
            "scores": False,
            "within": within,
            "phonons": phonons,
            "elastic": elastic,
            "potentials": [name.value for name in potential or ()],
        }
    )
    console = Console(stderr=True)
    with console.status("beginning") as status:
        found = review_finalists(
            ledger,
            campaign,
            folder,
            asked,
            settings,
            top=top,
            everything=everything,
            progress=lambda done, n: status.update(f"{done} of {n} finalists"),
        )
    if as_json:
        typer.echo(json.dumps([finalist.as_dict() for finalist in found], indent=1))
        return
    _show(found)
    typer.echo(f"columns added to {folder / 'crystals.parquet'}; report: {folder / 'report.html'}")


_SHOWN = (
    ("uncertainty", "energy_above_hull_uncertainty"),
    ("spread", "energy_above_hull_spread"),
    ("stable at 0.1, all", "stable_0.1_consensus"),
    ("lowest mode, THz", "phonon_min_frequency"),
    ("dynamically", "dynamically_stable"),
    ("bulk, GPa", "bulk_modulus"),
    ("shear, GPa", "shear_modulus"),
    ("elastically", "elastically_stable"),
)


def _show(found: list[Finalist]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [(t, name) for t, name in _SHOWN if any(f.scores.get(name) is not None for f in found)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("formula", "eV/atom above hull", *(title for title, _ in shown)):
        table.add_column(title)
    for finalist in found:
        cells = [_text(finalist.scores.get(name)) for _, name in shown]
        table.add_row(finalist.formula, f"{finalist.energy_above_hull:.3f}", *cells)
    Console().print(table)


def _text(value: float | str | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "stable" if value else "unstable"
    return value if isinstance(value, str) else f"{value:.3g}"
