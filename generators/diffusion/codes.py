"""Elements as points: a fixed continuous code in which chemical neighbours lie close.

The diffusion of atom types moves in this space; the network answers with a probability for each
element, so an element that is not allowed gets probability zero, exactly.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...core.elements import SYMBOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_ELEMENTS = 118
N_DESCRIBED = 94  # beyond plutonium the data is thin and no crystal is asked for
CODE_SIZE = 16
_CHEMICAL = 12  # dimensions from descriptors; the rest only tells similar elements apart
_SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}


@lru_cache(maxsize=1)
def element_codes() -> NDArray[np.float32]:
    """(119, 16) code of each atomic number, unit variance over the elements 1 to 94; other rows are 0.

    Twelve dimensions are principal components of period, group, block, electronegativity, radius,
    Mendeleev number, valence electrons and common oxidation states (pymatgen's element data), whitened
    half way; four are smooth waves of the atomic number that separate neighbours such as lanthanides.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen tells of each value it lacks
        rows = np.array([_descriptors(SYMBOLS[z]) for z in range(1, N_DESCRIBED + 1)])
    rows = (rows - rows.mean(0)) / rows.std(0)
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    chemical = rows @ axes[:_CHEMICAL].T / np.sqrt(values[:_CHEMICAL])
    # The sign of a principal component is arbitrary: fix it, so that every machine gets one code.
    chemical *= np.sign(chemical[np.abs(chemical).argmax(0), np.arange(_CHEMICAL)])
    chemical *= np.sqrt(_CHEMICAL / chemical.var(0).sum())
    z = np.arange(1, N_DESCRIBED + 1)
    waves = np.stack([f(2 * np.pi * z / p) for p in (5.0, 13.0) for f in (np.sin, np.cos)], 1)
    codes = np.zeros((N_ELEMENTS + 1, CODE_SIZE), dtype=np.float32)
    codes[1 : N_DESCRIBED + 1] = np.concatenate([chemical, waves * np.sqrt(2)], 1)
    return codes


def _descriptors(symbol: str) -> list[float]:
    from pymatgen.core import Element

    element = Element(symbol)
    x = float(element.X)  # NaN for noble gases
    radius = element.atomic_radius or element.atomic_radius_calculated or 1.6
    shells = dict.fromkeys(_SHELLS, 0)
    for _, kind, n in element.full_electronic_structure:
        shells[kind] = n  # the last, outermost, of each kind
    outer = [shells[k] / full for k, full in _SHELLS.items()]
    states = element.common_oxidation_states or (0,)
    block = [float(element.block == b) for b in "spdf"]
    group = float(element.group)
    return [
        float(element.row),
        group,
        np.sin(2 * np.pi * group / 18),
        *block,
        x if np.isfinite(x) else 2.2,
        float(radius),
        float(element.mendeleev_no or 1.0),
        *outer,
        float(max(states)),
        float(min(states)),
        float(element.is_metal),
    ]
