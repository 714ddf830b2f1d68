"""Fine-tuning a property adapter: the base is frozen, and what is held out tells when to stop."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from .adapters import Adapter, Scale, save_adapter
from .checkpoint import read_tensors, write_tensors
from .memory import keep_memory
from .resident import Resident, noised_losses
from .train import STATE, WEIGHTS, Progress, schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .data import Packed
    from .process import Process

_LOG = logging.getLogger("heliodor.generators")
ADAPTER = "adapter.safetensors"
FEWEST = 50  # labelled crystals


@dataclass(frozen=True)
class AdapterSettings:
    """How to fine-tune. The budget is in minutes of training, over all runs that resume one another.

    Args:
        minutes: in all. learning_rate is reached after `warmup` steps and falls to zero over the last
            quarter of the budget.
        batch: crystals a step. ema: decay of the averaged weights. rank: of the change of each layer.
        symmetric, known_types: as for the base (`train.Settings`).
        evaluate_every: seconds of training between two looks at the crystals held out, after which the
            state is saved, and the adapter where it is the best so far.
    """

    minutes: float = 10.0
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: int = 50
    ema: float = 0.99
    rank: int = 8
    symmetric: float = 0.6
    known_types: float = 0.15
    evaluate_every: float = 60.0
    seed: int = 0


def check_label(labels: Mapping[str, NDArray[Any]], name: str) -> None:
    """Whether a column can be learned.

    Args:
        labels: the numeric columns, by name; NaN where a value is not known.

    Raises:
        InputError: there is no such column, or it has too few values, or they are all equal.
    """
    if name not in labels:
        raise InputError(
            f"no numeric column {name!r} in the table",
            hint="numeric columns: " + (", ".join(sorted(labels)) or "none"),
        )
    values = np.asarray(labels[name], dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        raise InputError(f"{name}: {len(values)} crystals have a value, at least {FEWEST} are needed")
    Scale.of(values, name)


class _Part(NamedTuple):
    """Some labelled crystals; `wrong` are the labels of others among them."""

    data: Resident
    labels: Tensor
    wrong: Tensor


class AdapterTrainer:
    """One fine-tuning in a folder; made again on the same folder it goes on where that one stood.

    The folder comes to hold the state (`state.safetensors`) and the adapter that did best on the
    crystals held out (`adapter.safetensors`).

    Args:
        packed: crystals; those without the label, or with more atoms than the base takes, are left out.
        label: the property.
        process: the base, which is frozen. base_sha256: digest of its file.

    Raises:
        InputError: see `check_label`; or the folder holds another fine-tuning, or a damaged state.
    """

    def __init__(
        self,
        folder: Path,
        packed: Packed,
        label: str,
        process: Process,
        base_sha256: str,
        settings: AdapterSettings = AdapterSettings(),
        device: str = "cpu",
    ) -> None:
        check_label(
            {k: v[packed.n <= process.network.shape.max_atoms] for k, v in packed.labels.items()}, label
        )
        self.folder, self.settings, self.device = folder, settings, device
        self.process = process.to(device).eval().requires_grad_(False)
        self.identity = {"label": label, "base": base_sha256, "data": packed.digest}
        values = packed.labels[label].astype(np.float64)
        usable = np.isfinite(values) & (packed.n <= process.network.shape.max_atoms)
        held = _held_out(packed, usable)
        self.train = self._part(packed, values, usable & ~held)
        self.test = self._part(packed, values, held)
        torch.manual_seed(settings.seed)
        scale = Scale.of(values[usable], label)
        self.adapter = Adapter(process.network.shape, label, scale, rank=settings.rank).to(device)
        self.average = {k: v.detach().clone() for k, v in self.adapter.state_dict().items()}
        self.parameters = list(self.adapter.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, float] = {}
        if (folder / STATE).exists():
            self._resume()
        if device == "cpu":
            keep_memory()

    def _part(self, packed: Packed, values: NDArray[np.float64], mask: NDArray[np.bool_]) -> _Part:
        rows = np.flatnonzero(mask)
        data = Resident(packed, rows, self.process.network.shape.max_atoms, self.device)
        labels = torch.as_tensor(values[rows], dtype=torch.float32, device=self.device)
        other = np.random.default_rng(0).permutation(len(rows))
        return _Part(data, labels, labels[torch.as_tensor(other, device=self.device)])

    @property
    def done(self) -> float:
        """Share of the budget that is spent."""
        return self.seconds / (60 * self.settings.minutes)

    def run(self, *, for_seconds: float | None = None) -> Iterator[Progress]:
        """Train until the budget (or this run's share of it) is spent; reports every few seconds."""
        begun = time.monotonic()
        before, reported = begun, begun
        due = self.seconds + self.settings.evaluate_every
        total, steps = torch.zeros((), device=self.device), 0
        while self.done < 1 and (for_seconds is None or time.monotonic() - begun < for_seconds):
            total += self._step()
            steps += 1
            now = time.monotonic()
            self.seconds += now - before
            before = now
            ended = self.done >= 1
            if now - reported > 5 or self.seconds >= due or ended:
                loss = float(total) / steps
                if not np.isfinite(loss):
                    raise InputError(
                        f"the loss became {loss} at step {self.step}", hint="try a smaller learning rate"
                    )
                rate = steps * self.settings.batch / (now - reported)
                held_out = self._look() if self.seconds >= due or ended else None
                yield Progress(self.step, self.seconds / 60, rate, {"loss": loss}, held_out)
                if held_out:
                    due = self.seconds + self.settings.evaluate_every
                total, steps = torch.zeros((), device=self.device), 0
                before = reported = time.monotonic()  # what the caller did is not training
        self.save()

    def _look(self) -> dict[str, float]:
        """Evaluate; keep the adapter if it is the best so far; save the state."""
        found = self.held_out_losses()
        if not self.best or found["true"] < self.best["true"]:
            self.save_model(held_out=found)
            self.best = found
        self.save()
        return found

    def _step(self) -> Tensor:
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * schedule(self.step, s.warmup, self.done)
        loss = self._losses(self.train, self.train.labels, (s.seed, self.step), s.batch).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(s.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, now in self.adapter.named_parameters():
                self.average[name].lerp_(now, 1 - decay)
        return loss.detach()

    def _losses(self, part: _Part, labels: Tensor | None, seed: tuple[int, ...], batch: int) -> Tensor:
        """(B,) losses of some crystals; these and their noise follow from the seed alone."""
        rng = np.random.default_rng(seed)
        noise = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        rows, width = part.data.draw(rng, batch, self.device)
        told = (
            self.adapter.attached(self.process, labels[rows])
            if labels is not None
            else contextlib.nullcontext()
        )
        s = self.settings
        shares = {"symmetric": s.symmetric, "known_types": s.known_types}
        with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16), told as extra:
            losses = noised_losses(
                self.process, part.data, rows, width, rng, noise, **shares, extra=extra
            )
        return torch.stack([WEIGHTS[k] * v for k, v in losses.items()]).sum(0)

    @torch.no_grad()
    def held_out_losses(self, batches: int = 12) -> dict[str, float]:
        """Losses of the averaged adapter on crystals held out, at the same noise each.

        Returns:
            `true`: told the right value; `none`: of the base; `wrong`: told the value of another
            crystal; `error`: standard error of wrong - true. An adapter that uses the property has
            true < wrong by several errors.
        """
        part = self.test
        batch = min(self.settings.batch, 128, 2 * len(part.labels))
        told = {"true": part.labels, "none": None, "wrong": part.wrong}
        with self.averaged():
            losses = {
                name: torch.cat([self._losses(part, labels, (1, k), batch) for k in range(batches)])
                for name, labels in told.items()
            }
        gap = losses["wrong"] - losses["true"]
        return {k: float(v.mean()) for k, v in losses.items()} | {
            "error": float(gap.std() / len(gap) ** 0.5)
        }

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Adapter]:
        """The adapter with its averaged weights, for a while."""
        own = {k: v.detach().clone() for k, v in self.adapter.state_dict().items()}
        self.adapter.load_state_dict(self.average)
        try:
            yield self.adapter
        finally:
            self.adapter.load_state_dict(own)

    # --- the state on disk ---

    def save_model(self, path: Path | None = None, **notes: Any) -> Path:
        """Write the averaged adapter."""
        path = path or self.folder / ADAPTER
        told = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            "crystals": len(self.train.labels),
            "held_out_crystals": len(self.test.labels),
            "data": self.identity["data"],
        }
        with self.averaged() as adapter:
            save_adapter(path, adapter, self.identity["base"], told | notes)
        return path

    def save(self) -> None:
        """Write all that resuming needs."""
        tensors = {f"now.{k}": v for k, v in self.adapter.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in self.adapter.named_parameters():
            if moments := self.optimizer.state.get(parameter):
                tensors[f"m1.{name}"], tensors[f"m2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        header = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "identity": self.identity,
            "settings": self._plain(),
        }
        write_tensors(self.folder / STATE, tensors, header)

    def _plain(self) -> dict[str, Any]:
        return asdict(replace(self.settings, minutes=0.0, evaluate_every=0.0))

    def _resume(self) -> None:
        path = self.folder / STATE
        tensors, header = read_tensors(path)
        asked = self.identity | self._plain()
        there = {**header.get("identity", {}), **header.get("settings", {})}
        changed = [k for k, v in asked.items() if there.get(k) != v]
        if changed:
            told = ", ".join(f"{k}: {there.get(k)} there, {asked[k]} asked for" for k in changed)
            raise InputError(
                f"{self.folder} holds another fine-tuning ({told})",
                hint="give another --out, or remove it",
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        try:
            self.adapter.load_state_dict(part("now."))
            self.average = {k: part("average.")[k].to(self.device) for k in self.average}
            for name, parameter in self.adapter.named_parameters():
                if f"m1.{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(header["step"])),
                        "exp_avg": tensors[f"m1.{name}"].to(self.device),
                        "exp_avg_sq": tensors[f"m2.{name}"].to(self.device),
                    }
            self.step, self.seconds = int(header["step"]), float(header["seconds"])
            self.best = {k: float(v) for k, v in header["best"].items()}
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
        _LOG.info("resumed at step %d, %.1f minutes", self.step, self.seconds / 60)


def _held_out(packed: Packed, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(m,) the usable crystals that only judge: those the base holds out, and of few crystals a fifth.

    `Packed.held_out` takes the ids of smallest digest; so do we, only more of them.
    """
    rows = np.flatnonzero(usable)
    order = sorted(rows, key=lambda i: hashlib.sha256(str(packed.ids[i]).encode()).digest())
    many = max(int(packed.held_out[rows].sum()), min(len(rows) // 5, 200))
    held = np.zeros(len(packed), dtype=bool)
    held[order[:many]] = True
    return held
