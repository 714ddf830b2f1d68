"""Commands to watch and steer a campaign: `heliodor status`, `approve` and `metrics`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="The campaign's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(status)
    app.command()(approve)
    app.command()(metrics)


def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a campaign stands: funnel, budget, best crystals, who works on it."""
    from rich.console import Console

    from .flows.status import Status

    shown = Status(folder)
    if as_json:
        typer.echo(json.dumps(shown.as_dict(), indent=2))
    elif watch:
        shown.watch(Console())
    else:
        shown.show(Console())


def approve(
    folder: Folder,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Compute only this crystal (its formula or slot); may be repeated."),
    ] = None,
    no: Annotated[bool, typer.Option("--no", help="Decline: compute none of them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    comment: Annotated[str, typer.Option(help="Kept with the answer.")] = "",
    as_json: Json = False,
) -> None:
    """Show the shortlist that waits for DFT and what it costs; answer yes or no."""
    from rich.console import Console
    from rich.markdown import Markdown

    from .core.errors import InputError
    from .flows.approve import Question
    from .flows.terminal import prepare_prefect

    if no and (only or yes):
        raise InputError("--no declines all: it goes with neither --only nor --yes")
    prepare_prefect(verbose=False)
    question = Question(folder)
    leave_out = question.left_out(only or [])
    if as_json and not (yes or no):
        typer.echo(json.dumps(asdict(question.proposal), indent=1))
        return
    console = Console(stderr=as_json)
    console.print(Markdown(question.proposal.markdown()))
    if before := question.answered:
        said = "yes" if before.yes else "no"
        console.print(f"answered before by {before.who}: {said}; a new answer replaces it")
    n = 0 if no else len(question.proposal.crystals) - len(leave_out)
    if not (yes or no):
        typer.confirm(f"Compute {n} of {len(question.proposal.crystals)} crystals by DFT?", abort=True)
    resumed = question.answer(yes=not no, leave_out=leave_out, comment=comment)
    if as_json:
        typer.echo(json.dumps({"approved": n, "left_out": leave_out, "resumed": resumed}))
        return
    then = f"; {len(resumed)} suspended flow run(s) go on" if resumed else ""
    again = "" if resumed or no else "; the next run of the campaign computes them"
    typer.echo(f"{'declined' if no else f'approved {n} crystals'}{then}{again}")


def metrics(
    folders: Annotated[list[Path], typer.Argument(help="Folders of campaigns.")],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve them at this port. [print them once]")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to serve at.")] = "127.0.0.1",
) -> None:
    """Print or serve the campaigns' numbers for Prometheus: outcomes, spending, budget, SUN, leases."""
    from .core.errors import InputError
    from .flows.metrics import metrics_text, server

    if port is None:
        typer.echo(metrics_text(folders), nl=False)
        return
    try:
        serving = server(folders, port, host)
    except OSError as error:
        raise InputError(f"--port: cannot serve at {host}:{port}: {error.strerror}") from error
    typer.echo(f"serving http://{host}:{port}/metrics", err=True)
    with serving:
        serving.serve_forever()
