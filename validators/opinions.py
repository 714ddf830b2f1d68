"""Second opinions on the energy above the hull: further potentials, and how far all may be off.

Each further potential relaxes the crystal on, from where the campaign's own potential left it, and is
judged against the same known phases. What the opinions say together:

- `energy_above_hull_mean`: the mean of the signed distances to the hull, never negative;
- `energy_above_hull_spread`: half the range of the signed distances (below the hull too, where the
  energies above the hull are all 0 and would agree for no reason);
- `energy_above_hull_uncertainty`: u = sqrt(c^2 + s^2) with the spread s (0 for one potential) and the
  mean c of the potentials' calibrated errors (see `calibration`): potentials trained on the same data
  err together, so that their mean is taken to be no better than they are on average;
- `stable_0_consensus`, ...: every potential says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..core.columns import Column, Value
from ..core.errors import HeliodorError
from ..core.protocols import Relaxer
from ..core.records import Failure, HullPoint, Judged, Reason, Relaxed
from .calibration import CALIBRATIONS, likelihood

log = logging.getLogger("heliodor.validators")

THRESHOLDS = (0.0, 0.1)  # eV/atom

Judge = Callable[[Sequence[Relaxed]], list[HullPoint | Failure]]


@dataclass(frozen=True)
class Opinion:
    """A further potential, and how its energies are judged."""

    relaxer: Relaxer
    judge: Judge


class Opinions:
    """Columns of each potential, and of all together.

    Args:
        model: the campaign's own potential. further: the other ones; none: the uncertainty only.
    """

    name = "opinions"

    def __init__(self, model: str, further: Sequence[Opinion] = ()) -> None:
        self._model = model
        self._further = tuple(further)
        self._models = (model, *(opinion.relaxer.model for opinion in further))
        self.columns = _columns(self._models)

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        found: list[dict[str, HullPoint | Failure]] = [
            {self._model: item.hull} if item.hull is not None else {} for item in batch
        ]
        for opinion in self._further:
            points = _ask(opinion, [item for item in batch if item.relaxed and item.hull])
            for item, said in zip(batch, found, strict=True):
                if said:
                    said[opinion.relaxer.model] = points[item.crystal.digest]
        return [self._row(said) for said in found]

    def _row(self, said: Mapping[str, HullPoint | Failure]) -> dict[str, Value]:
        if not said:
            return {}
        points = {m: p for m, p in said.items() if isinstance(p, HullPoint)}
        row: dict[str, Value] = {**together(points)}
        if self._further:
            for model, point in said.items():
                row.update(_alone(model, point))
            row.update(_consensus(points, complete=len(points) == len(self._models)))
        return row


def _ask(opinion: Opinion, batch: Sequence[Judged]) -> dict[str, HullPoint | Failure]:
    """By key of the relaxed crystal; what hinders the potential as a whole fails every crystal."""
    crystals = {item.crystal.digest: item.crystal for item in batch}
    found: dict[str, HullPoint | Failure] = {}
    try:
        relaxed: list[Relaxed] = []
        for result in opinion.relaxer.relax(list(crystals.values())):
            if isinstance(result, Failure):
                found[result.key] = result
            else:
                relaxed.append(result)
        points = opinion.judge(relaxed)
    except HeliodorError as error:
        log.warning("no opinion from %s: %s", opinion.relaxer.model, error)
        return {key: _unavailable(key, error) for key in crystals}
    for result, point in zip(relaxed, points, strict=True):
        found[result.key] = point if result.converged else _not_converged(result)
    return found


def _alone(model: str, point: HullPoint | Failure) -> dict[str, Value]:
    if isinstance(point, Failure):
        return {f"not_judged_{model}": f"{point.reason}: {point.detail}".removesuffix(": ")}
    return {
        f"energy_above_hull_{model}": point.energy_above_hull,
        f"formation_energy_per_atom_{model}": point.formation_energy_per_atom,
        **{f"stable_{t:g}_{model}": point.energy_above_hull <= t for t in THRESHOLDS},
    }


def together(points: Mapping[str, HullPoint]) -> dict[str, Value]:
    """Uncertainty and likelihoods, as far as the potentials are calibrated."""
    if not points or not points.keys() <= CALIBRATIONS.keys():
        return {}
    signed = [point.decomposition_energy for point in points.values()]
    spread = (max(signed) - min(signed)) / 2
    error = sum(CALIBRATIONS[model].new.half_width for model in points) / len(points)
    return {
        "energy_above_hull_uncertainty": math.hypot(error, spread),
        **{
            f"stable_{t:g}_likelihood": sum(
                likelihood(model, point.decomposition_energy, t) for model, point in points.items()
            )
            / len(points)
            for t in THRESHOLDS
        },
    }


def _consensus(points: Mapping[str, HullPoint], *, complete: bool) -> dict[str, Value]:
    if not points:
        return {}
    signed = [point.decomposition_energy for point in points.values()]
    row: dict[str, Value] = {"energy_above_hull_mean": max(0.0, sum(signed) / len(signed))}
    if len(signed) > 1:
        row["energy_above_hull_spread"] = (max(signed) - min(signed)) / 2
    for t in THRESHOLDS:
        agree = all(point.energy_above_hull <= t for point in points.values())
        row[f"stable_{t:g}_consensus"] = agree if complete or not agree else None
    return row


def _unavailable(key: str, error: HeliodorError) -> Failure:
    return Failure(key, Reason.CHECK_FAILED, error.message)


def _not_converged(result: Relaxed) -> Failure:
    detail = f"{result.max_force:.2g} eV/angstrom after {result.steps} steps"
    return Failure(result.key, Reason.NOT_CONVERGED, detail)


def _columns(models: Sequence[str]) -> tuple[Column, ...]:
    ev, hull = "eV/atom", "the hull of the reference"
    rows = "errors on WBM crystals: validators/calibration.py"
    far = "crystals further from the known ones than WBM's are further off"
    found = [
        Column(
            "energy_above_hull_uncertainty",
            "float64",
            "sqrt(c^2 + s^2): calibrated error of the potentials c, spread s",
            ev,
            rows,
            f"{far}; null for a potential that is not calibrated; the part of the reference's hull "
            "that is missing is not in it",
        ),
        *(
            Column(
                f"stable_{t:g}_likelihood",
                "float64",
                f"share of the calibration's errors that leave it at most {t:g} above the hull",
                "",
                rows,
                f"{far}; says nothing of how rare stable crystals are among what was proposed",
            )
            for t in THRESHOLDS
        ),
    ]
    if len(models) == 1:
        return tuple(found)
    for model in models:
        found += [
            Column(f"energy_above_hull_{model}", "float64", f"by {model}; never negative", ev, hull),
            Column(f"formation_energy_per_atom_{model}", "float64", f"by {model}", ev),
            *(
                Column(
                    f"stable_{t:g}_{model}", "boolean", f"energy_above_hull_{model} <= {t:g}", "", hull
                )
                for t in THRESHOLDS
            ),
            Column(f"not_judged_{model}", "string", f"why {model} has no opinion"),
        ]
    all_of = ", ".join(models)
    found += [
        Column(
            "energy_above_hull_mean",
            "float64",
            f"mean of the signed distances by {all_of}; at least 0",
            ev,
            hull,
            "over those that have an opinion",
        ),
        Column(
            "energy_above_hull_spread",
            "float64",
            "half the range of the signed distances to the hull",
            ev,
            hull,
            "null with one opinion; potentials that were trained on the same data err together",
        ),
        *(
            Column(
                f"stable_{t:g}_consensus",
                "boolean",
                f"all of {all_of} say: energy_above_hull <= {t:g}",
                "",
                hull,
                "null where one has no opinion and no other disagrees",
            )
            for t in THRESHOLDS
        ),
    ]
    return tuple(found)
