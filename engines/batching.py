"""How much goes into one evaluation, by the memory that it takes.

The memory of an evaluation grows with the pairs of neighbours, not with the atoms: a dense crystal has
five times the pairs of a sparse one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("heliodor.engines")

TARGET = 0.7  # share of the memory that an evaluation may take
_GROWTH = 2.0  # at most, from one evaluation to the next
_AFTER_FAILURE = 0.8  # of a size that ran out of memory: never tried again above it


@dataclass
class BatchSize:
    """Pairs in one evaluation; a crystal that has more is evaluated alone.

    Args:
        pairs: at first. 1: one crystal at a time.
        used: the largest share of the memory that was taken since it was asked last (0 to 1); None: the
            size stays, except that it is halved when memory runs out.
    """

    pairs: int
    used: Callable[[], float] | None = None
    _highest: float = float("inf")

    def succeeded(self, pairs: int) -> None:
        """An evaluation of so many pairs went well: come nearer to the target."""
        share = self.used() if self.used is not None else 0.0
        if share > 0:
            wished = min(pairs * TARGET / share, self._highest, self.pairs * _GROWTH)
            # A small evaluation says little: its memory is mostly the potential's own.
            self.pairs = max(1, int(wished if pairs > self.pairs / 2 else max(wished, self.pairs)))

    def ran_out(self, pairs: int) -> None:
        """An evaluation of so many pairs ran out of memory."""
        self.pairs = max(1, pairs // 2)
        self._highest = min(self._highest, _AFTER_FAILURE * pairs)
        log.warning("out of memory with %d pairs: %d at a time from now on", pairs, self.pairs)


def gpu_memory(device: str) -> Callable[[], float]:
    """The share of a GPU's memory that was taken at most since it was asked last."""
    import torch

    total = torch.cuda.mem_get_info(device)[1]

    def used() -> float:
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(peak / total)

    return used
