"""Commands on tables of crystals: `heliodor dedupe`, `heliodor split` and `heliodor xrd`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .core.errors import ExitCode, InputError

Paths = Annotated[
    list[Path],
    typer.Argument(help="Structure tables (Parquet), or any crystal files.", metavar="TABLE..."),
]
Composition = Annotated[
    float | None, typer.Option(help="Near: composition features differ by less (0.1 is a start).")
]
Structure = Annotated[
    float | None, typer.Option(help="Near: scaled AMD vectors differ by less (0.05 is a start).")
]
Same = Annotated[bool, typer.Option("--same", help="Near: the same by the structure matcher.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class GroupBy(StrEnum):
    """What crystals of one group share."""

    CHEMSYS = "chemsys"
    FORMULA = "formula"
    PROTOTYPE = "prototype"
    ELEMENT = "element"


class Format(StrEnum):
    """Kinds of table that a split writes."""

    PARQUET = "parquet"
    EXTXYZ = "extxyz"


class CellFreedom(StrEnum):
    """What of the cell may vary."""

    FIXED = "fixed"
    ISOTROPIC = "isotropic"
    FREE = "free"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(dedupe)
    app.command()(split)
    app.command()(xrd)


def dedupe(
    tables: Paths,
    out: Annotated[Path, typer.Option("--out", help="The table to write: .parquet or .extxyz.")],
    composition_threshold: Composition = None,
    structure_threshold: Structure = None,
    same: Same = False,
    order_by: Annotated[
        str | None,
        typer.Option(help="Column, for example e_above_hull: the lowest is kept. Empty: as read."),
    ] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Drop nothing: write all rows with a column 'kept'.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep a crystal iff no kept crystal is near; without a threshold, drop exact duplicates."""
    from rich.console import Console

    from .flows.criterion import Criterion
    from .flows.dedupe import dedupe as flow

    _must_exist(tables)
    exact = same or (composition_threshold is None and structure_threshold is None)
    criterion = Criterion(composition_threshold, structure_threshold, exact)
    result = flow(tables, out, criterion, order_by=order_by, mark=mark, console=Console(stderr=True))
    _say(result, as_json=as_json)


def split(
    tables: Paths,
    out: Annotated[Path, typer.Option("--out", help="Folder of train, validation and test tables.")],
    composition_threshold: Composition = None,
    structure_threshold: Structure = None,
    same: Same = False,
    by: Annotated[GroupBy | None, typer.Option(help="Keep whole groups together.")] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="With --by: a group that is the test set, for example Li-O; repeatable."),
    ] = None,
    validation: Annotated[float, typer.Option(help="Fraction of the validation set.")] = 0.1,
    test: Annotated[float, typer.Option(help="Fraction of the test set.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same split.")] = 0,
    gap: Annotated[
        bool,
        typer.Option(
            "--gap", help="Where all hangs together: cut, and leave out what is too near to the cut."
        ),
    ] = False,
    format_: Annotated[Format, typer.Option("--format", help="Kind of the tables.")] = Format.PARQUET,
    as_json: Json = False,
) -> None:
    """Split into training, validation and test tables so that no near crystals are torn apart."""
    from rich.console import Console

    from .flows.criterion import Criterion
    from .flows.split import SplitOptions
    from .flows.split import split as flow
    from .validators.splits import By, Fractions

    _must_exist(tables)
    options = SplitOptions(
        Criterion(composition_threshold, structure_threshold, same),
        By(by.value) if by else None,
        Fractions(validation, test),
        seed,
        tuple(hold_out or ()),
        gap,
        f".{format_.value}",
    )
    result = flow(tables, out, options, console=Console(stderr=True))
    _say(result, as_json=as_json)
    if not result["promise_kept"]:
        raise typer.Exit(ExitCode.ERROR)


def xrd(
    crystals: Annotated[list[Path], typer.Argument(help="Files, folders or zip archives of crystals.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the tables and plots.")],
    pattern: Annotated[
        Path | None,
        typer.Option(help="Measured pattern: two theta and intensity (.xy, .xye, .csv, .dat)."),
    ] = None,
    radiation: Annotated[
        str, typer.Option(help="CuKa, MoKa, CoKa, ..., or a wavelength in angstrom.")
    ] = "CuKa",
    two_theta: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Degrees. Empty: of the pattern, or 5:90."),
    ] = None,
    fwhm: Annotated[float, typer.Option(help="Width of simulated peaks, degrees.")] = 0.1,
    mixing: Annotated[float, typer.Option(help="Lorentzian share of simulated peaks.")] = 0.5,
    symprec: Annotated[float, typer.Option(help="Symmetry tolerance, angstrom.")] = 0.01,
    cell: Annotated[
        CellFreedom, typer.Option(help="What may vary: nothing, the volume, or the crystal system's.")
    ] = CellFreedom.FREE,
    max_strain: Annotated[float, typer.Option(help="Largest strain, as a fraction.")] = 0.03,
    max_zero: Annotated[float, typer.Option(help="Largest zero shift, degrees.")] = 0.2,
    as_json: Json = False,
) -> None:
    """Simulate powder patterns; with --pattern, rank crystals by how well they explain it."""
    from rich.console import Console

    from .flows.xrd import XrdOptions, rank, show, simulate
    from .validators.powder_match import Cell, Limits

    _must_exist(crystals if pattern is None else [*crystals, pattern])
    options = XrdOptions(
        radiation,
        _range(two_theta) if two_theta else None,
        fwhm,
        mixing,
        symprec,
        Limits(Cell(cell.value), max_strain, max_zero),
    )
    console = Console(stderr=True)
    if pattern is None:
        _say(simulate(crystals, out, options, console=console), as_json=as_json)
        return
    result = rank(crystals, pattern, out, options, console=console)
    if not as_json:
        show(result, Console())
    _say(result, as_json=as_json)


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise InputError(
            f"--two-theta {text!r}: not LOW:HIGH", hint="for example --two-theta 10:80"
        ) from error


def _must_exist(paths: list[Path]) -> None:
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}")


def _say(result: dict[str, Any], *, as_json: bool) -> None:
    typer.echo(json.dumps(result) if as_json else result["message"])
