"""ABINIT's variables: what they are for a crystal, and what a mended attempt changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from .pseudopotentials import Pseudopotential

HARTREE = 27.211386245988  # eV, CODATA 2018
SMEARING = 0.005  # hartree, Gaussian
"""Width. Cold smearing needs no extrapolation, but its Fermi level is not unique (F. J. dos Santos,
N. Marzari, PRB 107, 195122 (2023)): ABINIT 9.6 found one within the valence bands of silicon."""
FORCE = 5e-4
"""Threshold in hartree/bohr (0.026 eV/angstrom) on atoms; on the cell 5e-6 hartree/bohr^3, 0.15 GPa."""

MOMENTS: dict[str, float] = {
    "V": 3.0,
    "Cr": 5.0,
    "Mn": 5.0,
    "Fe": 4.0,
    "Co": 3.0,
    "Ni": 2.0,
    "Ce": 1.0,
    "Pr": 2.0,
    "Nd": 3.0,
    "Pm": 4.0,
    "Sm": 5.0,
    "Eu": 7.0,
    "Gd": 7.0,
    "Tb": 6.0,
    "Dy": 5.0,
    "Ho": 4.0,
    "Er": 3.0,
    "Tm": 2.0,
    "Yb": 1.0,
    "U": 2.0,
    "Np": 4.0,
    "Pu": 5.0,
}
"""Initial moments in Bohr magneton: the high-spin ones of the free atom or the common ion, rounded."""
_OXYGEN_MOMENT = 1.0  # the triplet of O2

MENDS: dict[str, dict[str, Any]] = {
    "mixing": {"nstep": 150, "diemix": 0.3, "diemac": 10.0},
    "slow mixing": {"nstep": 300, "diemix": 0.15, "nnsclo": 4, "npulayit": 15},
    "cell": {"dilatmx": 1.3, "chkdilatmx": 0},  # room for the cell to grow while it is relaxed
    "symmetry": {"nsym": 1},
}
"""What another attempt changes: the way, never the energy that it leads to."""


def moments(crystal: Crystal) -> dict[str, float]:
    """Initial moments by element (Bohr magneton); empty: without spin."""
    if tuple(crystal.elements) == ("O",):
        return {"O": _OXYGEN_MOMENT}
    return {e: MOMENTS[e] for e in crystal.elements if e in MOMENTS}


def static_variables(crystal: Crystal, mends: Sequence[str]) -> dict[str, Any]:
    """ABINIT's variables apart from what atomate2's factories set; None takes one of theirs away."""
    variables: dict[str, Any] = {
        "tolrff": None,  # relative to forces that symmetry may make zero
        "tolvrs": 1e-8,
        "nstep": 60,
        "ecutsm": 0.5,  # in both jobs: it changes the energy
        "chkprim": 0,  # the cell as it is, which need not be primitive,
        "chksymbreak": 0,  # and a grid that need not have its symmetry
        "chksymtnons": 0,
        "usexcnhat": 0,  # PAW: one formulation for all, which datasets of several makers differ in
        "pawovlp": -1,  # spheres overlap in many oxides; ABINIT would end
        "prtwf": 0,
        "prteig": 0,
        "prtebands": 0,
    }
    if spin := moments(crystal):
        symbols = [SYMBOLS[z] for z in crystal.atomic_numbers]
        variables["spinat"] = [[0.0, 0.0, spin.get(symbol, 0.0)] for symbol in symbols]
    for mend in mends:
        if mend != "cell":
            variables |= MENDS[mend]
    return variables


def relax_variables(crystal: Crystal, mends: Sequence[str]) -> dict[str, Any]:
    """The same for the relaxation of atoms and cell."""
    relaxing = {"ionmov": 2, "ntime": 40, "dilatmx": 1.05, "tolmxf": FORCE}
    return static_variables(crystal, mends) | relaxing | (MENDS["cell"] if "cell" in mends else {})


def bands(crystal: Crystal, chosen: Mapping[str, Pseudopotential]) -> int:
    """Bands: the filled ones, a fifth more and two for the smearing, and those of the larger spin."""
    spin = moments(crystal)
    symbols = [SYMBOLS[z] for z in crystal.atomic_numbers]
    electrons = sum(chosen[symbol].valence for symbol in symbols)
    moment = sum(spin.get(symbol, 0.0) for symbol in symbols)
    return math.ceil(0.6 * electrons + 0.5 * moment) + 2
