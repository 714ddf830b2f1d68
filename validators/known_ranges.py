"""What is known of volumes, distances and elements: ranges over a table of known crystals.

They are facts drawn from a structure table by

    python -m heliodor.validators.known_ranges TABLE.parquet OUT.json

and shipped as `data/known_ranges.json`, for the Materials Project table with the attribution in the
file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, SYMBOLS
from ..core.files import write_text
from ..core.protocols import Phase
from .geometry import periodic_images, reduced_cell
from .reference_embedded import ATTRIBUTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REACH = 6.0  # angstrom; atoms without a neighbour within it have no shortest distance
_TAIL = 0.001  # a share of crystals on either side that counts as outside of what is known
_IONIC = frozenset(ATOMIC_NUMBERS[s] for s in ("N", "O", "F", "S", "Cl", "Se", "Br", "I"))
_FEWEST = 5  # crystals that an element must be in to have a range of its own


@dataclass(frozen=True)
class KnownRanges:
    """Ranges that all but 0.1 % of the known crystals keep, on either side.

    Args:
        crystals: how many. attribution: whose.
        counts: in how many of them an element is, by symbol.
        volumes: cubic angstrom that an atom of an element adds to a cell, by least squares: of crystals
            with N, O, F, S, Cl, Se, Br or I ("ionic"), and without ("metallic").
        volume_ratio: lowest and highest ratio of a cell's volume to the sum of those.
        distance_ratio: lowest ratio of a shortest distance to the sum of the covalent radii of the pair.
        distance_ratios: the same of the crystals with an element, for its own shortest distances.
    """

    crystals: int
    attribution: str
    counts: Mapping[str, int]
    volumes: Mapping[str, Mapping[str, float]]
    volume_ratio: tuple[float, float]
    distance_ratio: float
    distance_ratios: Mapping[str, float]


@cache
def known_ranges() -> KnownRanges:
    """The ranges that ship with the package."""
    text = resources.files(__package__).joinpath("data/known_ranges.json").read_text("utf-8")
    content = json.loads(text)
    low, high = content["volume_ratio"]
    return KnownRanges(**{**content, "volume_ratio": (low, high)})


def expected_volume(crystal: Crystal, volumes: Mapping[str, Mapping[str, float]]) -> float:
    """Cubic angstrom of the cell by the sum over its atoms; NaN where an element has no volume."""
    own = volumes[_kind(crystal)]
    return sum(own.get(SYMBOLS[z], float("nan")) for z in crystal.atomic_numbers.tolist())


def _kind(crystal: Crystal) -> str:
    return "metallic" if _IONIC.isdisjoint(crystal.atomic_numbers.tolist()) else "ionic"


def distance_ratios(crystal: Crystal) -> dict[int, float]:
    """Of each element, the smallest ratio of a distance to the sum of the covalent radii of the pair.

    Elements whose atoms have no neighbour within 6 angstrom are left out.

    Raises:
        ValueError: the cell is too thin to gather neighbours.
    """
    from ase.data import covalent_radii
    from scipy.spatial import cKDTree

    basis, frac = reduced_cell(crystal)
    images, owner = periodic_images(basis, frac, frac, _REACH)
    pairs = cKDTree(frac @ basis).sparse_distance_matrix(cKDTree(images), _REACH, output_type="ndarray")
    i, j, length = pairs["i"], owner[pairs["j"]], pairs["v"]
    other = (i != j) | (length > 1e-6)  # all but the atom itself
    i, j, length = i[other], j[other], length[other]
    radii = np.asarray(covalent_radii, dtype=np.float64)[crystal.atomic_numbers]
    ratio = length / (radii[i] + radii[j])
    found: dict[int, float] = {}
    for z in np.unique(crystal.atomic_numbers[i]).tolist():
        found[z] = float(ratio[crystal.atomic_numbers[i] == z].min())
    return found


def derive(phases: Sequence[Phase], attribution: str) -> KnownRanges:
    """The ranges over known phases; those without a crystal are left out."""
    crystals = [p.crystal for p in phases if p.crystal is not None]
    counts = np.zeros((len(crystals), len(SYMBOLS)))
    shortest: dict[int, list[float]] = {}
    lowest = []
    for row, crystal in zip(counts, crystals, strict=True):
        np.add.at(row, crystal.atomic_numbers, 1)
        ratios = distance_ratios(crystal)
        lowest.append(min(ratios.values(), default=np.nan))
        for z, ratio in ratios.items():
            shortest.setdefault(z, []).append(ratio)
    present = np.flatnonzero(counts.any(axis=0)).tolist()
    volumes = _volumes(crystals, counts)
    relative = [c.volume / expected_volume(c, volumes) for c in crystals]
    low, high = np.quantile(relative, [_TAIL, 1 - _TAIL])
    return KnownRanges(
        crystals=len(crystals),
        attribution=attribution,
        counts={SYMBOLS[z]: int((counts[:, z] > 0).sum()) for z in present},
        volumes=volumes,
        volume_ratio=(round(float(low), 3), round(float(high), 3)),
        distance_ratio=round(float(np.nanquantile(lowest, _TAIL)), 3),
        distance_ratios={
            SYMBOLS[z]: round(float(np.quantile(found, _TAIL)), 3)
            for z, found in sorted(shortest.items())
            if len(found) >= _FEWEST
        },
    )


def _volumes(crystals: Sequence[Crystal], counts: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Volume of each element's atoms: non-negative least squares on volumes per atom."""
    from scipy.optimize import nnls

    kinds = np.array([_kind(crystal) for crystal in crystals])
    total = np.array([crystal.volume for crystal in crystals])
    found: dict[str, dict[str, float]] = {"ionic": {}, "metallic": {}}
    for kind, volumes in found.items():
        here = counts[kinds == kind]
        present = np.flatnonzero(here.any(axis=0)).tolist()
        if not present:
            continue
        atoms = here.sum(axis=1)
        fitted = nnls(here[:, present] / atoms[:, None], total[kinds == kind] / atoms)[0]
        volumes.update({SYMBOLS[z]: round(float(v), 2) for z, v in zip(present, fitted, strict=True)})
    return found


def main(arguments: Sequence[str]) -> None:
    """Write the ranges of a structure table."""
    from .tables import read_table

    table, out = (Path(argument) for argument in arguments)
    write_text(out, json.dumps(asdict(derive(read_table(table).phases, ATTRIBUTION)), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
