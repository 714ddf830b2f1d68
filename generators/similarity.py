"""How likely one element takes the place of another in a crystal structure."""

from __future__ import annotations

import json
import re
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.elements import ATOMIC_NUMBERS

_ION = re.compile(r"([A-Z][a-z]?)([\d.]*)([+-])")
_DEUTERIUM = "D1+"  # left out by pymatgen's model, and so by us
_UNSEEN = -5.0  # lambda of a pair of ions that was never observed


@lru_cache(maxsize=1)
def log_substitution() -> NDArray[np.float64]:
    """(119, 119) natural logarithm of p(new | old), indexed [new, old] by atomic number.

    Hautier, Fischer, Ehrlacher, Jain and Ceder, Inorg. Chem. 50, 656 (2011), with
    pymatgen's table. That model is about ions; an element pair takes the value of its likeliest pair of
    ions. Pairs without data take the table's smallest value.
    """
    rows = [(a, b, float(x)) for a, b, x in _table() if _DEUTERIUM not in (a, b)]
    named = dict.fromkeys(_ion(name) for a, b, _ in rows for name in (a, b))
    ions = {ion: i for i, ion in enumerate(named)}
    weights = np.full((len(ions), len(ions)), _UNSEEN)
    for a, b, value in rows:
        i, j = ions[_ion(a)], ions[_ion(b)]
        weights[i, j] = weights[j, i] = value
    joint = np.exp(weights)
    conditional = np.log(joint / joint.sum(axis=0))  # joint is symmetric
    best = np.full((119, 119), -np.inf)
    numbers = np.array([ATOMIC_NUMBERS.get(symbol, 0) for symbol, _ in ions])
    np.maximum.at(best, (numbers[:, None], numbers[None, :]), conditional)
    best[0], best[:, 0] = -np.inf, -np.inf
    return np.where(np.isinf(best), best[np.isfinite(best)].min(), best)


def _table() -> list[tuple[str, str, str]]:
    """Pymatgen's file; making its own model of it takes seconds."""
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    module = sys.modules[SubstitutionProbability.__module__].__file__
    assert module is not None
    file = Path(module).with_name("data") / "lambda.json"
    table: list[tuple[str, str, str]] = json.loads(file.read_bytes())
    return table


def _ion(name: str) -> tuple[str, float]:
    found = _ION.fullmatch(name)
    assert found is not None, name
    symbol, size, sign = found.groups()
    return symbol, float(sign + (size or "1"))
