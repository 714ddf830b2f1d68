"""What the page's structure viewer draws: a cell, its atoms, its bonds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..core.convert import to_atoms
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, SYMBOLS

BOND_TOLERANCE = 1.15
_SYMPREC = 0.1  # angstrom; the distance within which the centring of the lattice is recognised
_LARGEST_CONVENTIONAL = 200  # atoms
_NON_METALS = frozenset(
    ATOMIC_NUMBERS[s] for s in "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn".split()
)


def scene(crystal: Crystal) -> dict[str, Any] | None:
    """The conventional cell as JSON values, or None where the crystal cannot be drawn.

    `cell`: what cell it is; `lattice`: 9 numbers in angstrom, row-major; `kinds`: symbols, the first
    `metals` of them metals; `types`: index into `kinds` for each atom; `frac`: 3n numbers; `bonds`:
    flat (i, j, image a, b, c).
    """
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        return None
    if crystal.volume < 1e-3 * len(crystal):
        return None
    shown = conventional_cell(crystal)
    kinds = sorted({int(z) for z in shown.atomic_numbers}, key=lambda z: (z in _NON_METALS, z))
    return {
        "cell": "cell as computed" if shown is crystal else "conventional cell",
        "lattice": [round(float(x), 5) for x in shown.lattice.ravel()],
        "kinds": [SYMBOLS[z] for z in kinds],
        "metals": sum(z not in _NON_METALS for z in kinds),
        "types": [kinds.index(int(z)) for z in shown.atomic_numbers],
        "frac": [round(float(x), 5) for x in shown.frac_coords.ravel()],
        "bonds": [int(x) for bond in bonds(shown) for x in bond],
    }


def conventional_cell(crystal: Crystal) -> Crystal:
    """The conventional cell, without moving an atom; the crystal itself where there is no other."""
    import spglib

    cell = (crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist())
    found = spglib.standardize_cell(cell, to_primitive=False, no_idealize=True, symprec=_SYMPREC)
    if found is None:
        return crystal
    lattice, frac, numbers = (np.asarray(part) for part in found)
    if not len(crystal) <= len(numbers) <= _LARGEST_CONVENTIONAL:
        return crystal
    # A symmetry that holds only loosely could lose or add atoms: the density must be the same.
    ratio = abs(np.linalg.det(lattice)) / crystal.volume
    if abs(ratio - len(numbers) / len(crystal)) > 1e-3 * ratio:
        return crystal
    return Crystal(lattice, frac, numbers)


def bonds(crystal: Crystal) -> list[tuple[int, int, int, int, int]]:
    """Bonds (i, j, image of j), each once: d < 1.15 (r_i + r_j) with Cordero's covalent radii.

    Two metals that each have a non-metal neighbour are not joined: covalent radii of metals reach
    across the shared edges of coordination polyhedra (Ti-Ti in rutile, 2.96 angstrom).
    Radii: B. Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j.
    """
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    numbers = crystal.atomic_numbers
    radii = BOND_TOLERANCE * covalent_radii[numbers]
    first, second, image = neighbor_list("ijS", to_atoms(crystal), radii)
    is_metal = np.array([int(z) not in _NON_METALS for z in numbers])
    coordinated = np.zeros(len(numbers), dtype=bool)
    coordinated[first[~is_metal[second]]] = True
    hidden = is_metal & coordinated
    pairs = zip(first.tolist(), second.tolist(), image.tolist(), strict=True)
    return [
        (i, j, s[0], s[1], s[2])
        for i, j, s in pairs
        if (i < j or (i == j and s > [0, 0, 0])) and not (hidden[i] and hidden[j])
    ]


def element_styles(symbols: Iterable[str]) -> dict[str, tuple[str, float]]:
    """Symbol -> (colour "#rrggbb" as in Jmol, covalent radius in angstrom)."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    styles = {}
    for s in sorted(set(symbols)):
        red, green, blue = (round(255 * float(c)) for c in jmol_colors[ATOMIC_NUMBERS[s]])
        radius = round(float(covalent_radii[ATOMIC_NUMBERS[s]]), 2)
        styles[s] = (f"#{red:02x}{green:02x}{blue:02x}", radius)
    return styles


def density(crystal: Crystal) -> float:
    """Mass density in g/cm^3."""
    from ase.data import atomic_masses

    grams_per_dalton, cm3_per_angstrom3 = 1.66053906660e-24, 1e-24  # CODATA 2018
    mass = float(atomic_masses[crystal.atomic_numbers].sum())
    return mass * grams_per_dalton / (crystal.volume * cm3_per_angstrom3)
