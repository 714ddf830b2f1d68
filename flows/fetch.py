"""What `heliodor reference fetch` does: the Materials Project's phases into the cache."""

from __future__ import annotations

from itertools import combinations
from math import comb

from ..core.choices.references import ThermoType
from ..core.elements import chemsys
from ..core.errors import InputError
from ..core.settings import load_settings
from .build import mp_supply

_MOST = 10_000
"""Chemical systems in all: some 20 queries of up to 511."""


def fetch(elements: tuple[str, ...], thermo_type: ThermoType, up_to: int | None = None) -> str:
    """Fetch chemical systems in the version that is served now; returns what came, in words.

    What of that version is in the cache already is not fetched again.

    Args:
        up_to: all systems of so many of the elements, instead of all of them together.

    Raises:
        InputError: more than 9 elements without `up_to`, or too many systems.
        ReferenceUnavailableError: no key, no answer, or an element without an energy.
    """
    sizes = _size(elements, up_to)
    supply = mp_supply(thermo_type, load_settings())
    version = supply.update()
    found, lacking = supply.provide(map(frozenset, combinations(elements, sizes)))
    if not found:
        raise next(iter(lacking.values()))
    snapshots = {snapshot.path for snapshot in found.values()}
    text = f"Materials Project {version}, {thermo_type}: {len(found)} of {len(found) + len(lacking)}"
    text += f" chemical systems of {chemsys(elements)} with subsystems, in {len(snapshots)} file(s)"
    return text + "".join(f"\n{reason}" for reason in sorted({e.message for e in lacking.values()}))


def _size(elements: tuple[str, ...], up_to: int | None) -> int:
    """How many elements a chemical system is to have."""
    from ..validators.mp_supply import MAX_ELEMENTS

    n = len(elements)
    size = min(n, up_to or n)
    if size > MAX_ELEMENTS:
        raise InputError(
            f"got {n} elements; the Materials Project answers for at most {MAX_ELEMENTS} together",
            hint="--up-to 4 fetches the chemical systems of up to 4 of them",
        )
    systems = sum(comb(n, k) for k in range(1, size + 1))
    if systems > _MOST:
        raise InputError(
            f"{systems:,} chemical systems of up to {size} of {n} elements; at most {_MOST:,} at once",
            hint="a smaller --up-to; a campaign fetches the systems that its crystals need by itself",
        )
    return size
