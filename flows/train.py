"""`heliodor train`: a diffusion model of one's own, judged while it trains by what it is for."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..core.crystal import Crystal
from ..core.errors import InputError, StorageError, missing_extra
from ..core.records import Candidate, Conditions, Failure
from ..core.settings import load_settings
from .judge import Judge, Propose, low_energy
from .stopping import stop_on_signals
from .train_log import Display, say
from .train_run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from ..generators.diffusion.data import Packed
    from ..generators.diffusion.train import Trainer

TEMPLATES = "templates.npz"
SIZES = {  # width, depth, heads, pair
    "tiny": (64, 3, 4, 32),  # 0.3 M parameters: to try things out
    "small": (192, 6, 8, 64),  # 4 M: an hour of one CPU core
    "base": (256, 8, 8, 48),  # 8 M: a GPU
    "large": (384, 12, 12, 64),  # 26 M
}
_ABOVE_HULL = "e_above_hull"


@dataclass(frozen=True)
class TrainOptions:
    """How to train; what is empty follows from the device."""

    minutes: Annotated[
        float,
        Field(gt=0, description="Of training, in all runs that resume one another, without judging."),
    ] = 60.0
    size: Annotated[
        Literal["tiny", "small", "base", "large"] | None,
        Field(description="Of the network. Empty: small on a CPU, base on a GPU."),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto: the GPU where there is one.")
    ] = "auto"
    batch: Annotated[
        int | None, Field(ge=1, description="Crystals a step. Empty: 128 on a CPU, 1024 on a GPU.")
    ] = None
    learning_rate: Annotated[float, Field(gt=0, description="The largest.")] = 1e-3
    seed: Annotated[int, Field(ge=0, description="Same seed, same start and same draws.")] = 0
    max_energy_above_hull: Annotated[
        float | None,
        Field(description="Leave out rows with a higher e_above_hull (eV/atom), or none."),
    ] = None
    judge_every: Annotated[
        float | None,
        Field(gt=0, description="Minutes of training between judgings. Empty: a tenth of all."),
    ] = None
    judge_samples: Annotated[int, Field(ge=1, description="Crystals drawn for each judging.")] = 200
    judge_energy: Annotated[
        Literal["chgnet", "sevennet", "none"], Field(description="Potential of the judge.")
    ] = "chgnet"


def train(
    tables: Sequence[Path],
    out: Path,
    options: TrainOptions,
    *,
    console: Console,
    for_minutes: float | None = None,
    resume: str = "the same command",
    progress: Callable[[float, float], None] = lambda _done, _all: None,
) -> dict[str, Any]:
    """Train on structure tables, or go on where `out` stands.

    `out` receives model.safetensors (the best by the judge's score), last.safetensors, templates.npz
    (what the crystals' symmetry is drawn from), log.csv and the state for resuming.

    Args:
        for_minutes: this run ends after so long, reading the tables included; the next one goes on.
        resume: the command that does, for the message.
        progress: told how many minutes of how many have been trained.

    Raises:
        InputError: bad options, tables or state, before any work. MissingError: no torch, no GPU.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved.
    """
    begun = time.monotonic()
    device = _checked(tables, options, for_minutes)
    whole, chosen = _read(tables, options.max_energy_above_hull, console)
    with stop_on_signals() as stop:
        trainer = _trainer(out, chosen, options, device)
        _keep_templates(chosen, out)
        judge = Judge(
            _proposer(device),
            known_crystals(whole),
            options.judge_samples,
            low_energy(options.judge_energy, device, load_settings().workers),
        )
        _tell(trainer, judge, options, device, console)
        until = None if for_minutes is None else begun + 60 * for_minutes
        every = options.judge_every or options.minutes / 10
        with Display(console) as display:
            run = Run(trainer, judge, every, display, stop, until, progress)
            ended = run.go()
    summary = run.summary(ended)
    if ended == "stopped":
        say(console, f"stopped at step {trainer.step:,}; nothing is lost. Go on with: {resume}")
        raise KeyboardInterrupt
    if ended == "paused":
        summary["message"] += f". Go on with: {resume}"
    return summary


# --- before the work -----------------------------------------------------------------------------


def _checked(tables: Sequence[Path], options: TrainOptions, for_minutes: float | None) -> str:
    """The device, once everything that can be wrong with the options has been looked at."""
    for name in ("torch", "safetensors"):
        if find_spec(name) is None:
            raise missing_extra(name, "diffusion")
    if not tables:
        raise InputError("no table of crystals", hint="give one or more Parquet files")
    absent = [str(path) for path in tables if not path.is_file()]
    if absent:
        raise InputError(f"no such file: {', '.join(absent)}")
    if options.size is not None and options.size not in SIZES:
        raise InputError(f"size: '{options.size}'; known: {', '.join(SIZES)}")
    if options.judge_energy not in ("chgnet", "sevennet", "none"):
        raise InputError(f"judge_energy: '{options.judge_energy}'; chgnet, sevennet or none")
    limits = {
        "minutes": options.minutes,
        "stage_minutes": for_minutes,
        "judge_every": options.judge_every,
        "learning_rate": options.learning_rate,
        "batch": options.batch,
        "judge_samples": options.judge_samples,
    }
    for name, value in limits.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name}: got {value}, must be above 0")
    if options.seed < 0:
        raise InputError(f"seed: got {options.seed}, must not be negative")
    if options.max_energy_above_hull is not None:
        for path in tables:
            _check_column(path)
    from ..generators.diffusion.generator import pick_device

    device = pick_device(options.device)
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)  # more are slower for networks of this size
    return device


def _check_column(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path} as a Parquet table: {error}") from error
    if _ABOVE_HULL not in names:
        raise InputError(
            f"{path} has no column {_ABOVE_HULL}, which --max-energy-above-hull needs",
            hint="leave the option or the table out",
        )


def _read(tables: Sequence[Path], limit: float | None, console: Console) -> tuple[Packed, Packed]:
    """All crystals of the tables, and those to train on."""
    from ..generators.diffusion.data import concatenate, packed

    settings = load_settings()
    parts = []
    for path in tables:
        with console.status(f"reading {path.name}") as status:

            def show(done: int, rows: int, name: str = path.name, status: Any = status) -> None:
                status.update(f"reading {name}: {done:,} of {rows:,} crystals")

            cache = settings.cache / "packed"
            parts.append(packed(path, cache=cache, workers=settings.workers, progress=show))
    whole = parts[0] if len(parts) == 1 else concatenate(parts)
    chosen = whole
    if limit is not None:
        above = whole.labels.get(_ABOVE_HULL)
        if above is None or not (above <= limit).any():
            raise InputError(f"no crystal has {_ABOVE_HULL} at most {limit} eV/atom")
        chosen = select(whole, above <= limit)
    left = ", ".join(f"{n:,} {reason}" for reason, n in whole.skipped.items())
    within = (
        f"; {len(chosen):,} of them within {limit} eV/atom of the hull" if chosen is not whole else ""
    )
    say(console, f"{len(whole):,} crystals{f' (left out: {left})' if left else ''}{within}")
    return whole, chosen


def select(packed: Packed, mask: NDArray[np.bool_]) -> Packed:
    """The crystals of `mask` (m,); another choice has another digest."""
    content = packed.digest.encode() + np.packbits(mask).tobytes()
    arrays = {f.name: getattr(packed, f.name) for f in fields(packed)}
    kept: dict[str, Any] = {k: a[mask] for k, a in arrays.items() if isinstance(a, np.ndarray)}
    labels = {name: label[mask] for name, label in packed.labels.items()}
    return replace(packed, **kept, labels=labels, digest=hashlib.sha256(content).hexdigest())


def known_crystals(packed: Packed) -> Iterable[tuple[str, Crystal]]:
    """(id, crystal) of each packed crystal."""
    import torch

    from ..generators.diffusion.lattice import cell_of

    channels = torch.as_tensor(packed.channels, dtype=torch.float64)
    cells = cell_of(channels, torch.as_tensor(packed.n)).numpy()
    for i, n in enumerate(packed.n):
        numbers = packed.numbers[i, :n].astype(np.int64)
        yield str(packed.ids[i]), Crystal(cells[i], packed.frac[i, :n].astype(np.float64), numbers)


def _trainer(out: Path, packed: Packed, options: TrainOptions, device: str) -> Trainer:
    from ..generators.diffusion.model import Shape
    from ..generators.diffusion.train import Settings, Trainer

    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file", hint="give a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {out}: {error}") from error
    cuda = device == "cuda"
    width, depth, heads, pair = SIZES[options.size or ("base" if cuda else "small")]
    settings = Settings(
        minutes=options.minutes,
        batch=options.batch or (1024 if cuda else 128),
        learning_rate=options.learning_rate,
        seed=options.seed,
        shape=Shape(width=width, depth=depth, heads=heads, pair=pair),
        compile=cuda,
    )
    return Trainer(out, packed, settings, device)


def _keep_templates(packed: Packed, out: Path) -> None:
    """The templates of the crystals trained on, beside the weights, where sampling looks for them."""
    from ..generators.diffusion.symmetry import TemplateLibrary

    trained = np.flatnonzero(~packed.held_out)
    library = TemplateLibrary.from_templates(packed.template(int(i)) for i in trained)
    library.save(out / TEMPLATES)


def _proposer(device: str) -> Propose:
    def propose(weights: Path, n: int, seed: int) -> Iterable[Crystal | Failure]:
        from ..generators.diffusion.generator import DiffusionGenerator, Sampling

        generator = DiffusionGenerator(weights, None, Sampling(device=device))
        for item in generator.generate(n, seed=seed, conditions=Conditions()):
            yield item.crystal if isinstance(item, Candidate) else item

    return propose


def _tell(trainer: Trainer, judge: Judge, options: TrainOptions, device: str, console: Console) -> None:
    count = sum(p.numel() for p in trainer.parameters) / 1e6
    say(console, f"{count:.1f} M parameters on {device}, {len(trainer.data):,} crystals to train on")
    if options.judge_energy != "none" and judge.energy is None:
        why = f"{options.judge_energy} is not installed: judging without energies"
        say(console, f"{why} (pip install 'heliodor[{options.judge_energy}]')")
    if trainer.step:
        at = f"step {trainer.step:,}, {trainer.seconds / 60:.1f} of {options.minutes:g} minutes"
        say(console, f"going on at {at}")
