"""How far each potential is from DFT, measured: the numbers behind the uncertainties.

`data/calibration.json` is written by

    python benchmarks/calibration.py --write validators/data/calibration.json

from single points at the DFT geometry. The errors that uncertainties use are those on WBM (H.-C. Wang,
S. Botti, M. Marques, npj Comput. Mater. 7, 12 (2021)): crystals made by substitution that were not in
the training, as the candidates of a campaign are. On rows of the Materials Project, which the potentials
have seen, errors are several times smaller; a crystal far from all that is known is further off than
either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np


@dataclass(frozen=True)
class Errors:
    """Errors of formation energies against DFT, eV/atom: the potential's minus DFT's.

    Args:
        rows: how many. mae: mean absolute error. bias: mean error.
        half_width: 68.3 % of the absolute errors are smaller.
        quantiles: of the signed errors at the shares 0, 1/40, ... 1.
    """

    rows: int
    mae: float
    bias: float
    half_width: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """A potential's errors, on what it has seen and on what it has not.

    Args:
        date: of the measurement. known: rows of the Materials Project. new: rows of WBM.
    """

    date: str
    known: Errors
    new: Errors


def _read() -> Mapping[str, Calibration]:
    text = resources.files(__package__).joinpath("data/calibration.json").read_text("utf-8")
    content = json.loads(text)
    return {
        model: Calibration(content["date"], Errors(**found["known"]), Errors(**found["new"]))
        for model, found in content["potentials"].items()
    }


CALIBRATIONS: Mapping[str, Calibration] = _read()
"""By model name, as in `core.records.Relaxed.model`."""


def likelihood(model: str, distance: float, threshold: float) -> float:
    """Share of the errors on new crystals that leave DFT's distance to the hull at most `threshold`.

    Args:
        model: one of `CALIBRATIONS`. distance: the potential's signed distance to the hull, eV/atom.
        threshold: eV/atom.
    """
    quantiles = CALIBRATIONS[model].new.quantiles
    shares = np.linspace(0, 1, len(quantiles))
    return float(1 - np.interp(distance - threshold, quantiles, shares, left=0.0, right=1.0))
