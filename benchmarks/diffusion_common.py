"""What the benchmarks of the diffusion model share: arguments, the model, draws, and a table to keep."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one thread a process

import numpy as np
from crystals import DATA

from heliodor.core.crystal import Crystal
from heliodor.core.records import Candidate, Conditions
from heliodor.generators.diffusion.checkpoint import load_process
from heliodor.generators.diffusion.data import Packed, packed
from heliodor.generators.diffusion.generator import DiffusionGenerator, Sampling, pick_device
from heliodor.generators.diffusion.lattice import cell_of
from heliodor.generators.diffusion.request import Request
from heliodor.generators.diffusion.sampler import FAST, QUALITY, Steps
from heliodor.generators.diffusion.symmetry import TemplateLibrary
from heliodor.generators.diffusion.weights import TEMPLATES, default_weights
from heliodor.report.stats import wilson

STEPS: dict[str, Steps] = {"fast": FAST, "quality": QUALITY}
RESULTS = Path(__file__).parent / "results"


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser(description=doc)
    add = parser.add_argument
    add("--weights", type=Path, default=default_weights(), help="checkpoint of the base model")
    add("--templates", type=Path, default=TEMPLATES, help="library of templates (npz)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    add(
        "--out",
        type=Path,
        help=f"also write the table here; a bare name goes to {RESULTS.name}/NAME.txt",
    )
    return parser


@dataclass(frozen=True)
class Model:
    """A checkpoint with the templates that its crystals are drawn on."""

    weights: Path
    library: TemplateLibrary
    device: str

    @classmethod
    def of(cls, arguments: argparse.Namespace, weights: Path | None = None) -> Model:
        """The model that the arguments name; ends the program with a reason where there is none."""
        path = weights or arguments.weights
        for file in (path, arguments.templates):
            if not file.is_file():
                sys.exit(f"skipped: there is no {file}")
        return cls(path, TemplateLibrary.load(arguments.templates), pick_device(arguments.device))

    @cached_property
    def loaded(self):
        """(process, card), in double precision as the generator samples."""
        process, card = load_process(self.weights, self.device)
        return process.double(), card

    def generator(
        self, request: Request | None = None, sampling: Sampling | None = None
    ) -> DiffusionGenerator:
        """The generator as users have it."""
        return DiffusionGenerator(
            self.weights, request, sampling or Sampling(device=self.device), library=self.library
        )

    def facts(self) -> list[str]:
        """What the numbers depend on."""
        process, card = self.loaded
        parameters = sum(p.numel() for p in process.network.parameters())
        notes = ", ".join(f"{k} {v}" for k, v in (card.notes or {}).items())
        shape = ", ".join(f"{k} {v}" for k, v in card.shape.items())
        return [
            f"weights   {self.weights.name}, sha256 {card.sha256}",
            f"          {parameters / 1e6:.2f} M parameters ({shape})",
            (
                f"          trained {card.step:,} steps, {card.samples:,} crystals seen, "
                f"table {card.data[:12]}{', ' + notes if notes else ''}"
            ),
            f"templates {len(self.library):,} of {int(self.library.counts.sum()):,} crystals",
        ]


def draw(
    generator: DiffusionGenerator, conditions: Conditions, n: int, seed: int
) -> list[Crystal | None]:
    """`n` proposals; None where one failed."""
    items = generator.generate(n, seed=seed, conditions=conditions)
    return [item.crystal if isinstance(item, Candidate) else None for item in items]


def structure_table() -> Path:
    """The table of the Materials Project; ends the program with a reason where it is not there."""
    path = DATA / "materials_project.parquet"
    if not path.is_file():
        sys.exit(f"skipped: no structure table at {path}; set HELIODOR_TEST_DATA")
    return path


def packed_tables(paths: Sequence[Path], cache: Path | None) -> Packed:
    """Tables made ready; `cache` is a folder, or a packed file (.npz) to take instead."""
    if cache is not None and cache.suffix == ".npz":
        return Packed.load(cache)
    note(f"packing {', '.join(p.name for p in paths)}")
    return packed(list(paths), cache=cache)


def crystal_at(table: Packed, i: int) -> Crystal:
    """Crystal `i` of a packed table."""
    import torch

    n = int(table.n[i])
    channels = torch.as_tensor(table.channels[i].astype(np.float64))
    cell = cell_of(channels, torch.tensor(n)).numpy()
    return Crystal(cell, table.frac[i, :n].astype(np.float64), table.numbers[i, :n].astype(np.int64))


def normalised_rms(matcher, made: Crystal, known: Crystal) -> float | None:
    """RMS displacement in units of (volume per atom)^(1/3), or None where the two do not match."""
    from heliodor.core.convert import to_structure

    found = matcher.get_rms_dist(to_structure(made), to_structure(known))
    return None if found is None else float(found[0])


def spacing(*crystals: Crystal) -> float:
    """(Volume per atom)^(1/3) in angstrom of the crystal with the mean lengths and angles."""
    from pymatgen.core import Lattice

    mean = np.mean([Lattice(c.lattice).parameters for c in crystals], axis=0)
    return float((Lattice.from_parameters(*mean).volume / len(crystals[0])) ** (1 / 3))


def rate(count: int, n: int) -> str:
    """A share with its 95 % Wilson interval, in percent."""
    low, high = wilson(count, n)
    return f"{100 * count / n:5.1f} ({100 * low:4.1f} to {100 * high:4.1f})" if n else "-"


def percent(count: int, n: int) -> str:
    """A share in percent."""
    return f"{100 * count / n:.1f}" if n else "-"


def middle(values: Iterable[float | None], digits: int = 3) -> str:
    """Median and mean of the values that are there."""
    there = [v for v in values if v is not None]
    if not there:
        return "-"
    return f"{np.median(there):.{digits}f} / {np.mean(there):.{digits}f}"


def machine(device: str) -> str:
    """The machine and the versions that the numbers come from."""
    import torch

    cuda = device == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("heliodor", "torch", "pymatgen"))
    return (
        f"machine   {name}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads a process; "
        f"{versions}; {time.strftime('%B %Y')}"
    )


def note(text: str) -> None:
    """Progress, not part of the table."""
    print(text, file=sys.stderr, flush=True)


class Report:
    """Lines that are printed as they come and can be written to a file at the end."""

    def __init__(self, out: Path | None) -> None:
        self.out = out and (RESULTS / f"{out}.txt" if out == Path(out.name) and not out.suffix else out)
        self.lines: list[str] = []

    def __call__(self, *lines: str) -> None:
        self.lines += lines
        for line in lines or ("",):
            print(line, flush=True)
        if not lines:
            self.lines.append("")
        if self.out:  # as it grows: what was measured survives an interruption
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
