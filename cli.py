"""The command line. Heavy packages are imported by the commands that need them."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import (
    __version__,
    cli_deploy,
    cli_generate,
    cli_models,
    cli_review,
    cli_screen,
    cli_tables,
    cli_verify,
    cli_watch,
)
from .core.errors import ExitCode, HeliodorError, InputError, StorageError

if TYPE_CHECKING:
    from rich.console import Console

    from .core.campaign import Campaign
    from .core.ledger import Ledger

app = typer.Typer(
    name="heliodor",
    help="Find new inorganic crystals: propose, screen, relax, judge against the hull, hand to DFT.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
reference_app = typer.Typer(help="Tables of known phases: novelty and the hull.", no_args_is_help=True)
app.add_typer(reference_app, name="reference")

_state = {"debug": False}

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Chemsys = Annotated[str | None, typer.Option("--chemsys", help="Elements, for example Li-Mn-O.")]
Paths = Annotated[list[Path], typer.Argument(help="Files, folders or zip archives of crystals.")]


class RelaxerName(StrEnum):
    """Potentials by name."""

    CHGNET = "chgnet"
    SEVENNET = "sevennet"
    SEVENNET_MF = "sevennet-mf"
    NONE = "none"


class ThermoTypeName(StrEnum):
    """The Materials Project's hulls."""

    GGA = "GGA_GGA+U"
    R2SCAN = "R2SCAN"


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks and log messages.")] = False,
) -> None:
    _state["debug"] = debug
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR)
    logging.getLogger("heliodor").setLevel(logging.DEBUG if debug else logging.WARNING)
    if version:
        typer.echo(__version__)
        raise typer.Exit


# --- campaigns -----------------------------------------------------------------------------------


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("campaign.yaml"),
    chemsys: Chemsys = None,
    generator: Annotated[
        str, typer.Option(help="diffusion, substitution, random or files.")
    ] = "diffusion",
) -> None:
    """Write a commented campaign file."""
    from .core.elements import parse_elements
    from .flows.new import GENERATORS, campaign_text

    if generator not in GENERATORS:
        raise InputError(f"no generator '{generator}'; known: {', '.join(GENERATORS)}")
    if path.exists():
        raise InputError(f"{path} exists already", hint="choose another name; nothing was overwritten")
    elements = parse_elements(chemsys) if chemsys is not None else ()
    text = campaign_text(path.stem, elements, generator, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"wrote {path}; run it with: {shlex.join(['heliodor', 'run', str(path)])}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the campaign file, for completion in editors."""
    from .core.campaign import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def run(
    campaign: Annotated[Path, typer.Argument(help="The campaign file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of ledger, report and inputs. [HELIODOR_RUNS/NAME]"),
    ] = None,
    retry_failed: Annotated[
        int, typer.Option("--attempts", min=1, help="Try what failed again, up to so many times.")
    ] = 1,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="End after so many rounds. [when the budget is spent]")
    ] = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Refuse a campaign that is being run; else the work is shared."),
    ] = False,
    cluster: Annotated[
        Path | None, typer.Option(help="Cluster file: which stages run as jobs. [HELIODOR_CLUSTER]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a campaign to its budget, or go on with one that was stopped."""
    from .core.campaign import load_campaign
    from .core.settings import load_settings
    from .flows.terminal import conduct, prepare_prefect
    from .flows.totals import show_summary

    prepare_prefect(verbose=_state["debug"])
    loaded = load_campaign(campaign)
    folder = out or load_settings().runs / loaded.name
    said = {"--out": out, "--cluster": cluster}
    given = [str(word) for pair in said.items() if pair[1] is not None for word in pair]
    resume = shlex.join(["heliodor", "run", str(campaign), *given])
    there = str(cluster.absolute()) if cluster is not None else None

    def body() -> dict[str, Any]:
        from .flows.discover import discover

        result: Any = discover(loaded, str(folder.absolute()), rounds, retry_failed, there)
        return dict(result)

    summary = conduct(loaded, folder, resume, body, alone=alone, cluster=cluster)
    show_summary(summary, folder, as_json=as_json)


cli_screen.register(app)
cli_watch.register(app)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The campaign's folder.")]) -> None:
    """Write tables, report and exports again from the ledger."""
    from .flows.terminal import prepare_prefect

    prepare_prefect(verbose=_state["debug"])
    from .core.settings import load_settings
    from .flows.assemble import assemble
    from .tasks.outputs import write_outputs
    from .tasks.table import records

    ledger, campaign = _open(folder)
    context = assemble(campaign, folder, load_settings(), probe=False)
    write_outputs(context, list(records(ledger)))
    typer.echo(f"wrote {folder / 'report.html'}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The campaign's folder.")],
    out: Annotated[
        Path, typer.Option("--out", help="A folder (CIF) or .extxyz, .json, .csv, .parquet.")
    ],
    everything: Annotated[bool, typer.Option("--all", help="All crystals, not only SUN ones.")] = False,
    symprec: Annotated[
        float, typer.Option(min=1e-6, help="Symmetry tolerance of CIFs, angstrom.")
    ] = 0.01,
) -> None:
    """Export crystals with their energies and where those come from."""
    from .report.export import write_cif, write_entries_json, write_extxyz, write_table
    from .tasks.report_data import export_rows
    from .tasks.table import records

    ledger, campaign = _open(folder)
    threshold = campaign.select.max_energy_above_hull
    rows = export_rows([r for r in records(ledger) if everything or r.sun(threshold)])
    match out.suffix:
        case ".extxyz" | ".xyz":
            n = write_extxyz(rows, out)
        case ".json":
            n = write_entries_json([r for r in rows if r.energy is not None], out)
        case ".csv" | ".parquet":
            n = write_table(rows, out)
        case "":
            n = len(set(write_cif(rows, out, symprec=symprec)))
        case other:
            raise InputError(f"cannot export to '{other}'; a folder, .extxyz, .json, .csv or .parquet")
    hint = "" if n or everything else "; no SUN crystals: --all exports every one"
    typer.echo(f"exported {n} crystals to {out}{hint}")


# --- single stages -------------------------------------------------------------------------------

cli_generate.register(app)
cli_models.register(app)
cli_review.register(app)
cli_verify.register(app)
cli_deploy.register(app)
cli_tables.register(app)


@app.command()
def relax(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", help="Table of results (.csv, .parquet) or .extxyz.")],
    relaxer: Annotated[RelaxerName, typer.Option(help="Potential.")] = RelaxerName.CHGNET,
    fmax: Annotated[float, typer.Option(help="Force threshold, eV/angstrom.")] = 0.05,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps per crystal.")] = 300,
) -> None:
    """Relax crystals with a machine-learned potential."""
    from .flows.single import relax_to_file

    _must_exist(paths)
    settings = {"kind": relaxer.value, "fmax": fmax, "max_steps": max_steps}
    typer.echo(relax_to_file(paths, out, settings, console=_console()))


@app.command()
def hull(
    items: Annotated[
        list[str] | None, typer.Argument(help="FORMULA=E (formation energy, eV/atom), or a CSV of both.")
    ] = None,
    chemsys: Chemsys = None,
    reference: Annotated[str, typer.Option(help="embedded, mp, or a file.")] = "embedded",
    thermo_type: Annotated[
        ThermoTypeName, typer.Option(help="Of mp: whose energies, PBE with PBE+U, or r2SCAN.")
    ] = ThermoTypeName.GGA,
    as_json: Json = False,
) -> None:
    """Energy above hull of compositions; or, with --chemsys, the stable phases of a system."""
    from .flows.hull import hull_rows, show_rows

    rows = hull_rows(items or [], chemsys, reference, thermo_type.value)
    show_rows(rows, as_json=as_json, console=_console(stderr=False))


# --- references and the machine ------------------------------------------------------------------


@reference_app.command("info")
def reference_info(
    name: Annotated[str, typer.Argument(help="embedded, or a file.")] = "embedded", as_json: Json = False
) -> None:
    """What a reference holds."""
    from dataclasses import asdict

    from .flows.single import open_reference

    info = asdict(open_reference(name, ()).info)
    if as_json:
        typer.echo(json.dumps(info, indent=2))
    else:
        for key, value in info.items():
            typer.echo(f"{key:12} {value}")


@reference_app.command("build")
def reference_build(
    table: Annotated[Path, typer.Argument(help="Structure table (Parquet).")],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file of facts and fingerprints.")],
) -> None:
    """Make a table of facts and fingerprints, without structures, from a structure table."""
    from .flows.single import build_embedded

    typer.echo(build_embedded(table, out, console=_console()))


@reference_app.command("fetch")
def reference_fetch(
    chemsys: Annotated[str, typer.Argument(help="Elements, for example Li-Mn-O.")],
    thermo_type: Annotated[
        ThermoTypeName, typer.Option(help="Whose energies: PBE with PBE+U, or r2SCAN.")
    ] = ThermoTypeName.GGA,
    up_to: Annotated[
        int | None,
        typer.Option(min=1, max=9, help="Only systems of so many of the elements; needed for over 9."),
    ] = None,
) -> None:
    """Fetch chemical systems from the Materials Project into the cache (needs MP_API_KEY)."""
    from .core.elements import parse_elements
    from .flows.fetch import fetch

    typer.echo(fetch(parse_elements(chemsys), thermo_type.value, up_to))


@app.command()
def doctor(
    nodes: Annotated[
        bool,
        typer.Option(
            "--nodes", help="Look at the cluster's nodes too: a small job for each stage of its file."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check what is installed and what is missing, and say what to do about it."""
    from .flows.doctor import checks, show

    found = checks()
    if nodes:
        from .core.settings import load_settings
        from .flows.doctor_nodes import node_checks

        found += node_checks(load_settings(), found)
    if as_json:
        typer.echo(json.dumps([check.as_dict() for check in found], indent=2))
    else:
        show(found, _console(stderr=False))
    if any(check.level == "fail" for check in found):
        raise typer.Exit(ExitCode.MISSING)


# --- helpers -------------------------------------------------------------------------------------


def _console(*, stderr: bool = True) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _must_exist(paths: list[Path]) -> None:
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}")


def _open(folder: Path) -> tuple[Ledger, Campaign]:
    from .core.settings import load_settings
    from .flows.build import reopen

    return reopen(folder, load_settings())


def main() -> NoReturn:
    """Entry point: one clear message per error, and an exit code that means something."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Unicode shows "?" and goes on
            stream.reconfigure(errors="replace")
    try:
        # Without its standalone mode, typer returns the code of `typer.Exit` instead of exiting.
        code = app(standalone_mode=False)
    except HeliodorError as error:
        if _state["debug"]:
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # an impatient second one finds us leaving
            signal.signal(number, signal.SIG_IGN)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        sys.exit(ExitCode.OK)
    except OSError as error:
        if _state["debug"]:
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(ExitCode.STORAGE)
    except Exception as error:
        usage = getattr(error, "exit_code", None)  # click's own errors: usage, abort
        if usage is None or not hasattr(error, "show"):
            if _state["debug"]:
                raise
            typer.secho(f"error: {type(error).__name__}: {error}", err=True, fg="red")
            typer.secho("  -> this is a fault of ours; --debug shows where", err=True)
            sys.exit(ExitCode.ERROR)
        error.show()
        sys.exit(usage)
    sys.exit(code or ExitCode.OK)


if __name__ == "__main__":
    main()
