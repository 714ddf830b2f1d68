"""Symbols of the elements and parsing of chemical systems, without importing a heavy package."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import InputError

SYMBOLS: tuple[str, ...] = tuple(
    """X
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
    Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
    Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf
    Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()
)
"""Symbols indexed by atomic number; index 0 is unused."""

ATOMIC_NUMBERS: dict[str, int] = {s: z for z, s in enumerate(SYMBOLS) if z}


def symbol(z: int) -> str:
    """Symbol of atomic number `z`."""
    return SYMBOLS[z]


def parse_elements(text: str | Iterable[str]) -> tuple[str, ...]:
    """Element symbols from "Li-Mn-O", "Li,Mn,O" or a sequence, sorted, without repeats.

    Raises:
        InputError: a symbol is no element, or there is none.
    """
    if isinstance(text, str):
        parts = [p for p in re.split(r"[-,\s]+", text.strip()) if p]
    else:
        parts = [str(p).strip() for p in text]
    unknown = [p for p in parts if p not in ATOMIC_NUMBERS]
    if unknown:
        near = [p.capitalize() for p in unknown if p.capitalize() in ATOMIC_NUMBERS]
        raise InputError(
            f"no such element: {', '.join(map(repr, unknown))}",
            hint=f"did you mean {', '.join(near)}?" if near else "symbols are like Li, Mn, O",
        )
    if not parts:
        raise InputError("no elements given", hint="write a chemical system such as Li-Mn-O")
    return tuple(sorted(set(parts)))


def chemsys(symbols: Iterable[str]) -> str:
    """Chemical system in the field's form: sorted symbols joined by hyphens."""
    return "-".join(sorted(set(symbols)))


def parse_formula(text: str) -> tuple[tuple[str, int], ...]:
    """Reduced composition of a formula with whole numbers, as sorted (symbol, count) pairs.

    Raises:
        ValueError: not a formula, an unknown element, or fractional amounts.
    """
    from pymatgen.core import Composition

    try:
        amounts = Composition(text).get_el_amt_dict()
    except Exception as error:  # pymatgen raises several types for bad formulas
        raise ValueError(f"{text!r} is not a chemical formula: {error}") from error
    if not amounts or any(s not in ATOMIC_NUMBERS for s in amounts):
        raise ValueError(f"{text!r} is not a chemical formula of known elements")
    if any(abs(n - round(n)) > 1e-8 for n in amounts.values()):
        raise ValueError(f"{text!r} has fractional amounts; give whole numbers")
    reduced = Composition({s: round(n) for s, n in amounts.items()}).reduced_composition
    return tuple(sorted((s, int(n)) for s, n in reduced.get_el_amt_dict().items()))
