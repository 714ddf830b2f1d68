"""Flags of crystals that a potential may be wrong about: it has seen nothing like them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..core.columns import Column, Value
from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.protocols import Evaluator
from ..core.records import Evaluated, Judged
from .known_ranges import distance_ratios, expected_volume, known_ranges

log = logging.getLogger("heliodor.validators")

RARE = 100  # crystals of the table; elements in fewer are rare
FORCE = 10.0  # eV/angstrom; a round number: the training sets' own largest are not at hand
DEPTH = 0.3  # eV/atom below the known hull

_SOURCE = "ranges of known Materials Project crystals (validators/known_ranges.py)"


class Extrapolation:
    """Which of six signs of extrapolation a crystal shows.

    - an element that the potential was not trained on;
    - an element in fewer than 100 known crystals (He, Ar, Kr, Xe, Ac, Pa);
    - a volume that one in a thousand known crystals has, against the sum over its atoms;
    - a distance that is shorter, against the covalent radii, than in all but one in a thousand;
    - a force above 10 eV/angstrom on the crystal as it was proposed;
    - an energy more than 0.3 eV/atom below the hull of the known phases.

    Volumes and distances are those after relaxation, elements those of the Materials Project table,
    which stands for the training sets (they were drawn from the Materials Project, but are larger).
    Where no flag is raised the potential may still be wrong.

    Args:
        supports: whether the potential was trained on an element; None: not known.
        evaluator: gives the forces on proposed crystals; None: they are not looked at.
    """

    name = "extrapolation"
    columns = (
        Column(
            "extrapolates",
            "boolean",
            "at least one flag in `extrapolation`",
            "",
            _SOURCE,
            "null where nothing was relaxed; no flag is no proof",
        ),
        Column(
            "extrapolation", "string", "what speaks against trusting the potential here", "", _SOURCE
        ),
    )

    def __init__(
        self, supports: Callable[[int], bool] | None = None, evaluator: Evaluator | None = None
    ) -> None:
        self._supports = supports
        self._evaluator = evaluator

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        forces = self._forces([item.proposed for item in batch if item.relaxed is not None])
        rows: list[Mapping[str, Value]] = []
        for item in batch:
            if item.relaxed is None:
                rows.append({})
                continue
            flags = [*self._flags(item), *_force_flag(forces.get(item.proposed.digest))]
            rows.append({"extrapolates": bool(flags), "extrapolation": "; ".join(flags)})
        return rows

    def _flags(self, item: Judged) -> Iterator[str]:
        crystal, known = item.crystal, known_ranges()
        for symbol in crystal.elements:
            if self._supports is not None and not self._supports(SYMBOLS.index(symbol)):
                yield f"{symbol} was not in the training"
            elif known.counts.get(symbol, 0) < RARE:
                yield f"{symbol} is rare: in {known.counts.get(symbol, 0)} of {known.crystals:,}"
        yield from volume_flag(crystal)
        yield from distance_flag(crystal)
        if item.hull is not None and item.hull.decomposition_energy < -DEPTH:
            yield f"{-item.hull.decomposition_energy:.2f} eV/atom below the known hull"

    def _forces(self, crystals: Sequence[Crystal]) -> dict[str, float]:
        """Largest force on each crystal by key, eV/angstrom."""
        if self._evaluator is None:
            return {}
        unique = {crystal.digest: crystal for crystal in crystals}
        return {
            result.key: float(np.linalg.norm(result.forces, axis=1).max())
            for result in self._evaluator.evaluate(list(unique.values()))
            if isinstance(result, Evaluated)
        }


def volume_flag(crystal: Crystal) -> Iterator[str]:
    """A volume outside of the known range."""
    known = known_ranges()
    ratio = crystal.volume / expected_volume(crystal, known.volumes)
    low, high = known.volume_ratio
    if ratio < low or ratio > high:  # an element without a volume gives NaN, and is flagged as rare
        yield f"volume {ratio:.2f} of what its atoms take elsewhere, known {low:g} to {high:g}"


def distance_flag(crystal: Crystal) -> Iterator[str]:
    """Elements whose shortest distance is below the known range."""
    known = known_ranges()
    try:
        found = distance_ratios(crystal)
    except ValueError as error:  # a cell too thin to gather neighbours
        log.debug("no distances of %s: %s", crystal, error)
        return
    for z, ratio in found.items():
        least = known.distance_ratios.get(SYMBOLS[z], known.distance_ratio)
        if ratio < least:
            yield f"{SYMBOLS[z]} at {ratio:.2f} of the covalent radii, known from {least:g}"


def _force_flag(force: float | None) -> Iterator[str]:
    if force is not None and force > FORCE:
        yield f"forces of {force:.0f} eV/angstrom at the start"
