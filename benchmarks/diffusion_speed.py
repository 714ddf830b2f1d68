"""How fast the diffusion model samples and trains, what share of the machine that is, and its peer MatterGen.

    python benchmarks/diffusion_speed.py --peer-python peer/bin/python --out diffusion_speed
    python benchmarks/diffusion_speed.py --device cuda --batches 32 512 2048 --train-batch 1024 --compile

Floating-point operations (2 for a multiplication and addition) of one network call on a crystal padded to N
atoms, T = N + 1 tokens, width w, depth d, heads h, pair width p, k harmonics:

    tokens     d (24 w^2 + 2 h p w) T                qkv 6 w^2, output 2 (w + h p) w, MLP 16 w^2
    attention  d (4 w + 2 h p) T^2                   scores and values 4 w, pairs seen by each head 2 h p
    pairs      (162 + 2 (6 k + 21) p + 2 p^2) N^2    27 images, then the MLP of 6 k + 16 + 5 features
    bias       2 d h p T^2
    ends       (2 * 20 w + 2 (119 + 3) w) N          atoms in, elements and shifts out
    condition  18 w^2 + 256 w + 36 w                 two levels, modulation, last scale; cell in and out

The calls are counted as they are made; a training step is three times its forward pass. Element-wise work is not
in the formula. The peak is the best of a few sizes of a square matrix product in the same precision, on the same
device, with as many threads. Shares of it go by wall time on a GPU, and by processor time on the CPU, so that a
machine that others use too does not spoil them.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from diffusion_common import (
    STEPS,
    Model,
    Report,
    arguments_of,
    machine,
    note,
    packed_tables,
    structure_table,
)

from heliodor.core.records import Conditions
from heliodor.generators.diffusion.model import Shape
from heliodor.generators.diffusion.request import Request
from heliodor.generators.diffusion.steering import Planner

_WARM = 3  # training steps before the clock starts


def flops(shape: Shape, n: int) -> float:
    """Of one network call on one crystal padded to `n` atoms; see the module."""
    w, d, h, p, k = shape.width, shape.depth, shape.heads, shape.pair, shape.harmonics
    t = n + 1
    tokens = d * (24 * w**2 + 2 * h * p * w) * t
    attention = d * (4 * w + 2 * h * p) * t**2
    pairs = (162 + 2 * (6 * k + 21) * p + 2 * p**2) * n**2
    bias = 2 * d * h * p * t**2
    ends = (2 * 20 * w + 2 * (119 + 3) * w) * n
    condition = 2 * (2 * (64 * w + w**2) + 6 * w**2 + 2 * w**2) + 3 * 2 * 6 * w
    return float(tokens + attention + pairs + bias + ends + condition)


def main() -> None:
    arguments = parse()
    model = Model.of(arguments)
    report = Report(arguments.out)
    process, _ = model.loaded
    report(*heading(arguments, model, process))
    report(*sampling(arguments, model, process))
    report(*training(arguments, model))
    if arguments.peer_python:
        report(*peer(arguments, model, process))


def parse():
    parser = arguments_of(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    add("--atoms", type=int, nargs="+", default=[4, 10, 20])
    add("--modes", nargs="+", choices=tuple(STEPS), default=tuple(STEPS))
    add("--longest", type=float, default=60, help="seconds; longer runs are cut short and scaled")
    add("--train-batch", type=int, default=128)
    add("--train-steps", type=int, default=10, help="timed training steps; 0: none")
    add("--compile", action="store_true", help="compile the training step")
    add("--packed", type=Path, help="folder of packed tables, or one packed (.npz): for training")
    add("--peer-python", type=Path, help="interpreter with mattergen: see peer_mattergen.py")
    add("--peer-batch", type=int, default=8)
    add("--peer-steps", type=int, default=3)
    return parser.parse_args()


@dataclass
class Spent:
    """Wall and processor seconds, network calls, and operations of what was run."""

    wall: float = 0.0
    processor: float = 0.0
    calls: int = 0
    operations: float = 0.0

    def speed(self, device: str) -> float:
        """Operations per second; per processor second on the CPU."""
        return self.operations / (self.wall if device == "cuda" else self.processor)


@contextmanager
def watched(process, device: str) -> Iterator[Spent]:
    """Times what is done within and counts the network calls of it."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    spent = Spent()
    original = process.estimate
    shape = process.network.shape

    def counted(state, *rest, **named):
        spent.calls += 1
        spent.operations += len(state.frac) * flops(shape, state.frac.shape[1])
        return original(state, *rest, **named)

    process.estimate = counted
    wait()
    wall, processor = time.perf_counter(), time.process_time()
    try:
        yield spent
        wait()
    finally:
        del process.estimate
        spent.wall, spent.processor = time.perf_counter() - wall, time.process_time() - processor


def peak(device: str, dtype) -> float:
    """Operations per second (on the CPU: per processor second) of the best square matrix product."""
    import torch

    sizes = (4096, 8192) if device == "cuda" else (512, 1024, 2048)
    cuda = device == "cuda"
    wait, clock = (
        (torch.cuda.synchronize, time.perf_counter) if cuda else (lambda: None, time.process_time)
    )
    best = 0.0
    for size in sizes:
        a = torch.randn(size, size, device=device).to(dtype)
        a @ a
        for _ in range(3):
            repeats = 10 if cuda else 2
            wait()
            begin = clock()
            for _ in range(repeats):
                a @ a
            wait()
            best = max(best, repeats * 2 * size**3 / (clock() - begin))
    return best


# --- sampling ---


def sampling(arguments, model: Model, process) -> Iterator[str]:
    """Crystals per second against batch size and number of atoms."""
    import torch

    top = peak(model.device, torch.float64)
    per = "" if model.device == "cuda" else " per CPU s"
    yield f"sampling, float64; peak of a float64 matrix product {top / 1e9:,.1f} GFLOP/s{per}"
    yield (
        f"{'mode':<9}{'atoms':>6}{'batch':>7}{'calls':>7}{'crystals/s':>12}{'per CPU s':>11}"
        f"{'s/crystal':>11}{'GFLOP/crystal':>15}{'of the peak':>13}"
    )
    plans = {n: plans_of(model, process, n, max(arguments.batches)) for n in arguments.atoms}
    for mode in arguments.modes:
        seconds = {}
        for n in arguments.atoms:
            for batch in arguments.batches:
                spent, cut = sampled(process, plans[n][:batch], STEPS[mode], arguments, model.device)
                seconds[n, batch] = spent.wall / batch
                yield (
                    f"{mode:<9}{n:>6}{batch:>7}{spent.calls:>7}{batch / spent.wall:>12.3g}"
                    f"{batch / spent.processor:>11.3g}{spent.wall / batch:>11.3g}"
                    f"{spent.operations / batch / 1e9:>15.2f}"
                    f"{100 * spent.speed(model.device) / top:>11.1f} %" + cut
                )
        yield from growth(mode, seconds, arguments)
    yield ""


def plans_of(model: Model, process, n: int, batch: int) -> list:
    """Plans for crystals of `n` atoms within random templates."""
    seen = process.seen.cpu().numpy()
    conditions, request = Conditions(max_atoms=n), Request(min_atoms=n)
    planner = Planner(conditions, request, model.library, seen, process.network.shape.max_atoms)
    rng = np.random.default_rng(n)
    return [planner.plan(rng) for _ in range(batch)]


def sampled(process, plans, steps, arguments, device: str) -> tuple[Spent, str]:
    """One batch from noise to crystals. What would take too long is run with fewer steps and scaled."""
    first = run(process, plans, replace(steps, count=3), arguments.seed, device)
    first = run(process, plans, replace(steps, count=3), arguments.seed, device)  # the first warmed up
    wanted = first.calls + 2 * (steps.count - 3)
    if first.wall / first.calls * wanted <= arguments.longest:
        return run(process, plans, steps, arguments.seed, device), ""
    factor = wanted / first.calls
    scaled = Spent(first.wall * factor, first.processor * factor, wanted, first.operations * factor)
    return scaled, f"   scaled from {first.calls} calls"


def run(process, plans, steps, seed: int, device: str) -> Spent:
    from heliodor.generators.diffusion.sampler import sample

    seeds = [(seed, k, 1) for k in range(len(plans))]
    with watched(process, device) as spent:
        for _ in sample(process, plans, seeds, steps, batch=len(plans)):
            pass
    return spent


def growth(mode: str, seconds: dict[tuple[int, int], float], arguments) -> Iterator[str]:
    """How the cost of a crystal grows with its atoms."""
    batch, low, high = max(arguments.batches), min(arguments.atoms), max(arguments.atoms)
    if low < high:
        power = np.log(seconds[high, batch] / seconds[low, batch]) / np.log(high / low)
        yield f"{mode}: from {low} to {high} atoms, batch {batch}, a crystal's seconds grow as atoms^{power:.2f}"


# --- training ---


def training(arguments, model: Model) -> Iterator[str]:
    """Crystals per second of training in bfloat16, at the size of the given weights."""
    if not arguments.train_steps:
        return
    import torch

    from heliodor.generators.diffusion.train import Settings, Trainer

    table = packed_tables([structure_table()], arguments.packed)
    shape = model.loaded[0].network.shape
    settings = Settings(minutes=60, batch=arguments.train_batch, shape=shape, compile=arguments.compile)
    top = peak(model.device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), table, settings, model.device)
        # With compilation each width of padding is compiled when it is first met: all of them before the clock.
        for _ in range(10 * _WARM if arguments.compile else _WARM):
            trainer._step()  # noqa: SLF001 - `run` saves and reports in between
        with watched(trainer.process, model.device) as spent:
            for _ in range(arguments.train_steps):
                trainer._step()  # noqa: SLF001
    crystals = arguments.train_steps * arguments.train_batch
    per = "" if model.device == "cuda" else " per CPU s"
    yield (
        f"training, bfloat16 autocast, batch {arguments.train_batch}, {arguments.train_steps} steps"
        f"{', compiled' if arguments.compile else ''}: {crystals / spent.wall:,.1f} crystals/s, "
        f"{crystals / spent.processor:,.1f} per CPU s"
    )
    yield (
        f"    {3 * spent.speed(model.device) / 1e9:,.1f} GFLOP/s{per}, "
        f"{300 * spent.speed(model.device) / top:.1f} % of a bfloat16 matrix product's {top / 1e9:,.1f}"
    )
    yield ""


# --- the peer ---


def peer(arguments, model: Model, process) -> Iterator[str]:
    """MatterGen's sampler in its own interpreter, then ours at the same batch and atoms."""
    if not arguments.peer_python.is_file():
        yield f"peer: skipped, there is no {arguments.peer_python}"
        return
    command = [str(arguments.peer_python), str(Path(__file__).with_name("peer_mattergen.py"))]
    command += ["--device", model.device, "--batch", str(arguments.peer_batch)]
    command += ["--atoms", *map(str, arguments.atoms), "--steps", str(arguments.peer_steps)]
    note("timing the peer")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        yield f"the peer failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        return
    told = json.loads(done.stdout)
    yield f"peer      {told['model']}, {told['parameters'] / 1e6:.1f} M parameters, torch {told['torch']}"
    yield f"          {told['extrapolated']}; shimmed: {', '.join(told['shimmed']) or 'nothing'}"
    yield "          it pads nothing and needs 1,000 predictor and 1,000 corrector steps, as published"
    yield (
        f"{'atoms':>6}{'batch':>7}{'peer crystals/s':>17}{'per CPU s':>11}"
        + "".join(
            f"{f'ours, {mode}':>15}{'per CPU s':>11}{'ratio':>8}{'by CPU s':>10}"
            for mode in arguments.modes
        )
    )
    for result in told["results"]:
        n, batch = result["atoms_per_crystal"], result["batch"]
        theirs, theirs_cpu = result["crystals_per_second"], result["crystals_per_cpu_second"]
        text = f"{n:>6}{batch:>7}{theirs:>17.3g}{theirs_cpu:>11.3g}"
        plans = plans_of(model, process, n, batch)
        for mode in arguments.modes:
            spent, _ = sampled(process, plans, STEPS[mode], arguments, model.device)
            wall, processor = batch / spent.wall, batch / spent.processor
            text += (
                f"{wall:>15.3g}{processor:>11.3g}{wall / theirs:>7.0f}x{processor / theirs_cpu:>9.0f}x"
            )
        yield text


def heading(arguments, model: Model, process) -> list[str]:
    """The protocol, and the formula against torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    plans = plans_of(model, process, 10, 4)
    counter = FlopCounterMode(display=False)
    with counter:
        spent = run(process, plans, replace(STEPS["fast"], count=2), 0, model.device)
    ratio = spent.operations / counter.get_total_flops()
    calls = {mode: STEPS[mode].count for mode in arguments.modes}
    return [
        f"Speed of the diffusion model on {model.device}; seed {arguments.seed}",
        *model.facts(),
        machine(model.device),
        "crystals  within random templates of the library, of the given number of atoms; sampling is timed whole:",
        "          drawing noise, settling elements, Niggli reduction; reading the weights is not",
        f"steps     {', '.join(f'{mode} {count}' for mode, count in calls.items())}; calls of the network as counted",
        (
            f"FLOPs     by the formula in this file: {ratio:.3f} of what torch's counter finds (matrix products); "
            f"TF32 {'on' if torch.backends.cuda.matmul.allow_tf32 else 'off'}"
        ),
        "",
    ]


if __name__ == "__main__":
    main()
