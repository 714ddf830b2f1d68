"""Commands that make models: `heliodor train`, `heliodor finetune` and `heliodor train-synthesis`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .core.errors import ExitCode, InputError


class Size(StrEnum):
    """Networks by name."""

    TINY = "tiny"
    SMALL = "small"
    BASE = "base"
    LARGE = "large"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Energies(StrEnum):
    """Potentials that a judge may use."""

    CHGNET = "chgnet"
    SEVENNET = "sevennet"
    NONE = "none"


Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DeviceOption = Annotated[Device, typer.Option(help="auto: the GPU where there is one.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(train)
    app.command()(finetune)
    app.command()(train_synthesis)


def train(
    tables: Annotated[
        list[Path], typer.Argument(help="Structure tables (Parquet).", metavar="TABLE...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the weights, the log and the state.")],
    minutes: Annotated[float, typer.Option(help="Minutes of training, in all.")] = 60.0,
    stage_minutes: Annotated[
        float | None, typer.Option(help="Pause this run after so long; the same command goes on.")
    ] = None,
    size: Annotated[
        Size | None, typer.Option(help="Size of the network. Empty: small on a CPU, base on a GPU.")
    ] = None,
    max_energy_above_hull: Annotated[
        float | None, typer.Option(help="Keep rows whose e_above_hull (eV/atom) is at most this.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    batch: Annotated[int | None, typer.Option(min=1, help="Crystals a step; empty: by device.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same start and same draws.")] = 0,
    judge_every: Annotated[
        float | None, typer.Option(help="Minutes between judgings; empty: a tenth of --minutes.")
    ] = None,
    judge_samples: Annotated[int, typer.Option(min=1, help="Crystals drawn for each judging.")] = 200,
    judge_energy: Annotated[
        Energies, typer.Option(help="Potential for the judge's energies, or none.")
    ] = Energies.CHGNET,
    as_json: Json = False,
) -> None:
    """Train a diffusion model, or go on with one; keeps the weights whose crystals are best."""
    from rich.console import Console

    from .flows.train import TrainOptions
    from .flows.train import train as flow

    chosen: Any = size.value if size else None  # the enumerations have the names of the options
    place: Any = device.value
    energy: Any = judge_energy.value
    result = flow(
        tables,
        out,
        TrainOptions(
            minutes=minutes,
            size=chosen,
            device=place,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
            max_energy_above_hull=max_energy_above_hull,
            judge_every=judge_every,
            judge_samples=judge_samples,
            judge_energy=energy,
        ),
        console=Console(stderr=True),
        for_minutes=stage_minutes,
        resume=shlex.join(["heliodor", *sys.argv[1:]]),
    )
    typer.echo(json.dumps(result) if as_json else result["message"])


def finetune(
    table: Annotated[Path, typer.Argument(help="Structure table (Parquet) with the property's column.")],
    label: Annotated[str, typer.Option("--property", help="The column, for example bulk_modulus.")],
    out: Annotated[Path, typer.Option("--out", help="The adapter to write (.safetensors).")],
    weights: Annotated[
        Path | None, typer.Option(help="The model to steer; empty: the one that ships.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 10.0,
    device: DeviceOption = Device.AUTO,
    max_atoms: Annotated[int, typer.Option(min=1, help="Larger cells are left out.")] = 20,
    as_json: Json = False,
) -> None:
    """Teach a model a property, so that crystals can be asked for by its value."""
    from rich.console import Console

    from .flows.finetune import finetune as flow

    if not table.is_file():
        raise InputError(f"no such file: {table}")
    result = flow(
        table,
        label,
        out,
        weights=weights,
        minutes=minutes,
        device=device.value,
        max_atoms=max_atoms,
        console=Console(stderr=True),
    )
    typer.echo(json.dumps(result) if as_json else result["message"])
    if result["stopped"]:
        raise typer.Exit(ExitCode.INTERRUPTED)


def train_synthesis(
    tables: Annotated[
        list[Path], typer.Argument(help="Crystals that were made: tables or files.", metavar="TABLE...")
    ],
    out: Annotated[Path, typer.Option("--out", help="The model to write (.npz).")],
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Crystals of which nobody knows, such as generated ones; repeatable."),
    ] = None,
    hypothetical: Annotated[
        float, typer.Option(help="Hypothetical compositions of each of five kinds, per known one.")
    ] = 0.4,
    bags: Annotated[int, typer.Option(help="Forests of the model.")] = 8,
    trees: Annotated[int, typer.Option(help="Trees of each forest.")] = 80,
    folds: Annotated[int, typer.Option(help="Parts by chemical system, each left out once.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and data, same model.")] = 0,
    as_json: Json = False,
) -> None:
    """Learn which compositions are like known ones; measured on chemical systems left out."""
    from rich.console import Console

    from .flows.synthesis import SynthesisOptions
    from .flows.synthesis import train_synthesis as flow
    from .validators.boosting import Settings
    from .validators.synthesis_training import TrainingOptions

    training = TrainingOptions(bags=bags, folds=folds, seed=seed, forest=Settings(trees=trees))
    result = flow(
        tables,
        out,
        SynthesisOptions(hypothetical, training),
        unlabelled=unlabelled or (),
        console=Console(stderr=True),
    )
    typer.echo(json.dumps(result) if as_json else result["message"])
