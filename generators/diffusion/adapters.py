"""Property adapters: small additions to the frozen base model that make it heed one property.

The base, which never saw the property, is the unconditional model of classifier-free guidance
(arXiv:2207.12598). An adapter holds low-rank changes of the base's layers (LoRA, arXiv:2106.09685),
whose strength the wanted value sets, and a vector that joins the network's condition.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.errors import InputError
from .checkpoint import Card, read_tensors, write_tensors
from .model import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .process import Process

_LOG = logging.getLogger("heliodor.generators")
_REACH = 0.2  # of the range seen: how far beyond it a value is still heard
_CENTRES = 16
_SKEWED = 1.0


class Scale(NamedTuple):
    """How a property's values become numbers of order one.

    Args:
        transform: "linear", or "log": log(1 + value / unit), for properties that are never negative
            and have a long tail.
        unit: median of the positive values (1 where linear).
        mean, std: of the transformed values.
        low, high: 1 % and 99 % quantiles of the values; beyond them, by more than a fifth of their
            distance, all values are alike.
    """

    transform: str
    unit: float
    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64], name: str = "the label") -> Scale:
        """The scale that suits some values.

        Raises:
            InputError: they are, but for 1 % at either end, all equal.
        """
        low, high = (float(q) for q in np.quantile(values, [0.01, 0.99]))
        if not high > low:
            raise InputError(f"{name} is constant ({low:g}): there is nothing to learn")
        long_tail = values.min() >= 0 and _skewness(values.clip(low, high)) > _SKEWED
        plain = cls("linear", 1.0, 0.0, 1.0, low, high)
        if long_tail:
            plain = plain._replace(transform="log", unit=float(np.median(values[values > 0])))
        moved = plain.standard(torch.as_tensor(values)).numpy()
        return plain._replace(mean=float(moved.mean()), std=float(moved.std()))

    def standard(self, values: Tensor) -> Tensor:
        """Transformed, standardised values."""
        reach = _REACH * (self.high - self.low)
        heard = values.clamp(self.low - reach, self.high + reach)
        if self.transform == "log":
            heard = torch.log1p(heard.clamp_min(0.0) / self.unit)
        return (heard - self.mean) / self.std


def _skewness(values: NDArray[np.float64]) -> float:
    return float(((values - values.mean()) ** 3).mean() / values.std() ** 3)


class Adapter(nn.Module):
    """What one property adds to a base model of some size. Untrained, it changes nothing.

    Args:
        shape: size of the base. name: of the property. scale: of its values.
        rank: of the change of each layer.
    """

    centres: Tensor

    def __init__(self, shape: Shape, name: str, scale: Scale, *, rank: int = 8) -> None:
        super().__init__()
        self.shape, self.name, self.scale, self.rank = shape, name, scale, rank
        width, depth = shape.width, shape.depth
        ends = scale.standard(torch.tensor([scale.low, scale.high]))
        self.register_buffer("centres", torch.linspace(float(ends[0]), float(ends[1]), _CENTRES))
        self.embed = nn.Sequential(nn.Linear(_CENTRES + 1, width), nn.SiLU())
        self.condition = nn.Linear(width, width)
        self.gains = nn.Linear(width, depth * 2 * rank)
        for layer in (self.condition, self.gains):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.down = nn.Parameter(torch.randn(depth, 2, rank, width) / width**0.5)
        self.up_qkv = nn.Parameter(torch.zeros(depth, 3 * width, rank))
        self.up_mlp = nn.Parameter(torch.zeros(depth, 4 * width, rank))

    def _embedded(self, values: Tensor) -> Tensor:
        standard = self.scale.standard(values)[:, None]
        spread = self.centres[1] - self.centres[0]
        bumps = torch.exp(-((standard - self.centres) / spread).square() / 2)
        hidden: Tensor = self.embed(torch.cat([standard, bumps], -1))
        return hidden

    def encode(self, values: Tensor) -> Tensor:
        """(B, width) what the values (B,), in the property's unit, add to the network's condition."""
        added: Tensor = self.condition(self._embedded(values))
        return added

    @contextlib.contextmanager
    def attached(self, process: Process, values: Tensor) -> Iterator[Tensor]:
        """Within the block the process heeds the values (B,), for calls with batches of B crystals.

        Yields:
            (B, width), to be given to the process as `extra`.

        Raises:
            ValueError: the process is of another size, or compiled (it would not see the changes).
        """
        if process.network.shape != self.shape:
            raise ValueError(f"an adapter for {self.shape} on a network of {process.network.shape}")
        if getattr(process.network, "_compiled_call_impl", None) is not None:
            raise ValueError("a compiled network does not see an adapter")
        hidden = self._embedded(values)
        gains = 1 + self.gains(hidden).view(len(values), self.shape.depth, 2, 1, self.rank)
        with contextlib.ExitStack() as hooks:
            for k, block in enumerate(process.network.blocks):
                layers = (("qkv", self.up_qkv[k]), ("mlp.0", self.up_mlp[k]))
                for j, (layer, up) in enumerate(layers):
                    change = _change(self.down[k, j], up, gains[:, k, j])
                    hooks.callback(block.get_submodule(layer).register_forward_hook(change).remove)
            yield self.condition(hidden)


def _change(
    down: Tensor, up: Tensor, gain: Tensor
) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A forward hook that adds up @ (gain * (down @ x)) to a layer's output."""

    def hook(_layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + functional.linear(functional.linear(inputs[0], down) * gain, up)

    return hook


# --- targets ---


def targets_for(
    target: float | tuple[float, float], adapter: Adapter, rng: np.random.Generator
) -> float:
    """The value to steer one crystal to: the target, or uniform within a range of the values seen.

    Args:
        target: a value, or a range (low, high), whose ends may be infinite.
        adapter: knows the range seen.

    Raises:
        InputError: not a number, a range whose ends are equal or reversed, or all of it further beyond
            the values seen than a fifth of their range. Nearer, a warning is logged, once.
    """
    low, high = (target, target) if isinstance(target, int | float) else map(float, target)
    low, high = _interval(
        float(low), float(high), isinstance(target, int | float), adapter.name, adapter.scale
    )
    return float(rng.uniform(low, high)) if high > low else low


@lru_cache(maxsize=256)  # the warning is told once
def _interval(low: float, high: float, single: bool, name: str, scale: Scale) -> tuple[float, float]:
    said = f"{low:g}" if single else f"{low:g} to {high:g}"
    seen = f"{scale.low:.4g} to {scale.high:.4g}"
    if np.isnan(low) or np.isnan(high) or not (single or low < high):
        raise InputError(
            f"target {name}: got {said}; give a number, or a range from its lower to its upper end",
            hint=f"the adapter has seen {seen}",
        )
    inside = max(low, scale.low), min(high, scale.high)
    if inside[0] <= inside[1]:
        return inside
    reach = _REACH * (scale.high - scale.low)
    heard = max(low, scale.low - reach), min(high, scale.high + reach)
    if heard[0] > heard[1]:
        raise InputError(
            f"target {name}: {said} is far from the values that the adapter has seen, {seen}",
            hint="aim within that range, or fine-tune on crystals that have such values",
        )
    _LOG.warning("target %s: %s is beyond the values that the adapter has seen, %s", name, said, seen)
    return heard


# --- on disk ---


def save_adapter(path: Path, adapter: Adapter, base_sha256: str, notes: Mapping[str, Any]) -> None:
    """Write an adapter with the digest of the base it belongs to.

    Raises:
        StorageError: it cannot be written.
    """
    header = {
        "adapter": adapter.name,
        "base": base_sha256,
        "shape": adapter.shape._asdict(),
        "scale": adapter.scale._asdict(),
        "rank": adapter.rank,
        "notes": dict(notes),
    }
    write_tensors(path, adapter.state_dict(), header)


def load_adapter(path: Path, base: Card | str, device: str = "cpu") -> Adapter:
    """An adapter, ready to steer.

    Args:
        base: the card of the base model, or its SHA-256.

    Raises:
        InputError: see `checkpoint.read_tensors`; or not an adapter, damaged, or made for another base.
    """
    tensors, header = read_tensors(path)
    if "adapter" not in header:
        raise InputError(
            f"{path} is not a property adapter", hint="adapters are made by: heliodor finetune"
        )
    digest = base.sha256 if isinstance(base, Card) else base
    if header.get("base") != digest:
        raise InputError(
            f"{path} was made for another base model ({str(header.get('base'))[:12]}..., "
            f"this one is {digest[:12]}...)",
            hint="fine-tune again on this base, or give the weights it was made for",
        )
    try:
        shape = Shape(**{k: int(v) for k, v in header["shape"].items()})
        scale = _scale_of(header["scale"])
        adapter = Adapter(shape, str(header["adapter"]), scale, rank=int(header["rank"]))
        adapter.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: the tensors do not fit the header: {text}") from error
    if not all(bool(torch.isfinite(v).all()) for v in tensors.values()):
        raise InputError(f"{path}: the adapter holds NaN or infinity")
    return adapter.to(device).eval().requires_grad_(False)


def _scale_of(said: Mapping[str, Any]) -> Scale:
    scale = Scale(str(said["transform"]), *(float(said[k]) for k in Scale._fields[1:]))
    if scale.transform not in ("linear", "log") or not (
        scale.std > 0 and scale.unit > 0 and scale.high > scale.low
    ):
        raise ValueError(f"a scale of {scale}")
    return scale
