"""What one crystal to be generated must obey, and how a batch of such plans becomes tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...core.elements import SYMBOLS
from ..charge import charge_balanced
from .codes import N_ELEMENTS

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .process import Frame
    from .symmetry import Template


@dataclass(frozen=True, eq=False)
class Fixed:
    """Atoms and cell channels that are held while the rest is generated. They come first in the crystal.

    Args:
        frac: (k, 3) fractional coordinates, up to one common translation.
        numbers: (k,) their atomic numbers.
        channels: (6,) raw lattice channels; NaN where the cell is free.
    """

    frac: NDArray[np.float64]
    numbers: NDArray[np.int64]
    channels: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Start:
    """A crystal to begin from: it is noised up to `level` instead of starting from pure noise.

    Args:
        frac: (n, 3); numbers: (n,); channels: (6,) raw.
        level: in (0, 1]; small stays close.
    """

    frac: NDArray[np.float64]
    numbers: NDArray[np.int64]
    channels: NDArray[np.float64]
    level: float


@dataclass(frozen=True, eq=False)
class Plan:
    """One crystal to be made.

    Args:
        template: its size, and the space group within which it is made (P1: no symmetry imposed).
        allowed: (119,) true for elements that may appear.
        required: atomic numbers that must each appear.
        n_elements: exact number of different elements, or None.
        balanced: take elements whose oxidation states can add up to zero, if any such choice is there.
        numbers: (n,) atomic numbers where the composition is given, or None.
        fixed, start: see there.
        targets: property values to steer towards, by name.
    """

    template: Template
    allowed: NDArray[np.bool_]
    required: tuple[int, ...] = ()
    n_elements: int | None = None
    balanced: bool = False
    numbers: NDArray[np.int64] | None = None
    fixed: Fixed | None = None
    start: Start | None = None
    targets: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.template.orbit)


def frame_of(plans: Sequence[Plan], width: int, device: str, dtype: torch.dtype | None = None) -> Frame:
    """The templates of a batch, padded to `width` atoms, in single precision if no other is given."""
    import torch

    from .process import Frame

    b = len(plans)
    rep = np.tile(np.arange(width), (b, 1))
    turn = np.tile(np.eye(3), (b, width, 1, 1))
    free = turn.copy()
    mask = np.zeros((b, width), bool)
    metric = np.zeros((b, 6, 6))
    for k, plan in enumerate(plans):
        t, n = plan.template, len(plan)
        rep[k, :n], turn[k, :n], free[k, :n] = t.representatives[t.orbit], t.rotation, t.free
        mask[k, :n], metric[k] = True, t.metric
    group = [t if t > 1 else 0 for t in (p.template.spacegroup for p in plans)]

    def there(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.as_tensor(array, device=device)

    def real(array: NDArray[np.float64]) -> torch.Tensor:
        return torch.as_tensor(array, dtype=dtype or torch.float32, device=device)

    return Frame(
        mask=there(mask),
        n=torch.tensor([len(p) for p in plans], device=device),
        spacegroup=torch.tensor(group, device=device),
        rep=there(rep),
        turn=real(turn),
        back=real(np.rint(np.linalg.inv(turn))),
        free=real(free),
        metric=real(metric),
    )


def banned_of(plans: Sequence[Plan], width: int, device: str) -> torch.Tensor:
    """(B, N, 119) true for elements that an atom must not be."""
    import torch

    banned = np.zeros((len(plans), width, N_ELEMENTS + 1), bool)
    for k, plan in enumerate(plans):
        banned[k] = ~plan.allowed
        if plan.fixed is not None:
            for site, z in enumerate(plan.fixed.numbers):
                banned[k, site] = True
                banned[k, site, z] = False
    return torch.as_tensor(banned, device=device)


def settle(
    log_p: NDArray[np.float64],
    orbit: NDArray[np.int64],
    required: tuple[int, ...] = (),
    n_elements: int | None = None,
    *,
    balanced: bool = False,
) -> NDArray[np.int64]:
    """Elements of the atoms: the most probable that meet what is asked for.

    Args:
        log_p: (n, 119) log probabilities, equal within an orbit; -inf where an element is not allowed.
        orbit: (n,) orbit of each atom.
        required: atomic numbers that must appear. n_elements: exact number of different elements.
        balanced: prefer compositions in charge balance.

    Returns:
        (n,) atomic numbers.

    Raises:
        ValueError: there are fewer orbits than elements to be placed.
    """
    sizes = np.bincount(orbit)
    first = np.array([int(np.argmax(orbit == o)) for o in range(len(sizes))])
    score = np.maximum(log_p[first], -1e6) * sizes[:, None]
    chosen = np.argmax(log_p[first], 1)
    if balanced:
        best = _in_balance(score, sizes, required, n_elements)
        if best is not None:
            return best[orbit]
    if n_elements is None:
        return _with(score, chosen, required)[orbit]
    wanted = set(required)
    # The elements to use: what is required, then those whose best orbit gains most, one by one.
    while len(wanted) < n_elements:
        rest = [z for z in np.flatnonzero((log_p[first] > -np.inf).any(0)) if z not in wanted]
        if not rest:
            raise ValueError("fewer elements are allowed than asked for")
        now = score[:, sorted(wanted)].max(1) if wanted else np.full(len(first), -1e6)
        gains = [np.maximum(score[:, z] - now, 0).sum() for z in rest]
        wanted.add(int(rest[int(np.argmax(gains))]))
    among = sorted(wanted)
    chosen = np.array(among)[np.argmax(score[:, among], 1)]
    return _with(score, chosen, tuple(among))[orbit]


_AMONG = 8  # elements between which balance is looked for: the required ones, then the likeliest
_STATES = 3000  # compositions that are followed at once


def _in_balance(
    score: NDArray[np.float64],
    sizes: NDArray[np.int64],
    required: tuple[int, ...],
    n_elements: int | None,
) -> NDArray[np.int64] | None:
    """The best choice of elements (orbits,) in charge balance, or None.

    For each composition that the orbits met so far can have, the best way to it is kept; so the result
    is exact unless there are more than `_STATES` compositions.
    """
    likely = np.argsort(-score.max(0), kind="stable")
    among = [*required, *(int(z) for z in likely if z not in required and score[:, z].max() > -1e6)]
    among = among[: max(_AMONG, len(required))]
    ways: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {(0,) * len(among): (0.0, ())}
    for o, size in enumerate(sizes.tolist()):
        ahead: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
        for counts, (value, path) in ways.items():
            for k, z in enumerate(among):
                gain = value + float(score[o, z])
                reached = (*counts[:k], counts[k] + size, *counts[k + 1 :])
                if reached not in ahead or gain > ahead[reached][0]:
                    ahead[reached] = (gain, (*path, z))
        ways = dict(sorted(ahead.items(), key=lambda item: -item[1][0])[:_STATES])
    for counts, (value, path) in ways.items():  # the likeliest first
        present = {z: n for z, n in zip(among, counts, strict=True) if n}
        fits = present.keys() >= set(required) and n_elements in (None, len(present))
        if value > -1e5 and fits and charge_balanced({SYMBOLS[z]: n for z, n in present.items()}):
            return np.array(path)
    return None


def _with(
    score: NDArray[np.float64], chosen: NDArray[np.int64], required: tuple[int, ...]
) -> NDArray[np.int64]:
    """The choice, changed at the least cost so that every required element appears."""
    missing = [z for z in required if z not in chosen]
    if not missing:
        return chosen
    from scipy.optimize import linear_sum_assignment

    if len(required) > len(chosen):
        raise ValueError(f"{len(chosen)} orbits cannot hold {len(required)} elements")
    best = score[np.arange(len(chosen)), chosen]
    orbits, which = linear_sum_assignment((best[:, None] - score[:, list(required)]).clip(0))
    result = chosen.copy()
    result[orbits] = np.array(required)[which]
    return result
