"""Training: everything resident on the device, resumable after a kill, averaged weights kept."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...core.errors import HeliodorError, InputError
from .checkpoint import Card, read_tensors, save_process, write_tensors
from .codes import element_codes
from .memory import keep_memory
from .model import CrystalTransformer, Shape
from .process import Noise, Process
from .resident import EDGES, Resident, noised_losses

if TYPE_CHECKING:
    from .data import Packed

_LOG = logging.getLogger("heliodor.generators")
STATE = "state.safetensors"
BEST = "model.safetensors"
_FREE = {"minutes", "save_every", "compile", "learning_rate"}  # may change between runs
WEIGHTS = {"types": 0.4, "coords": 1.0, "cell": 0.5}  # nats against normalised squares: alike in size


@dataclass(frozen=True)
class Settings:
    """How to train. The budget is in minutes of training, over all runs that resume one another.

    Args:
        minutes: in all. learning_rate is reached after `warmup` steps and falls to zero over the last
            quarter of the budget.
        batch: crystals a step. ema: decay of the averaged weights.
        symmetric: share of crystals that are noised within their space group.
        known_types: share whose types are clean (they teach structure prediction).
        edges: as for `Resident`.
        save_every: seconds between saved states.
    """

    minutes: float = 60.0
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.01
    ema: float = 0.999
    symmetric: float = 0.6
    known_types: float = 0.15
    edges: tuple[int, ...] = EDGES
    save_every: float = 60.0
    seed: int = 0
    shape: Shape = field(default_factory=Shape)
    noise: Noise = field(default_factory=Noise)
    compile: bool = False


def schedule(step: int, warmup: int, done: float) -> float:
    """Share of the largest learning rate: rises over `warmup` steps, falls over the last quarter."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, 1 - done) / 0.25)


@dataclass
class Progress:
    """Where a training stands, for whoever shows it."""

    step: int
    minutes: float
    crystals_per_second: float
    losses: dict[str, float]
    held_out: dict[str, float] | None = None


class Trainer:
    """One training in a folder; made again on the same folder it goes on where that one stood.

    Args:
        folder: holds the state (`state.safetensors`), the model (`model.safetensors`) and a log.
        packed: the crystals; those that `held_out` marks are never trained on.

    Raises:
        InputError: the folder holds a training of other data or settings, or a damaged state.
    """

    def __init__(self, folder: Path, packed: Packed, settings: Settings, device: str = "cpu") -> None:
        self.folder, self.settings, self.device = folder, settings, device
        self.digest = packed.digest
        held, sizes = packed.held_out, (settings.shape.max_atoms, device, settings.edges)
        self.data = Resident(packed, np.flatnonzero(~held), *sizes)
        self.test = Resident(packed, np.flatnonzero(held), *sizes) if held.any() else None
        torch.manual_seed(settings.seed)
        network = CrystalTransformer(settings.shape)
        process = Process(network, torch.as_tensor(element_codes()), settings.noise)
        process.fit_scales(self.data.channels.cpu(), self.data.numbers.cpu())
        self.process = process.to(device)
        self.average = {k: v.detach().clone() for k, v in self.process.state_dict().items()}
        self.parameters = [p for p in self.process.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        self.step, self.seconds = 0, 0.0
        self.notes: dict[str, Any] = {}
        if (folder / STATE).exists():
            self._resume()
        if device == "cpu":
            keep_memory()
        if settings.compile:
            torch.compiler.config.recompile_limit = 64  # a graph a width, with gradients or without
            network.compile(dynamic=False)

    @property
    def done(self) -> float:
        """Share of the budget that is spent."""
        return self.seconds / (60 * self.settings.minutes)

    def run(self, *, for_seconds: float | None = None) -> Iterator[Progress]:
        """Train until the budget (or this run's share of it) is spent; reports every few seconds."""
        begun = time.monotonic()
        before, reported, saved = begun, begun, begun
        sums: dict[str, Tensor] = {}
        steps = 0
        while self.done < 1 and (for_seconds is None or time.monotonic() - begun < for_seconds):
            losses = self._step()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
            steps += 1
            now = time.monotonic()
            self.seconds += now - before
            before = now
            if now - reported > 5 or self.done >= 1:
                rate = steps * self.settings.batch / (now - reported)
                means = self._means(sums, steps)
                yield Progress(self.step, self.seconds / 60, rate, means)
                sums, steps = {}, 0
                before = reported = time.monotonic()  # what the caller did is not training
            if now - saved > self.settings.save_every:
                self._means(sums, max(steps, 1))
                self.save()
                saved = before = time.monotonic()
        self._means(sums, max(steps, 1))
        self.save()

    def _means(self, sums: Mapping[str, Tensor], steps: int) -> dict[str, float]:
        """Mean losses; raises before a state that is not finite could be saved."""
        means = {name: float(value) / steps for name, value in sums.items()}
        if not all(np.isfinite(list(means.values()))):
            raise HeliodorError(
                f"the loss became {means} at step {self.step}",
                hint="resume with a smaller learning rate: the saved state is from before",
            )
        return means

    def _step(self) -> dict[str, Tensor]:
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        noise = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rows, width = self.data.draw(rng, s.batch, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * schedule(self.step, s.warmup, self.done)
        losses = self._losses(self.data, rows, width, rng, noise)
        total = sum((WEIGHTS[k] * v for k, v in losses.items()), torch.zeros((), device=self.device))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.step += 1
        decay = min(s.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            now = dict(self.process.named_parameters())
            torch._foreach_lerp_(
                [self.average[k] for k in now], [p.data for p in now.values()], 1 - decay
            )
        return losses

    def _losses(
        self, data: Resident, rows: Tensor, width: int, rng: np.random.Generator, noise: torch.Generator
    ) -> dict[str, Tensor]:
        s = self.settings
        losses = noised_losses(
            self.process, data, rows, width, rng, noise, symmetric=s.symmetric, known_types=s.known_types
        )
        return {name: value.mean() for name, value in losses.items()}

    @torch.no_grad()
    def held_out_losses(self, batches: int = 8) -> dict[str, float]:
        """Mean losses of the averaged weights on the crystals held out, at fixed noise."""
        if self.test is None:
            return {}
        sums: dict[str, float] = {}
        with self.averaged():
            for k in range(batches):
                rng = np.random.default_rng([1, k])
                noise = torch.Generator(self.device).manual_seed(k)
                rows, width = self.test.draw(rng, self.settings.batch, self.device)
                for name, value in self._losses(self.test, rows, width, rng, noise).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / batches
        return sums

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Process]:
        """The model with its averaged weights, for a while."""
        own = {k: v.detach().clone() for k, v in self.process.state_dict().items()}
        self.process.load_state_dict(self.average)
        try:
            yield self.process.eval()
        finally:
            self.process.load_state_dict(own)
            self.process.train()

    # --- the state on disk ---

    def card(self, **notes: Any) -> Card:
        """What the checkpoint says of itself."""
        s = self.settings
        return Card(
            shape=s.shape._asdict(),
            noise=s.noise._asdict(),
            step=self.step,
            samples=self.step * s.batch,
            data=self.digest,
            version=__version__,
            notes={"minutes": round(self.seconds / 60, 2), **self.notes, **notes},
        )

    def save_model(self, path: Path | None = None, **notes: Any) -> Path:
        """Write the averaged weights as a checkpoint to sample from."""
        path = path or self.folder / BEST
        save_process(path, self.average, self.card(**notes))
        return path

    def save(self) -> None:
        """Write all that resuming needs."""
        tensors = {f"now.{k}": v for k, v in self.process.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        names = [k for k, _ in self.process.named_parameters()]
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors[f"m1.{names[index]}"] = moments["exp_avg"]
            tensors[f"m2.{names[index]}"] = moments["exp_avg_sq"]
        header = {
            "step": self.step,
            "seconds": self.seconds,
            "data": self.digest,
            "settings": _plain(self.settings),
            "notes": self.notes,
        }
        write_tensors(self.folder / STATE, tensors, header)

    def _resume(self) -> None:
        path = self.folder / STATE
        tensors, header = read_tensors(path)
        try:
            data, old = header["data"], header["settings"]
            step, seconds, notes = int(header["step"]), float(header["seconds"]), dict(header["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no state of a training: {error}") from error
        if data != self.digest:
            raise InputError(
                f"{self.folder} holds a training on other data", hint="give another --out, or remove it"
            )
        new = _plain(self.settings)
        changed = [k for k in new if k not in _FREE and old.get(k) != new[k]]
        if changed:
            told = ", ".join(f"{k}: {old.get(k)} there, {new[k]} asked for" for k in changed)
            raise InputError(f"{self.folder} holds a training with other settings ({told})")
        self.step, self.seconds, self.notes = step, seconds, notes
        try:
            self._load(tensors)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
        _LOG.info("resumed at step %d, %.1f minutes", self.step, self.seconds / 60)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.process.load_state_dict(part("now."))
        self.average = {k: v.to(self.device) for k, v in part("average.").items()}
        first, second = part("m1."), part("m2.")
        step = torch.tensor(float(self.step))
        for name, parameter in self.process.named_parameters():
            if name in first:
                self.optimizer.state[parameter] = {
                    "step": step.clone(),
                    "exp_avg": first[name].to(self.device),
                    "exp_avg_sq": second[name].to(self.device),
                }


def _plain(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return content
