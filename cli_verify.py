"""Commands on a campaign's DFT: `heliodor verify` and `heliodor export-dft`."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Engine(StrEnum):
    """Engines whose results are read."""

    ABINIT = "abinit"
    GPAW = "gpaw"
    MLIP = "mlip"
    VASP = "vasp"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(verify)
    app.command("export-dft")(export_dft)


def verify(
    folder: Annotated[Path, typer.Argument(help="The campaign's folder.")],
    dft: Annotated[Engine | None, typer.Option(help="The engine. [as the campaign file says]")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many crystals. [as the campaign file says]")
    ] = None,
    run: Annotated[
        bool | None,
        typer.Option(
            help="Compute here; or write the calculations into dft/, and judge those whose folders have"
            " come back from where they ran. [with --dft: here; else as the campaign file says]"
        ),
    ] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="Try crystals that failed again, up to so many times.")
    ] = 1,
    cluster: Annotated[
        Path | None, typer.Option(help="Cluster file: calculations run as jobs. [HELIODOR_CLUSTER]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Compute the best crystals and what they compete with by DFT, and say which are stable."""
    from rich.console import Console

    from .flows.terminal import prepare_prefect

    prepare_prefect(verbose=False)
    from .flows.totals import show_verdicts
    from .flows.verify_finalists import telling
    from .flows.verify_finalists import verify as flow
    from .tasks.verdicts import NOT_COMPUTED

    console = Console(stderr=True)
    on = ["--cluster", str(cluster)] if cluster is not None else []
    again = shlex.join(["heliodor", "verify", str(folder), *on])  # the folder remembers engine and place
    try:
        with (
            console.status("looking for structures of the competing phases") as status,
            telling(lambda done, n: status.update(f"{done} of {n} calculations")),
        ):
            engine: Any = dft.value if dft else None
            there = str(cluster.absolute()) if cluster is not None else None
            result: Any = flow(str(folder.absolute()), engine, run, top, attempts, there)
            found = list(result)
    except KeyboardInterrupt:
        console.print(f"stopped; nothing that has ended is lost. Go on with: {again}", markup=False)
        raise
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    show_verdicts(found, Console())
    # What waits for an answer or for the budget says so itself.
    if waiting := sum(row["verdict"] == NOT_COMPUTED and not row["detail"] for row in found):
        typer.echo(
            f"{waiting} of {len(found)} crystals wait for calculations that run elsewhere: copy"
            f" {folder / 'dft'} there, run what is in it (its README.txt says how), copy it back, and"
            f" call this again: {again}\nTo compute here instead: {again} --dft abinit"
        )
    typer.echo(f"report: {folder / 'report.html'}; calculations: {folder / 'dft'}")


def export_dft(
    folder: Annotated[Path, typer.Argument(help="The campaign's folder.")],
    out: Annotated[Path, typer.Option("--out", help="A folder, with one inside per level of theory.")],
    steps: Annotated[
        bool,
        typer.Option("--steps", help="For potentials: the steps of the relaxations too, with forces."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Write what DFT found as training sets for CHGNet, SevenNet and `heliodor train`."""
    from .flows.export_dft import export_dft as export

    written = export(folder, out, steps=steps)
    if as_json:
        typer.echo(json.dumps([found.as_dict() for found in written], indent=1))
        return
    for found in written:
        without = found.crystals - found.with_forces
        note = f"; {without} without forces, in the table only" if without else ""
        path = f"; {found.steps} steps of relaxations" if steps else ""
        typer.echo(f"{out / found.folder}: {found.crystals} crystals{note}{path}; {found.level.name}")
