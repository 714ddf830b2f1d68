"""The diffusion model as a `Generator`: an endless stream in which item i depends on (seed, i) alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ... import __version__
from ...core.crystal import Crystal
from ...core.errors import InputError, MissingError, missing_extra
from ...core.records import Candidate, Conditions, Failure, Origin, Reason
from .memory import keep_memory
from .request import Request
from .steering import Planner
from .weights import TEMPLATES, adapter_path, default_weights

if TYPE_CHECKING:
    from .adapters import Adapter
    from .process import Process
    from .symmetry import TemplateLibrary

_LOG = logging.getLogger("heliodor.generators")
_AHEAD = 4  # batches that are planned together, so that crystals of like size share one


@dataclass(frozen=True)
class Sampling:
    """How crystals are drawn.

    Args:
        mode: "fast" or "quality" (more steps, noise put back between them).
        batch: crystals side by side; None chooses by device. Does not change results.
        guidance: weight of property targets (1: as trained; 2 to 4: pushed harder).
        device: "auto", "cpu" or "cuda".
        symmetrize: refine what was made without symmetry to the space group found at 0.1 angstrom.
    """

    mode: Literal["fast", "quality"] = "fast"
    batch: int | None = None
    guidance: float = 2.0
    device: str = "auto"
    symmetrize: bool = False


class DiffusionGenerator:
    """Crystals from a diffusion model (see `process` and `model`), obeying `Conditions` and `Request`.

    Args:
        weights: a checkpoint; None for the one that ships. request, sampling: see there.
        library: templates to draw from; None for `templates.npz` beside the weights, or what ships.

    Raises:
        InputError: no such weights or not readable, no GPU where one was asked for, no adapter for a
            property.
        MissingError: torch is not installed.
    """

    name = "diffusion"

    def __init__(
        self,
        weights: Path | None = None,
        request: Request | None = None,
        sampling: Sampling | None = None,
        *,
        library: TemplateLibrary | None = None,
    ) -> None:
        self.weights = weights or default_weights()
        self.request, self.sampling = request or Request(), sampling or Sampling()
        self._library = library
        self.device = pick_device(self.sampling.device)
        self.request.groups()

    @property
    def gpus(self) -> int:
        """GPUs of this machine that it computes on."""
        return int(self.device.startswith("cuda"))

    @property
    def batch_size(self) -> int:
        """Crystals side by side."""
        return self.sampling.batch or (32 if self.device == "cpu" else 2048)

    @classmethod
    def of(
        cls,
        process: Process,
        request: Request | None = None,
        sampling: Sampling | None = None,
        *,
        library: TemplateLibrary | None = None,
    ) -> DiffusionGenerator:
        """A generator around a model in memory (as training has it)."""
        made = cls(None, request, sampling, library=library)
        made.device = str(process.codes.device)
        made.__dict__["_model"] = (process, "")
        return made

    @cached_property
    def _model(self) -> tuple[Process, str]:
        from .checkpoint import load_process

        if self.weights == default_weights() and not self.weights.is_file():
            raise MissingError(
                f"the weights that ship are not there: {self.weights}",
                hint="install heliodor again, or name others",
            )
        process, card = load_process(self.weights, self.device)
        if self.device == "cpu":
            keep_memory()
        # Single precision would let the batch change crystals by 5e-7, and with them their digests.
        return process.double(), card.sha256

    @cached_property
    def _adapters(self) -> dict[str, Adapter]:
        if not self.request.targets:
            return {}
        from .adapters import load_adapter

        digest = self._model[1]
        return {
            name: load_adapter(adapter_path(name), digest, self.device).double()
            for name in self.request.targets
        }

    @cached_property
    def library(self) -> TemplateLibrary:
        """Templates of known crystals: those beside the weights, else those that ship."""
        from .symmetry import TemplateLibrary

        beside = self.weights.with_name(TEMPLATES.name)
        return self._library or TemplateLibrary.load(beside if beside.is_file() else TEMPLATES)

    @property
    def provenance(self) -> Mapping[str, str]:
        """What the results depend on."""
        return {"weights": self._model[1]}

    def planner(self, conditions: Conditions) -> Planner:
        """The plans for some conditions; raises `InputError` where they cannot be met."""
        from .adapters import targets_for

        def draw(name: str, rng: np.random.Generator) -> float:
            return targets_for(self.request.targets[name], self._adapters[name], rng)

        process, _ = self._model
        for name in self.request.targets:
            draw(name, np.random.default_rng(0))  # refuses now what it would refuse later
        seen, most = process.seen.cpu().numpy(), process.network.shape.max_atoms
        return Planner(conditions, self.request, self.library, seen, most, draw)

    def generate(
        self, n: int, *, seed: int, conditions: Conditions, start: int = 0
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1`; the stream has no end.

        Raises:
            InputError: the conditions or the request cannot be met.
        """
        planner = self.planner(conditions)
        process, digest = self._model
        return self._stream(range(start, start + n), seed, planner, process, digest)

    def _stream(
        self, items: range, seed: int, planner: Planner, process: Process, digest: str
    ) -> Iterator[Candidate | Failure]:
        from .sampler import FAST, QUALITY, Impossible, sample

        steps = QUALITY if self.sampling.mode == "quality" else FAST
        batch = self.batch_size
        for first in range(items.start, items.stop, batch * _AHEAD):
            window = range(first, min(first + batch * _AHEAD, items.stop))
            plans = [
                planner.plan(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i, 0))))
                for i in window
            ]
            order = sorted(range(len(window)), key=lambda k: len(plans[k]))
            made: dict[int, Crystal | Impossible] = {}
            ready = 0
            for k, crystal in sample(
                process,
                [plans[j] for j in order],
                [(seed, window[j], 1) for j in order],
                steps,
                batch=batch,
                adapters=self._adapters,
                guidance=self.sampling.guidance,
            ):
                made[order[k]] = crystal
                while ready in made:
                    index = window[ready]
                    origin = Origin(
                        self.name,
                        __version__,
                        seed,
                        index,
                        source=_source(plans[ready].template.spacegroup),
                        checkpoint_sha256=digest or None,
                    )
                    yield self._item(made.pop(ready), origin)
                    ready += 1

    def _item(self, made: object, origin: Origin) -> Candidate | Failure:
        if not isinstance(made, Crystal):
            return Failure("", Reason.GENERATION, getattr(made, "detail", ""), origin)
        if self.sampling.symmetrize:
            from .symmetry import find_template

            made = find_template(made)[1]
        return Candidate(made, origin)


def _source(spacegroup: int) -> str:
    return f"space group {spacegroup}" if spacegroup > 1 else ""


def pick_device(asked: str) -> str:
    """The device to use, "cpu" or "cuda", where "auto", "cpu" or "cuda" is asked for.

    Raises:
        InputError: a GPU was asked for and there is none, or an unknown device.
        MissingError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch", "diffusion") from error
    if asked not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: '{asked}'; auto, cpu or cuda")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise MissingError("device: cuda was asked for and torch finds no GPU", hint="use auto or cpu")
    return "cuda" if there and asked != "cpu" else "cpu"
