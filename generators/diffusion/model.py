"""The network: a small transformer over atoms and one lattice token, with periodic pair features.

Everything geometric enters through differences of fractional coordinates (periodic functions of them
and shortest images), the six rotation-free cell channels and the mask, so the output does not depend
on the choice of origin, images, orientation or padding, and permutes with the atoms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .codes import CODE_SIZE, N_ELEMENTS
from .lattice import CHANNELS

SITE_FEATURES = 4  # see `Batch.site`
_RADIAL = 16
_TIE = 0.01  # in squares of the mean spacing: how nearly equal distances count as equal
_REACH = 2.5  # of the mean spacing: where the radial functions end


class Shape(NamedTuple):
    """Size of the network."""

    width: int = 256
    depth: int = 8
    heads: int = 8
    pair: int = 64
    harmonics: int = 8
    max_atoms: int = 20


class Noisy(NamedTuple):
    """What the network sees: B crystals padded to N atoms.

    Args:
        types: (B, N, 16) noisy type codes, scaled to unit variance.
        frac: (B, N, 3) noisy fractional coordinates.
        channels: (B, 6) noisy standardised lattice channels, scaled to unit variance.
        cell: (B, 3, 3) a sane cell for distances, in angstrom (noise shrunk towards the mean).
        mask: (B, N) true for atoms.
        n: (B,) number of atoms.
        level: (B,) noise level of the geometry in [0, 1]; type_level: (B,) that of the types.
        spacegroup: (B,) number, 0 where it is not said.
        site: (B, N, 4) features of the site: share of atoms in the orbit, freedom of the orbit / 3,
            whether symmetry is said, 1.
        same: (B, N, N) whether two atoms belong to one orbit.
    """

    types: Tensor
    frac: Tensor
    channels: Tensor
    cell: Tensor
    mask: Tensor
    n: Tensor
    level: Tensor
    type_level: Tensor
    spacegroup: Tensor
    site: Tensor
    same: Tensor


def _mlp(inner: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.SiLU(), nn.Linear(width, out))


def _waves(level: Tensor, n: int = 32) -> Tensor:
    """(B, 2n) Fourier features of a level in [0, 1]."""
    frequency = torch.exp(torch.linspace(0.0, math.log(60.0), n).to(level))
    angle = level[:, None] * frequency * math.pi
    return torch.cat([angle.sin(), angle.cos()], -1)


def _full(x: Tensor) -> Tensor:
    """Half precision widened to single; double stays."""
    return x if x.dtype == torch.float64 else x.float()


class PairFeatures(nn.Module):
    """(B, N+1, N+1, pair) embedding of each ordered pair of tokens; the lattice token comes first."""

    images: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.harmonics = shape.harmonics
        grid = torch.tensor([-1.0, 0.0, 1.0])
        self.register_buffer("images", torch.cartesian_prod(grid, grid, grid), persistent=False)
        self.mlp = _mlp(6 * shape.harmonics + _RADIAL + 5, shape.pair, shape.pair)
        self.token = nn.Parameter(torch.zeros(3, shape.pair))  # lattice-lattice, -atom, atom-lattice

    def forward(self, noisy: Noisy) -> Tensor:
        """The embedding; see the class."""
        difference = noisy.frac[:, None, :, :] - noisy.frac[:, :, None, :]  # i, j: from i to j
        difference = difference - difference.round()
        spacing = (noisy.cell.diagonal(dim1=-2, dim2=-1).prod(-1) / noisy.n).pow(1 / 3)
        cell = noisy.cell / spacing[:, None, None]
        vectors = difference @ cell[:, None]  # (B, N, N, 3), nearest in fractional terms
        # The shortest of 27 images: |v + s|^2 = |v|^2 + 2 v.s + |s|^2, without a (B, N, N, 27, 3) array.
        shifts = self.images @ cell  # (B, 27, 3)
        squares = (
            vectors.square().sum(-1, keepdim=True)
            + 2 * vectors @ shifts.transpose(-1, -2)[:, None]
            + shifts.square().sum(-1)[:, None, None]
        )
        eye = torch.eye(noisy.frac.shape[1], dtype=torch.bool, device=vectors.device)
        squares = squares.masked_fill(
            eye[None, :, :, None] & (self.images == 0).all(-1), 1e6
        )  # an atom's own nearest image is a neighbour too
        distance = squares.amin(-1).clamp_min(1e-4).sqrt()
        # Images at equal distance share the direction: taking one of them would hang on rounding.
        near = (squares / -_TIE).softmax(-1)
        direction = (vectors + near @ shifts[:, None]) / (distance[..., None] + 0.1)
        centres = torch.linspace(0, _REACH, _RADIAL).to(vectors)
        radial = torch.exp(-((distance[..., None] - centres) * (_RADIAL / _REACH)).square() / 2)
        base = 2 * math.pi * difference
        waves = [f(k * base) for k in range(1, self.harmonics + 1) for f in (torch.sin, torch.cos)]
        flags = torch.stack([noisy.same.to(base.dtype), eye.to(base.dtype).expand_as(distance)], -1)
        pairs = self.mlp(torch.cat([*waves, radial, direction, flags], -1))
        b, n = distance.shape[:2]
        token = self.token.to(pairs.dtype)
        top = torch.cat([token[0].expand(b, 1, 1, -1), token[1].expand(b, 1, n, -1)], 2)
        return torch.cat([top, torch.cat([token[2].expand(b, n, 1, -1), pairs], 2)], 1)


class Block(nn.Module):
    """Attention that reads tokens and pairs, then an MLP; both modulated by the condition."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.heads = shape.width, shape.heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width + shape.heads * shape.pair, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.shift = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, pairs: Tensor, bias: Tensor, modulation: Tensor) -> Tensor:
        """Tokens x (B, T, w) pairs (B, T, T, pair), bias (B, heads, T, T), modulation (B, 6, w)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.shift)[:, :, None].unbind(1)
        h = self.norm1(x) * (1 + scale1) + shift1
        b, t, width = h.shape
        q, k, v = self.qkv(h).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + bias
        attention = scores.softmax(-1).to(v.dtype)
        seen = (attention @ v).transpose(1, 2).reshape(b, t, width)
        around = attention.transpose(1, 2) @ pairs  # (B, T, H, pair)
        x = x + gate1 * self.out(torch.cat([seen, around.flatten(2)], -1))
        h = self.norm2(x) * (1 + scale2) + shift2
        result: Tensor = x + gate2 * self.mlp(h)
        return result


class CrystalTransformer(nn.Module):
    """Predicts, for noisy crystals, the element of each atom, its displacement and the cell."""

    def __init__(self, shape: Shape = Shape()) -> None:  # noqa: B008 - immutable
        super().__init__()
        self.shape = shape
        width = shape.width
        self.pairs = PairFeatures(shape)
        self.bias = nn.Linear(shape.pair, shape.depth * shape.heads, bias=False)
        self.atom = nn.Linear(CODE_SIZE + SITE_FEATURES, width)
        self.lattice = nn.Linear(CHANNELS, width)
        self.time = _mlp(64, width, width)
        self.type_time = _mlp(64, width, width)
        self.size = nn.Embedding(shape.max_atoms + 1, width)
        self.group = nn.Embedding(231, width)
        self.condition = nn.Linear(CHANNELS, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final = nn.Linear(width, 2 * width)
        self.to_types = nn.Linear(width, N_ELEMENTS + 1)
        self.to_shift = nn.Linear(width, 3)
        self.to_lattice = nn.Linear(width, CHANNELS)
        ends = (self.modulation[1], self.final, self.to_shift, self.to_lattice, self.to_types)
        for parameter in (p for layer in ends for p in layer.parameters()):
            nn.init.zeros_(parameter)
        for embedding in (self.size, self.group):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, noisy: Noisy, extra: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Element logits (B, N, 119), shifts (B, N, 3) and lattice (B, 6), the latter two scaled.

        Args:
            noisy: the batch.
            extra: (B, width) added to the condition (properties).
        """
        condition = (
            self.time(_waves(noisy.level))
            + self.type_time(_waves(noisy.type_level))
            + self.size(noisy.n)
            + self.group(noisy.spacegroup)
            + self.condition(noisy.channels)
        )
        if extra is not None:
            condition = condition + extra
        modulation = self.modulation(condition).view(len(condition), 6, -1)
        atoms = self.atom(torch.cat([noisy.types, noisy.site], -1))
        x = torch.cat([self.lattice(noisy.channels)[:, None], atoms], 1)
        keys = functional.pad(torch.where(noisy.mask, 0.0, -1e9), (1, 0))
        pairs = self.pairs(noisy)
        bias = self.bias(pairs).permute(0, 3, 1, 2) + keys[:, None, None].to(pairs.dtype)
        for block, part in zip(self.blocks, bias.chunk(self.shape.depth, 1), strict=True):
            x = block(x, pairs, part, modulation)
        shift, scale = self.final(functional.silu(condition))[:, None].chunk(2, -1)
        x = self.norm(x) * (1 + scale) + shift
        atoms = x[:, 1:]
        return (
            _full(self.to_types(atoms)),
            _full(self.to_shift(atoms)),
            _full(self.to_lattice(x[:, 0])),
        )
