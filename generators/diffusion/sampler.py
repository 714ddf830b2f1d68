"""From noise to crystals: stochastic Heun steps, in batches that do not change the result."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.crystal import Crystal
from .codes import CODE_SIZE
from .lattice import CHANNELS, cell_of
from .plan import Plan, banned_of, frame_of, settle
from .process import Estimate, Process, State, sigma

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .adapters import Adapter

_LOG = logging.getLogger("heliodor.generators")
_CHUNK = 8  # steps whose noise is drawn at once


@dataclass(frozen=True)
class Steps:
    """How the noise is taken off.

    Args:
        count: steps from level 1 to 0; each calls the network twice (Heun), but the last once.
        churn: share of a step that is noised back before it (0: deterministic).
        anneal: factor on the drift of coordinates and cell at low noise (1: none), after the
            anti-annealing of DiffCSP (arXiv:2309.04475) and FlowMM (arXiv:2406.04713).
        settle: level at which the elements are decided; below it they are held.
        settle_balanced: the same where they must be in charge balance: earlier, so that the rest adapts.
    """

    count: int = 50
    churn: float = 0.0
    anneal: float = 1.0
    settle: float = 0.4
    settle_balanced: float = 0.7


FAST = Steps(count=32, anneal=3.0)
QUALITY = Steps(count=100, churn=0.6, anneal=3.0)


@dataclass(frozen=True)
class Impossible:
    """A plan that gave no crystal, and why."""

    detail: str


def sample(
    process: Process,
    plans: Sequence[Plan],
    seeds: Sequence[tuple[int, ...]],
    steps: Steps = FAST,
    *,
    batch: int = 64,
    adapters: Mapping[str, Adapter] | None = None,
    guidance: float = 1.0,
) -> Iterator[tuple[int, Crystal | Impossible]]:
    """Yields (position in `plans`, crystal) as batches finish, in order of position.

    The noise of a crystal depends on its seed alone. When the device's memory runs out the batch is
    halved and the same crystals are begun again.

    Args:
        plans, seeds: one of each per crystal.
        batch: crystals side by side.
        adapters: property adapters by name, for the plans' targets; guidance: their weight.
    """
    position = 0
    while position < len(plans):
        some = slice(position, position + batch)
        try:
            made = _batch(process, plans[some], seeds[some], steps, adapters or {}, guidance)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch = max(1, batch // 2)
            torch.cuda.empty_cache()
            _LOG.warning("out of GPU memory: going on with batches of %d", batch)
            continue
        yield from enumerate(made, position)
        position += len(made)


class _Noise:
    """Normal numbers for a batch, each crystal's from its own stream, in the order of the steps."""

    def __init__(self, seeds: Sequence[tuple[int, ...]], sizes: Sequence[int], like: Tensor) -> None:
        self.streams = [np.random.Generator(np.random.Philox(np.random.SeedSequence(s))) for s in seeds]
        self.sizes, self.width, self.like = sizes, max(sizes), like
        self.ready: list[tuple[Tensor, Tensor, Tensor]] = []

    def next(self, ahead: int = _CHUNK) -> tuple[Tensor, Tensor, Tensor]:
        """Noise of coordinates (B, N, 3), codes (B, N, 16) and channels (B, 6)."""
        if not self.ready:
            b = len(self.sizes)
            atoms = np.zeros((ahead, b, self.width, 3 + CODE_SIZE), np.float32)
            cells = np.zeros((ahead, b, CHANNELS), np.float32)
            for k, (stream, n) in enumerate(zip(self.streams, self.sizes, strict=True)):
                cut = n * (3 + CODE_SIZE)
                flat = stream.standard_normal((ahead, cut + CHANNELS), dtype=np.float32)
                atoms[:, k, :n] = flat[:, :cut].reshape(ahead, n, -1)
                cells[:, k] = flat[:, cut:]
            a, c = torch.as_tensor(atoms).to(self.like), torch.as_tensor(cells).to(self.like)
            self.ready = [(a[i, ..., :3], a[i, ..., 3:], c[i]) for i in range(ahead)]
        return self.ready.pop(0)


class _Run:
    """One batch on its way from noise to crystals. Its precision is that of the model."""

    def __init__(
        self,
        process: Process,
        plans: Sequence[Plan],
        seeds: Sequence[tuple[int, ...]],
        steps: Steps,
        adapters: Mapping[str, Adapter],
        guidance: float,
    ) -> None:
        self.process, self.plans, self.steps = process, plans, steps
        self.adapters, self.guidance = adapters, guidance
        self.device = str(process.codes.device)
        sizes = [len(p) for p in plans]
        self.width = max(sizes)
        self.frame = frame_of(plans, self.width, self.device, process.codes.dtype)
        self.banned = banned_of(plans, self.width, self.device)
        self.noise = _Noise(seeds, sizes, process.codes)
        b = len(plans)
        numbers = np.zeros((b, self.width), np.int64)
        offset, held_frac = np.zeros((b, self.width, 3)), np.zeros((b, self.width, 3))
        held = np.zeros((b, self.width), bool)
        channels = np.full((b, CHANNELS), np.nan)
        for k, plan in enumerate(plans):
            offset[k, : len(plan)] = plan.template.offset
            if plan.numbers is not None:
                numbers[k, : len(plan)] = plan.numbers
            if (fixed := plan.fixed) is not None:
                many = len(fixed.numbers)
                held[k, :many], held_frac[k, :many], channels[k] = True, fixed.frac, fixed.channels
        self.settled = torch.tensor([p.numbers is not None for p in plans], device=self.device)
        self.settle = self.real([steps.settle_balanced if p.balanced else steps.settle for p in plans])
        self.wanted = {
            name: self.real([p.targets.get(name, torch.nan) for p in plans]) for name in adapters
        }
        self.numbers = torch.as_tensor(numbers, device=self.device)
        self.held = torch.as_tensor(held, device=self.device)
        self.offset, self.held_frac = self.real(offset), self.real(held_frac)
        self.held_channels = process.standard(self.real(channels))

    def real(self, values: NDArray[np.float64] | Sequence[float]) -> Tensor:
        """As a tensor in the model's precision, on its device."""
        return torch.as_tensor(values, dtype=self.process.codes.dtype, device=self.device)

    def levels(self) -> Tensor:
        """(B, steps + 1) noise levels; a crystal that starts from another begins at its own level."""
        top = [1.0 if p.start is None else p.start.level for p in self.plans]
        return self.real(np.array(top)[:, None] * np.linspace(1, 0, self.steps.count + 1))

    def first(self, level: Tensor) -> State:
        """Pure noise within the templates, or the starting crystal with noise on it."""
        span = self.process.noise
        frac, codes, channels = self.noise.next(1)
        b = len(self.plans)
        base, centre = np.zeros((b, self.width, 3)), np.zeros((b, CHANNELS))
        numbers = np.zeros((b, self.width), np.int64)
        begun = np.zeros(b, bool)
        for k, plan in enumerate(self.plans):
            if (start := plan.start) is not None:
                begun[k], centre[k] = True, start.channels
                base[k, : len(plan)], numbers[k, : len(plan)] = start.frac, start.numbers
        known = torch.as_tensor(begun, device=self.device)[:, None]
        types = self.process.codes[torch.as_tensor(numbers, device=self.device)]
        mean = torch.where(known, self.process.standard(self.real(centre)), 0.0)
        wide = sigma(span.frac, level)[:, None, None]
        # Far above the largest sigma the first draw is uniform on the torus, as it should be.
        wide = torch.where((level >= 1)[:, None, None], 4.0, wide)
        return State(
            torch.where(known[..., None], types, 0.0)
            + sigma(span.types, level)[:, None, None] * self.frame.share(codes),
            (self.offset + self.real(base) + wide * self.frame.spread(frac)) % 1.0,
            mean + sigma(span.channels, level)[:, None] * channels,
        )

    def up(self, state: State, level: Tensor, higher: Tensor) -> State:
        """Noise added so that the state is at a higher level."""
        frac, codes, channels = self.noise.next()
        span = self.process.noise

        def added(part: tuple[float, float]) -> Tensor:
            return (sigma(part, higher) ** 2 - sigma(part, level) ** 2).clamp_min(0).sqrt()

        return State(
            state.codes + added(span.types)[:, None, None] * self.frame.share(codes),
            (state.frac + added(span.frac)[:, None, None] * self.frame.spread(frac)) % 1.0,
            state.channels + added(span.channels)[:, None] * channels,
        )

    def estimate(self, state: State, level: Tensor) -> tuple[Tensor, Estimate]:
        """Mean codes (B, N, 16) of the clean crystal, and the rest of the estimate, all rules obeyed."""
        known = self.process.codes[self.numbers]
        given = self.settled[:, None, None]
        state = state._replace(codes=torch.where(given, known, state.codes))
        type_level = torch.where(self.settled, 0.0, level)
        found = self.process.estimate(state, self.frame, level, type_level, banned=self.banned)
        if self.adapters:
            found = self._guided(found, state, level, type_level)
        probability = found.logits.softmax(-1)
        codes = torch.where(given, known, probability @ self.process.codes)
        gap = self.held_frac - state.frac
        shift = torch.where(self.held[..., None], gap - gap.round(), found.shift)
        channels = self.process.project_channels(found.channels, self.frame)
        channels = torch.where(self.held_channels.isnan(), channels, self.held_channels)
        return codes, Estimate(found.logits, shift, channels)

    def _guided(self, free: Estimate, state: State, level: Tensor, type_level: Tensor) -> Estimate:
        """Classifier-free guidance (arXiv:2207.12598): free + w (bound - free), property by property."""
        logits, shift, channels = free.logits, free.shift, free.channels
        for name, adapter in self.adapters.items():
            wanted = self.wanted[name]
            on = ~wanted.isnan()
            with adapter.attached(self.process, wanted.nan_to_num()) as extra:
                bound = self.process.estimate(
                    state, self.frame, level, type_level, banned=self.banned, extra=extra
                )
            w = self.guidance * on.to(wanted)
            gap = (bound.logits - free.logits).nan_to_num(0.0, 0.0, 0.0)
            logits = logits + w[:, None, None] * gap
            shift = shift + w[:, None, None] * (bound.shift - free.shift)
            channels = channels + w[:, None] * (bound.channels - free.channels)
        return Estimate(logits, shift, channels)

    def move(
        self,
        state: State,
        slope_codes: Tensor,
        slope_frac: Tensor,
        slope_cell: Tensor,
        now: Tensor,
        then: Tensor,
    ) -> State:
        """One Euler step along dx/dsigma of each part."""
        span = self.process.noise
        d_type = (sigma(span.types, then) - sigma(span.types, now))[:, None, None]
        d_frac = (sigma(span.frac, then) - sigma(span.frac, now))[:, None, None]
        d_cell = (sigma(span.channels, then) - sigma(span.channels, now))[:, None]
        boost = self.boost(now)
        return State(
            state.codes + d_type * slope_codes,
            (state.frac + d_frac * boost[:, None, None] * slope_frac) % 1.0,
            state.channels + d_cell * boost[:, None] * slope_cell,
        )

    def step(self, state: State, now: Tensor, then: Tensor, *, first: bool) -> State:
        """One stochastic Heun step (arXiv:2206.00364, algorithm 2)."""
        self.decide(state, now)
        if self.steps.churn and not first:
            raised = (now + self.steps.churn * (now - then)).clamp_max(1.0)
            state, now = self.up(state, now, raised), raised
        one = self.slopes(state, now)
        two = self.slopes(self.move(state, *one, now, then), then)
        mean = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
        return self.move(state, mean[0], mean[1], mean[2], now, then)

    def boost(self, level: Tensor) -> Tensor:
        """Anti-annealing: the drift grows from 1 at full noise to `anneal` at none."""
        return 1 + (self.steps.anneal - 1) * (1 - level)

    def slopes(self, state: State, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dx/dsigma of codes, coordinates and channels: (x - denoised) / sigma."""
        span = self.process.noise
        codes, found = self.estimate(state, level)
        return (
            (state.codes - codes) / sigma(span.types, level)[:, None, None],
            -found.shift / sigma(span.frac, level)[:, None, None],
            (state.channels - found.channels) / sigma(span.channels, level)[:, None],
        )

    def decide(self, state: State, level: Tensor) -> None:
        """Settle the elements of the crystals that have come below the settling level."""
        due = ~self.settled & (level <= self.settle)
        if not bool(due.any()):
            return
        _, found = self.estimate(state, level)
        log_p = found.logits.log_softmax(-1).double().cpu().numpy()
        for k in torch.nonzero(due)[:, 0].tolist():
            plan, n = self.plans[k], len(self.plans[k])
            asked = plan.required, plan.n_elements
            chosen = settle(log_p[k, :n], plan.template.orbit, *asked, balanced=plan.balanced)
            self.numbers[k, :n] = torch.as_tensor(chosen, device=self.device)
        self.settled = self.settled | due

    def finish(self, state: State, level: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the clean crystal: coordinates (B, N, 3) and cells (B, 3, 3)."""
        _, found = self.estimate(state, level)
        frac = (state.frac + found.shift) % 1.0
        return frac, cell_of(self.process.raw(found.channels), self.frame.n)


@torch.no_grad()
def _batch(
    process: Process,
    plans: Sequence[Plan],
    seeds: Sequence[tuple[int, ...]],
    steps: Steps,
    adapters: Mapping[str, Adapter],
    guidance: float,
) -> list[Crystal | Impossible]:
    run = _Run(process, plans, seeds, steps, adapters, guidance)
    levels = run.levels()
    state = run.first(levels[:, 0])
    for i in range(steps.count - 1):
        state = run.step(state, levels[:, i], levels[:, i + 1], first=i == 0)
    run.decide(state, torch.zeros_like(levels[:, -2]))
    frac, cells = run.finish(state, levels[:, -2])
    return [
        crystal_of(c, f[: len(p)], z[: len(p)])
        for p, c, f, z in zip(
            plans,
            cells.double().cpu().numpy(),
            frac.double().cpu().numpy(),
            run.numbers.cpu().numpy(),
            strict=True,
        )
    ]


def crystal_of(
    cell: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int64]
) -> Crystal | Impossible:
    """The crystal in its Niggli cell, or why there is none."""
    import spglib

    if not (np.isfinite(cell).all() and np.isfinite(frac).all()):
        return Impossible("not finite")
    if abs(np.linalg.det(cell)) < 1e-3 * len(numbers) or np.abs(cell).max() > 1e3:
        return Impossible("the cell is flat or absurdly long")
    reduced = spglib.niggli_reduce(cell)
    if reduced is None:
        return Impossible("the cell cannot be reduced")
    return Crystal(reduced, frac @ cell @ np.linalg.inv(reduced), numbers)
