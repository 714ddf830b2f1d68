"""Few features of compositions, standardised, for distances without units."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal

PROPERTIES = ("Z", "atomic_mass", "row", "group", "mendeleev_no", "X", "ionization_energy")
"""pymatgen's elemental properties; an electronegativity (X) that is not defined counts as 0."""


def composition_features(crystals: Sequence[Crystal]) -> NDArray[np.float64]:
    """Mean, mean absolute deviation and range of each of `PROPERTIES` over the atoms, (n, 21).

    Of the kind of Magpie's (Ward et al., npj Comput. Mater. 2, 16028 (2016)); each property is first
    brought to mean 0 and standard deviation 1 over the elements 1 to 103.
    """
    table = _element_table()
    rows = []
    for crystal in crystals:
        numbers, counts = np.array(crystal.reduced_composition).T
        values, weights = table[numbers], (counts / counts.sum())[:, None]
        mean = (weights * values).sum(axis=0)
        deviation = (weights * np.abs(values - mean)).sum(axis=0)
        rows.append(np.concatenate([mean, deviation, np.ptp(values, axis=0)]))
    return np.array(rows).reshape(-1, 3 * len(PROPERTIES))


@lru_cache(maxsize=1)
def _element_table() -> NDArray[np.float64]:
    """(119, properties), standardised; row z is the element of atomic number z."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases without electronegativity
        raw = np.array(
            [[float(getattr(Element.from_Z(z), p) or 0) for p in PROPERTIES] for z in range(1, 119)]
        )
    raw = np.nan_to_num(raw)
    scaled = (raw - raw[:103].mean(axis=0)) / raw[:103].std(axis=0)
    return np.concatenate([np.zeros((1, len(PROPERTIES))), scaled])
