"""The crystals of a training, resident on the device: drawn in batches, noised, and the loss of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from .process import Frame, Process

if TYPE_CHECKING:
    from .data import Packed

EDGES = (4, 6, 8, 10, 12, 14, 16, 20)  # atoms


class Resident:
    """Crystals as tensors on one device, in groups of like size.

    Args:
        rows: which of the packed crystals; those of more than `width` atoms are left out.
        edges: crystals are batched with others of like size, padded to the next of these.

    Raises:
        InputError: none is left.
    """

    def __init__(
        self,
        packed: Packed,
        rows: np.ndarray,
        width: int,
        device: str,
        edges: Sequence[int] = EDGES,
    ) -> None:
        rows = rows[packed.n[rows] <= width]
        if not len(rows):
            raise InputError(f"no crystal of at most {width} atoms in the training table")

        def there(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array[rows]), dtype=dtype, device=device)

        self.numbers = there(packed.numbers[:, :width].astype(np.int64), torch.long)
        self.frac = there(packed.frac[:, :width], torch.float32)
        self.channels = there(packed.channels, torch.float32)
        self.frames = frames(packed, rows, width, device)
        widths = sorted({min(e, width) for e in edges} | {width})
        group = np.searchsorted(widths, packed.n[rows])
        self.groups = [
            (edge, torch.as_tensor(np.flatnonzero(group == k), device=device))
            for k, edge in enumerate(widths)
            if (group == k).any()
        ]
        sizes = np.array([len(index) for _, index in self.groups], float)
        self.shares = sizes / sizes.sum()

    def __len__(self) -> int:
        return len(self.channels)

    def draw(self, rng: np.random.Generator, batch: int, device: str) -> tuple[Tensor, int]:
        """Rows of one batch (with replacement, one group of sizes), and the width that holds them."""
        edge, index = self.groups[rng.choice(len(self.groups), p=self.shares)]
        chosen = torch.as_tensor(rng.integers(0, len(index), batch), device=device)
        return index[chosen], edge


def frames(packed: Packed, rows: np.ndarray, width: int, device: str) -> Frame:
    """The templates of some crystals as one `Frame`."""
    orbit = packed.orbit[rows][:, :width].astype(np.int64)
    mask = orbit >= 0
    turn = packed.rotation[rows][:, :width].astype(np.float32)
    turn[~mask] = np.eye(3)
    free = packed.free[rows][:, :width].astype(np.float32)
    rep = np.where(mask, (orbit[:, :, None] == orbit[:, None, :]).argmax(-1), np.arange(width))

    def there(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=device)

    return Frame(
        mask=there(mask),
        n=there(packed.n[rows].astype(np.int64)),
        spacegroup=there(packed.spacegroup[rows].astype(np.int64)),
        rep=there(rep),
        turn=there(turn),
        back=there(np.rint(np.linalg.inv(turn)).astype(np.float32)),
        free=there(free),
        metric=there(packed.metric[rows].astype(np.float32)),
    )


def take(frame: Frame, rows: Tensor, width: int, symmetric: Tensor) -> Frame:
    """Some crystals of a frame, cut to `width` atoms; without symmetry where `symmetric` is false."""
    cut = Frame(*(part[rows] for part in frame))
    n = torch.arange(width, device=rows.device)
    eye = torch.eye(3, device=rows.device)
    keep = symmetric[:, None, None, None]
    return Frame(
        mask=cut.mask[:, :width],
        n=cut.n,
        spacegroup=torch.where(symmetric, cut.spacegroup, 0),
        rep=torch.where(symmetric[:, None], cut.rep[:, :width], n),
        turn=torch.where(keep, cut.turn[:, :width], eye),
        back=torch.where(keep, cut.back[:, :width], eye),
        free=torch.where(keep, cut.free[:, :width], eye),
        metric=torch.where(symmetric[:, None, None], cut.metric, torch.eye(6, device=rows.device)),
    )


def noised_losses(
    process: Process,
    data: Resident,
    rows: Tensor,
    width: int,
    rng: np.random.Generator,
    noise: torch.Generator,
    *,
    symmetric: float,
    known_types: float,
    extra: Tensor | None = None,
) -> dict[str, Tensor]:
    """Loss of each part, (B,) each, of some crystals at levels drawn by `rng`, with noise from `noise`.

    Args:
        rows, width: which crystals, cut to how many atoms.
        symmetric, known_types: shares that are noised within their space group, or have clean types.
        extra: (B, width) property condition.
    """
    b, device = len(rows), data.frac.device

    def chance(share: float) -> Tensor:
        return torch.rand(b, device=device, generator=noise) < share

    level = torch.as_tensor(rng.beta(1.6, 1.2, b), dtype=torch.float32, device=device)
    type_level = torch.where(chance(known_types), 0.0, level)
    frame = take(data.frames, rows, width, chance(symmetric))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return process.losses(
            data.numbers[rows, :width],
            data.frac[rows, :width],
            data.channels[rows],
            frame,
            level,
            type_level,
            noise,
            extra,
        )
