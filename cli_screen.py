"""The command `heliodor screen`: which crystals, and how they are judged and counted."""

from __future__ import annotations

import logging
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .core.errors import ExitCode, InputError

if TYPE_CHECKING:
    from .flows.screen import ScreenOptions

POTENTIALS = ("chgnet", "sevennet", "sevennet-mf-pbe", "sevennet-mf-r2scan", "none")


class ProtocolName(StrEnum):
    """Whose settings and counting rules."""

    HELIODOR = "heliodor"
    MATTERGEN = "mattergen"
    LEMAT = "lemat"


class EnergiesName(StrEnum):
    """Where the energies of the known phases come from."""

    REFERENCE = "reference"
    OWN = "own"


class DisorderName(StrEnum):
    """What becomes of partly occupied sites."""

    REJECT = "reject"
    ORDER = "order"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(screen)


def screen(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders or zip archives of crystals.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")],
    protocol: Annotated[
        ProtocolName, typer.Option(help="Whose settings and counting rules.")
    ] = ProtocolName.HELIODOR,
    potential: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(POTENTIALS)}; the first relaxes, further ones give second opinions."
        ),
    ] = None,
    relaxer: Annotated[str | None, typer.Option(help="The first potential.", hidden=True)] = None,
    reference: Annotated[
        str, typer.Option(help="embedded, mp, or a file of structures with energies.")
    ] = "embedded",
    energies: Annotated[
        EnergiesName, typer.Option(help="own: the reference's energies by the potential.")
    ] = EnergiesName.REFERENCE,
    disorder: Annotated[DisorderName, typer.Option(help="Partly occupied sites.")] = DisorderName.REJECT,
    scores: Annotated[bool, typer.Option(help="The columns beside the verdicts.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Judge crystals from anywhere: one row per crystal, then totals with intervals."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}")
    potentials = _potentials(potential or [], relaxer)
    from .flows.terminal import conduct, prepare_prefect
    from .flows.totals import show_summary

    prepare_prefect(verbose=logging.getLogger("heliodor").isEnabledFor(logging.DEBUG))
    from .flows.screen import ScreenOptions, screening
    from .flows.screen import screen as flow

    options = ScreenOptions(
        cast("Any", potentials),  # `_potentials` has checked the names
        reference,
        energies.value,
        protocol.value,
        disorder.value,
        scores,
    )
    names = [str(path) for path in paths]

    def body() -> dict[str, Any]:
        result: Any = flow(names, str(out.absolute()), options)
        return dict(result)

    summary = conduct(screening(names, options), out, _resume(names, out, options), body)
    show_summary(summary, out, as_json=as_json)
    if not summary["read"]:
        typer.secho("error: nothing was judged: no entry holds a crystal", err=True, fg="red")
        raise typer.Exit(ExitCode.ERROR)


def _potentials(given: list[str], relaxer: str | None) -> tuple[str, ...]:
    """The potentials, the relaxer first.

    Raises:
        InputError: an unknown name, one named twice, or "none" beside others.
    """
    names = tuple(dict.fromkeys([*([relaxer] if relaxer else []), *given])) or ("chgnet",)
    for name in names:
        if name not in POTENTIALS:
            raise InputError(f"--potential: got {name!r}; known: {', '.join(POTENTIALS)}")
    if "none" in names and len(names) > 1:
        raise InputError(
            "--potential none: judges crystals as they are, without energies, and goes with no other"
        )
    return names


def _resume(names: list[str], out: Path, options: ScreenOptions) -> str:
    """The command that goes on."""
    words = ["heliodor", "screen", *names, "--out", str(out), "--protocol", options.protocol]
    for name in options.potentials:
        words += ["--potential", name]
    words += ["--reference", options.reference, "--energies", options.energies]
    words += ["--disorder", options.disorder, "--scores" if options.scores else "--no-scores"]
    return shlex.join(words)
