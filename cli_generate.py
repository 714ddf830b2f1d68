"""The command `heliodor generate`: what to make, and how the diffusion model is told."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .core.errors import InputError, MissingError

if TYPE_CHECKING:
    from .core.campaign import Campaign
    from .flows.rank import Ranker

MAKE, MODEL, RANK = "What to make", "Diffusion model", "Ranking"


class Potential(StrEnum):
    """Potentials that rank."""

    CHGNET = "chgnet"
    SEVENNET = "sevennet"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(generate)


def generate(
    out: Annotated[
        Path, typer.Option("--out", help=".extxyz, .json, .cif, .zip or a new folder of CIFs.")
    ],
    generator: Annotated[str, typer.Option(help="diffusion, substitution or random.")] = "diffusion",
    n: Annotated[int, typer.Option("-n", min=1, help="How many crystals.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same crystals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    chemsys: Annotated[
        str | None,
        typer.Option(rich_help_panel=MAKE, help="Elements, for example Li-Mn-O; any where not given."),
    ] = None,
    formula: Annotated[
        str | None,
        typer.Option(rich_help_panel=MAKE, help="One formula, for example LiFePO4; then ranked."),
    ] = None,
    subsystems: Annotated[
        bool, typer.Option(rich_help_panel=MAKE, help="Also crystals with only some of the elements.")
    ] = False,
    n_elements: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=MAKE, help="Exact number of elements.")
    ] = None,
    min_atoms: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=MAKE, help="Smallest primitive cell (1).")
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=MAKE, help="Largest cell (20).")
    ] = None,
    spacegroup: Annotated[
        list[int] | None,
        typer.Option(rich_help_panel=MAKE, help="Space group, 1 to 230; may be repeated."),
    ] = None,
    crystal_system: Annotated[
        str | None, typer.Option(rich_help_panel=MAKE, help="triclinic, monoclinic, ... cubic.")
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="NAME=VALUE|LOW:HIGH",
            rich_help_panel=MAKE,
            help="Steer towards a property; may be repeated.",
        ),
    ] = None,
    planar: Annotated[
        str | None,
        typer.Option(
            metavar="LATTICE:ELEMENT[:BOND_LENGTH]",
            rich_help_panel=MAKE,
            help="Hold a planar lattice of one element, for example kagome:V.",
        ),
    ] = None,
    around: Annotated[
        list[Path] | None,
        typer.Option(rich_help_panel=MAKE, help="Explore around the crystals of a file."),
    ] = None,
    level: Annotated[
        float | None, typer.Option(rich_help_panel=MAKE, help="How far around, in (0, 1] (0.5).")
    ] = None,
    keep_elements: Annotated[
        bool, typer.Option("--keep-elements", rich_help_panel=MAKE, help="Around: keep the elements.")
    ] = False,
    any_charge: Annotated[
        bool,
        typer.Option(
            "--any-charge",
            rich_help_panel=MAKE,
            help="Also compositions that no oxidation states balance.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(rich_help_panel=MODEL, help="A checkpoint, in place of the one that ships."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL, help="fast (the default), or quality: three times the steps."
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(rich_help_panel=MODEL, help="Weight of the properties (2).")
    ] = None,
    no_symmetry: Annotated[
        bool, typer.Option("--no-symmetry", rich_help_panel=MODEL, help="Impose no space group.")
    ] = False,
    symmetrize: Annotated[
        bool,
        typer.Option(
            "--symmetrize",
            rich_help_panel=MODEL,
            help="Refine to the space group found at 0.1 angstrom.",
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(rich_help_panel=MODEL, help="auto (the default), cpu or cuda.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=MODEL, help="Crystals side by side; by default as suits the device."
        ),
    ] = None,
    rank: Annotated[
        bool | None,
        typer.Option(
            "--rank/--no-rank",
            rich_help_panel=RANK,
            help="Relax, merge and rank what was made; the default with --formula.",
        ),
    ] = None,
    relaxer: Annotated[
        Potential, typer.Option(rich_help_panel=RANK, help="Potential to rank by.")
    ] = Potential.CHGNET,
) -> None:
    """Propose crystals and write them as they come."""
    from rich.console import Console

    from .flows.generate import generate_to_file, request

    options: dict[str, Any] = {
        "weights": str(weights) if weights else None,
        "mode": mode,
        "symmetric": False if no_symmetry else None,
        "symmetrize": symmetrize or None,
        "spacegroups": tuple(spacegroup or ()),
        "crystal_system": crystal_system,
        "min_atoms": min_atoms,
        "n_elements": n_elements,
        "charge_balanced": False if any_charge else None,
        "properties": parse_properties(properties or []),
        "guidance": guidance,
        "planar": parse_planar(planar) if planar else None,
        "around": _around(around, level, keep_elements=keep_elements),
        "batch": batch,
        "device": device,
    }
    if guidance is not None and not properties:
        raise InputError("--guidance weighs properties: give --property NAME=VALUE with it")
    space = {
        "elements": chemsys,
        "formula": formula,
        "max_atoms": max_atoms,
        "subsystems": subsystems,
    }
    campaign = request(generator, options, space, relaxer.value)
    ranker, note = _ranker(rank, campaign, wanted=formula is not None)
    console = Console(stderr=True)
    made = generate_to_file(out, campaign, n=n, seed=seed, keep=ranker is not None, console=console)
    if not as_json:
        typer.echo(made.message() + note)
    ranking = ranker(made.candidates, out, console) if ranker and made.candidates else None
    if as_json:
        typer.echo(json.dumps(made.as_dict() | (ranking.as_dict() if ranking else {})))
    elif ranking:
        from .flows.rank import show_ranking

        show_ranking(ranking, Console())


def parse_properties(texts: list[str]) -> dict[str, float | tuple[float, float]]:
    """Targets by property, from NAME=VALUE and NAME=LOW:HIGH.

    Raises:
        InputError: not of that form, not a number, or a property twice.
    """
    found: dict[str, float | tuple[float, float]] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.rpartition("="))
        low, colon, high = value.partition(":")
        try:
            target = (float(low), float(high)) if colon else float(value)
        except ValueError as error:
            raise _malformed(text) from error
        ends = target if isinstance(target, tuple) else (target,)
        if not name or any(end != end for end in ends) or (colon and not ends[0] < ends[-1]):  # noqa: PLR0124
            raise _malformed(text)
        if name in found:
            raise InputError(f"--property {name} is given twice")
        found[name] = target
    return found


def _malformed(text: str) -> InputError:
    return InputError(
        f"--property {text!r}: not NAME=VALUE or NAME=LOW:HIGH with LOW below HIGH",
        hint="for example --property bulk_modulus=200 or --property bulk_modulus=150:250",
    )


def parse_planar(text: str) -> dict[str, Any]:
    """A planar lattice from LATTICE:ELEMENT[:BOND_LENGTH].

    Raises:
        InputError: not of that form.
    """
    parts = [part.strip() for part in text.split(":")]
    try:
        bond = float(parts[2]) if len(parts) == 3 else None
    except ValueError:
        parts = []
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(
            f"--planar {text!r}: not LATTICE:ELEMENT or LATTICE:ELEMENT:BOND_LENGTH",
            hint="for example --planar kagome:V or --planar kagome:V:2.7",
        )
    return {"lattice": parts[0], "element": parts[1], "bond_length": bond}


def _around(
    paths: list[Path] | None, level: float | None, *, keep_elements: bool
) -> dict[str, Any] | None:
    if not paths:
        if level is not None or keep_elements:
            raise InputError("--level and --keep-elements go with --around PATH")
        return None
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"--around: no such file or folder: {', '.join(missing)}")
    said = {} if level is None else {"level": level}
    return {"paths": [str(path) for path in paths], "keep_elements": keep_elements, **said}


def _ranker(rank: bool | None, campaign: Campaign, *, wanted: bool) -> tuple[Ranker | None, str]:
    """What ranks, and what to say where nothing does though it would be good to."""
    from .flows.rank import Ranker

    if rank is False or (rank is None and not wanted):
        return None, ""
    try:
        return Ranker(campaign.relaxer), ""
    except MissingError as error:
        if rank:
            raise
        return None, f"\nnot ranked: {error}"
