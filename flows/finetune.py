"""A property adapter from a table of labelled crystals: `heliodor finetune`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, StorageError
from ..core.settings import load_settings
from .stopping import stop_on_signals

if TYPE_CHECKING:
    from rich.console import Console

    from ..generators.diffusion.data import Packed
    from ..generators.diffusion.train import Progress


def finetune(
    table: Path,
    label: str,
    out: Path,
    *,
    weights: Path | None = None,
    minutes: float = 10.0,
    device: str = "cpu",
    max_atoms: int = 20,
    console: Console,
) -> dict[str, Any]:
    """Fine-tune the base model on one numeric column of a table; writes the best adapter to `out`.

    The state stays in a folder beside `out`: the same command goes on where it was stopped, and with
    more minutes where it ended.

    Args:
        table: Parquet, as `generators.diffusion.data.read_table` takes it.
        label: the column. weights: of the base; None: those that ship.
        minutes: of training in all.
        device: "auto", "cpu" or "cuda".
        max_atoms: larger primitive cells are left out.

    Returns:
        `out`, `label`, `held_out` (losses), `crystals`, `range`, `stopped`, and all of it as `message`.

    Raises:
        InputError: the table, the label, the weights or the device cannot be used, or the folder holds
            another fine-tuning. MissingError: torch is not installed. StorageError: no room.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write an adapter to {out}", hint="name it NAME.safetensors")
    if not 0 < minutes < float("inf"):
        raise InputError(f"minutes: got {minutes:g}, must be positive")
    from ..generators.diffusion.generator import pick_device

    device = pick_device(device)
    from ..generators.diffusion.adapter_training import ADAPTER, AdapterSettings, AdapterTrainer
    from ..generators.diffusion.checkpoint import load_process
    from ..generators.diffusion.weights import default_weights

    process, card = load_process(weights or default_weights(), device)
    packed = _packed(table, label, max_atoms, console)
    folder = out.with_suffix(".training")
    settings = AdapterSettings(minutes=minutes)
    trainer = AdapterTrainer(folder, packed, label, process, card.sha256, settings, device)
    with stop_on_signals() as stop, _line(console, label, minutes) as show:
        for progress in trainer.run():
            show(progress)
            if stop.is_set():
                trainer.save()
                break
    if trainer.best:
        _copy(folder / ADAPTER, out)
    scale = trainer.adapter.scale
    summary = {
        "out": str(out) if trainer.best else None,
        "label": label,
        "held_out": trainer.best,
        "crystals": len(trainer.train.labels),
        "range": (scale.low, scale.high),
        "minutes": round(trainer.seconds / 60, 2),
        "stopped": trainer.done < 1,
    }
    return summary | {"message": _message(summary)}


def _packed(table: Path, label: str, max_atoms: int, console: Console) -> Packed:
    """The crystals made ready; the label is looked at first, for reducing cells takes a while."""
    from ..generators.diffusion.adapter_training import check_label
    from ..generators.diffusion.data import packed, read_table

    rows = read_table(table)
    numeric = rows.select_dtypes("number")
    check_label({str(c): numeric[c].to_numpy(float, na_value=float("nan")) for c in numeric}, label)
    settings = load_settings()
    with console.status("reading the crystals"):
        return packed(
            table, max_atoms=max_atoms, cache=settings.cache / "packed", workers=settings.workers
        )


@contextmanager
def _line(console: Console, label: str, minutes: float) -> Iterator[Callable[[Progress], None]]:
    """A line of progress; without a terminal, one is printed at each look at what is held out."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("fine-tuning on {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(label, total=minutes, said="")
        judged = ""

        def show(p: Progress) -> None:
            nonlocal judged
            if p.held_out:
                judged = f"; held out {p.held_out['true']:.3f}, wrong label {p.held_out['wrong']:.3f}"
            said = f"{p.minutes:.1f}/{minutes:g} min, loss {p.losses['loss']:.3f}{judged}, "
            said += f"{p.crystals_per_second:.0f} crystals/s"
            bars.update(task, completed=p.minutes, said=said)
            if p.held_out and not console.is_terminal:
                console.print(f"{label}: {said}", highlight=False, markup=False, soft_wrap=True)

        yield show


def _copy(best: Path, out: Path) -> None:
    from ..core.files import partial_of

    partial = partial_of(out)
    try:
        shutil.copyfile(best, partial)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {out}: {error}", hint=f"the adapter is in {best}") from error


def _message(summary: dict[str, Any]) -> str:
    if summary["out"] is None:
        return "stopped before the first look at the crystals held out; run the same command to go on"
    found, (low, high) = summary["held_out"], summary["range"]
    gain = found["wrong"] - found["true"]
    said = (
        f"wrote {summary['out']}: {summary['label']} from {low:.4g} to {high:.4g}, "
        f"{summary['crystals']} crystals. Held-out loss {found['true']:.4f} with the true value, "
        f"{found['none']:.4f} without, {found['wrong']:.4f} with a wrong one"
    )
    if gain < 2 * found["error"]:
        said += ": it has not learned to use the value; more crystals or minutes may help"
    if summary["stopped"]:
        said += ". Stopped early: run the same command to go on"
    return said


__all__ = ["finetune"]
