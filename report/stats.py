"""Intervals for counted rates."""

from __future__ import annotations

import math

from ..core.errors import InputError

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, as fractions; (0, 1) where nothing was counted.

    E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927), doi:10.1080/01621459.1927.10502953. Unlike the
    normal approximation it stays inside [0, 1] and is sound for the few hits of a discovery campaign.

    Raises:
        InputError: negative numbers, or more hits than trials.
    """
    if n < 0 or not 0 <= count <= n:
        raise InputError(f"count={count}, n={n}: a rate needs 0 <= count <= n")
    if n == 0:
        return 0.0, 1.0
    share, z2 = count / n, _Z95**2
    centre = share + z2 / (2 * n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    low = 0.0 if count == 0 else (centre - half) / scale
    high = 1.0 if count == n else (centre + half) / scale
    return low, high
