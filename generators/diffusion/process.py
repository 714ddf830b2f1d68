"""The diffusion process: noise on types, coordinates and cell, how it is taken off, and the loss.

One level in [0, 1] sets all noise: sigma = low * (high / low)^level for each part. Types and cell are
variance-exploding with the preconditioning of Karras et al. (arXiv:2206.00364) on standardised values;
coordinates are wrapped normal on the torus (Jiao et al., arXiv:2309.04475, eq. 7), so that the largest
noise is uniform. Where a crystal carries a template, noise and prediction stay in the directions that
its space group leaves free.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lattice import cell_of, channels_of_metric, metric_of
from .model import CrystalTransformer, Noisy

_UNIFORM = 0.289  # standard deviation of a uniform coordinate


class Noise(NamedTuple):
    """Smallest and largest sigma: fractional units; standardised codes; standardised channels."""

    frac: tuple[float, float] = (0.003, 0.5)
    types: tuple[float, float] = (0.02, 6.0)
    channels: tuple[float, float] = (0.005, 5.0)


def sigma(span: tuple[float, float], level: Tensor) -> Tensor:
    """Standard deviation of the noise at a level."""
    return span[0] * (span[1] / span[0]) ** level


class Frame(NamedTuple):
    """What is known of B crystals before they exist: size and template, padded to N atoms.

    Args:
        mask (B, N); n (B,); spacegroup (B,) 0 where symmetry is not imposed.
        rep (B, N): index of the representative of each atom's orbit (itself without symmetry).
        turn (B, N, 3, 3): takes the representative to the atom, in fractional coordinates.
        back (B, N, 3, 3): its inverse.
        free (B, N, 3, 3): projection on the directions in which the representative may move.
        metric (B, 6, 6): average of the cell's metric over the group.
    """

    mask: Tensor
    n: Tensor
    spacegroup: Tensor
    rep: Tensor
    turn: Tensor
    back: Tensor
    free: Tensor
    metric: Tensor

    def same(self) -> Tensor:
        """(B, N, N) whether two atoms share an orbit."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return (self.rep[:, :, None] == self.rep[:, None, :]) & both

    def site(self) -> Tensor:
        """(B, N, 4) the site features of `model.Noisy`."""
        share = self.same().sum(-1).to(self.free.dtype) / self.n[:, None]
        freedom = self.free.diagonal(dim1=-2, dim2=-1).sum(-1) / 3
        told = (self.spacegroup > 0).to(share.dtype)[:, None].expand_as(share)
        return torch.stack([share, freedom, told, torch.ones_like(share)], -1)

    def spread(self, noise: Tensor) -> Tensor:
        """(B, N, 3) noise of single atoms -> what the template lets through, shared in each orbit."""
        own = _at(noise, self.rep)
        return (self.turn @ (self.free @ own[..., None]))[..., 0]

    def share(self, values: Tensor) -> Tensor:
        """(B, N, k) the representative's value for every atom of the orbit."""
        return _at(values, self.rep)

    def mean(self, values: Tensor) -> Tensor:
        """(B, N, k) averages over orbits."""
        same = self.same().to(values.dtype)
        return same @ values / same.sum(-1, keepdim=True).clamp_min(1)

    def project(self, shift: Tensor) -> Tensor:
        """(B, N, 3) shifts -> their mean over each orbit, in the directions that are free."""
        home = self.mean((self.back @ shift[..., None])[..., 0])
        return (self.turn @ (self.free @ home[..., None]))[..., 0]

    def spans(self) -> Tensor:
        """(B, N, 3) variance along each axis of unit noise after `spread`."""
        return (self.turn @ self.free @ self.turn.transpose(-1, -2)).diagonal(dim1=-2, dim2=-1)


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


class State(NamedTuple):
    """Noisy crystals: codes (B, N, 16), frac (B, N, 3), standardised channels (B, 6)."""

    codes: Tensor
    frac: Tensor
    channels: Tensor


class Estimate(NamedTuple):
    """What the network makes of them: logits (B, N, 119), shift (B, N, 3), channels (B, 6)."""

    logits: Tensor
    shift: Tensor
    channels: Tensor


class Process(torch.nn.Module):
    """The network together with the scales of the data and of the noise."""

    codes: Tensor
    centre: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, network: CrystalTransformer, codes: Tensor, noise: Noise = Noise()) -> None:  # noqa: B008
        super().__init__()
        self.network, self.noise = network, noise
        self.register_buffer("codes", codes.float())
        self.register_buffer("centre", torch.zeros(6))
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("seen", torch.zeros(len(codes), dtype=torch.bool))

    def fit_scales(self, channels: Tensor, numbers: Tensor) -> None:
        """Set the standardisation of the cell channels and the elements that the data holds."""
        self.centre.copy_(channels.mean(0))
        self.scale.copy_(channels.std(0).clamp_min(1e-3))  # constant where all are alike
        self.seen.zero_()[numbers.unique()] = True
        self.seen[0] = False

    def standard(self, channels: Tensor) -> Tensor:
        """Standardised lattice channels."""
        return (channels - self.centre) / self.scale

    def raw(self, standard: Tensor) -> Tensor:
        """Lattice channels from standardised ones."""
        return standard * self.scale + self.centre

    def estimate(
        self,
        state: State,
        frame: Frame,
        level: Tensor,
        type_level: Tensor,
        *,
        banned: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Estimate:
        """One call of the network, preconditioned, within the template.

        Args:
            state: noisy crystals at `level` (B,), their types at `type_level` (B,).
            frame: sizes and templates.
            banned: (B, 119) or (B, N, 119), true for elements that must not appear.
            extra: (B, width) property condition.
        """
        s_frac = sigma(self.noise.frac, level)
        s_cell = sigma(self.noise.channels, level)[:, None]
        s_type = sigma(self.noise.types, type_level)[:, None, None]
        shrunk = state.channels / (1 + s_cell**2)
        noisy = Noisy(
            types=state.codes / (1 + s_type**2).sqrt(),
            frac=state.frac,
            channels=state.channels / (1 + s_cell**2).sqrt(),
            cell=cell_of(self.raw(shrunk), frame.n),
            mask=frame.mask,
            n=frame.n,
            level=level,
            type_level=type_level,
            spacegroup=frame.spacegroup,
            site=frame.site(),
            same=frame.same(),
        )
        logits, shift, channels = self.network(noisy, extra)
        reach = s_frac * _UNIFORM / (s_frac**2 + _UNIFORM**2).sqrt()
        shift = frame.project(shift * reach[:, None, None]) * frame.mask[..., None]
        channels = shrunk + channels * s_cell / (1 + s_cell**2).sqrt()
        logits = frame.mean(logits)
        absent = ~self.seen if banned is None else banned | ~self.seen
        if absent.dim() < 3:
            absent = absent.expand(len(logits), -1)[:, None]
        return Estimate(logits.masked_fill(absent, -torch.inf), shift, channels)

    def project_channels(self, channels: Tensor, frame: Frame) -> Tensor:
        """Standardised channels of the nearest cell that the template's group keeps."""
        metric = metric_of(cell_of(self.raw(channels), frame.n))
        average = (frame.metric @ metric[..., None])[..., 0]
        return self.standard(channels_of_metric(average, frame.n))

    def losses(
        self,
        numbers: Tensor,
        frac: Tensor,
        channels: Tensor,
        frame: Frame,
        level: Tensor,
        type_level: Tensor,
        generator: torch.Generator | None = None,
        extra: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of each part, (B,) each: types (nats), coordinates and cell (1 = nothing learned)."""
        b, n = numbers.shape
        device = numbers.device

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        s_frac = sigma(self.noise.frac, level)[:, None, None]
        s_cell = sigma(self.noise.channels, level)[:, None]
        s_type = sigma(self.noise.types, type_level)[:, None, None]
        noise = s_frac * frame.spread(normal(b, n, 3))
        clean = self.standard(channels)
        state = State(
            self.codes[numbers] + s_type * frame.share(normal(b, n, self.codes.shape[1])),
            (frac + noise) % 1.0,
            clean + s_cell * normal(b, 6),
        )
        found = self.estimate(state, frame, level, type_level, extra=extra)
        wanted = frame.project(expected_shift(-noise, s_frac**2 * frame.spans()))
        reach = s_frac * _UNIFORM / (s_frac**2 + _UNIFORM**2).sqrt()
        per_atom = ((found.shift - wanted) / reach).square().mean(-1)
        log_p = found.logits.log_softmax(-1)
        chosen = -log_p.gather(-1, numbers[..., None])[..., 0]
        mask, count = frame.mask, frame.n
        gap = (found.channels - clean) * (1 + s_cell**2).sqrt() / s_cell
        return {
            "types": torch.where(mask, chosen, 0.0).sum(-1) / count,
            "coords": torch.where(mask, per_atom, 0.0).sum(-1) / count,
            "cell": gap.square().mean(-1),
        }


def expected_shift(shift: Tensor, variance: Tensor) -> Tensor:
    """Posterior mean over periodic images of a wrapped normal displacement, axis by axis.

    Args:
        shift: (..., 3) a displacement in fractional units, any image.
        variance: (..., 3) of the noise along each axis.
    """
    shift = shift - shift.round()
    images = shift[..., None] + torch.arange(-2.0, 3.0, device=shift.device)
    weight = (-images.square() / (2 * variance[..., None]).clamp_min(1e-9)).softmax(-1)
    return (weight * images).sum(-1)
