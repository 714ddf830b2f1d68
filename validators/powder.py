"""X-ray powder patterns of crystals, and where their reflections go when the cell is strained.

Kinematic intensities as in pymatgen's XRDCalculator (its form factors, Lorentz-polarisation factor, no
absorption, no preferred orientation), one family of symmetry-equivalent reflections at a time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.errors import InputError
from .geometry import require_computable

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SYMPREC = 0.01  # angstrom, where nothing else is asked for
_MAX_REFLECTIONS = 3_000_000
_CHUNK = 1_000_000  # phases held at once
_FINER = 4  # points for one of the grid where peaks are drawn
_OUTSIDE = 3.0  # degrees
_ABSENT = 1e-6  # of the strongest family: absent for the eye


def wavelength_of(radiation: str) -> float:
    """Wavelength in angstrom from a name ("CuKa") or a number.

    Raises:
        InputError: an unknown name, or a number that is no wavelength.
    """
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS

    if radiation in WAVELENGTHS:
        return float(WAVELENGTHS[radiation])
    try:
        value = float(radiation)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 10:
        raise InputError(
            f"radiation {radiation!r}: no known name and no wavelength from 0.05 to 10 angstrom; "
            f"known: {', '.join(WAVELENGTHS)}"
        )
    return value


@dataclass(frozen=True, eq=False)
class Reflections:
    """Families of equivalent reflections of one crystal, in its conventional cell.

    Args:
        spacegroup: number.
        cell: the conventional cell, its metric made exactly symmetric.
        hkl: (n, 3), one of each family, by rising length.
        multiplicity: (n,) members of the family.
        strength: (n,) multiplicity times squared structure factor of one cell.
        wavelength: angstrom.
        strains: (m, 3, 3) the strains that keep the crystal system: first the unit matrix, then those
            without change of volume, each with a largest principal strain of 1; m from 1 (cubic) to 6.
    """

    spacegroup: int
    cell: Crystal
    hkl: Ints
    multiplicity: Ints
    strength: Floats
    wavelength: float
    strains: Floats

    def strain(self, amounts: Floats) -> Floats:
        """(3, 3) strain from the amount of each of `strains`."""
        total: Floats = np.tensordot(amounts, self.strains, 1)
        return total

    def strained(self, strain: Floats) -> Crystal:
        """The conventional cell with lattice (1 + strain), the atoms along with it."""
        return replace(self.cell, lattice=self.cell.lattice @ (np.eye(3) + strain))

    def two_theta(self, strain: Floats | None = None) -> Floats:
        """(n,) angles in degrees, of the cell as strained; NaN beyond backscattering."""
        lattice = self.cell.lattice
        if strain is not None:
            lattice = lattice @ (np.eye(3) + strain)
        lengths = np.linalg.norm(self.hkl @ np.linalg.inv(lattice).T, axis=1)
        with np.errstate(invalid="ignore"):
            angles: Floats = np.degrees(2 * np.arcsin(0.5 * self.wavelength * lengths))
        return angles

    def intensities(self, two_theta: Floats, b_iso: float = 0.0) -> Floats:
        """(n,) integrated intensities at those angles (degrees), with one overall B (angstrom^2)."""
        theta = np.radians(two_theta) / 2
        sine = np.sin(theta)
        lorentz = (1 + np.cos(2 * theta) ** 2) / (sine**2 * np.cos(theta))
        damping = np.exp(-2 * b_iso * (sine / self.wavelength) ** 2) if b_iso else 1.0
        found: Floats = self.strength * lorentz * damping
        return found


def reflections(
    crystal: Crystal, wavelength: float, highest: float, symprec: float = SYMPREC
) -> Reflections:
    """All families up to the angle `highest` (2 theta, degrees) that are not absent.

    Args:
        symprec: tolerance of the symmetry, angstrom; a wider one leaves fewer strains.

    Raises:
        ValueError: no symmetry is found, an element without form factor, or too many reflections.
    """
    require_computable(crystal)
    lattice, frac, numbers, rotations, group = _conventional(crystal, symprec)
    metric = np.mean([w.T @ lattice @ lattice.T @ w for w in rotations], axis=0)
    lattice = np.linalg.cholesky(metric)
    longest = 2 * np.sin(np.radians(min(highest, 180.0)) / 2) / wavelength
    hkl, multiplicity = _families(lattice, rotations, longest)
    strength = multiplicity * _squared_structure_factors(hkl, lattice, frac, numbers)
    seen = strength > _ABSENT * strength.max(initial=0.0)
    strains = _allowed_strains(lattice, rotations)
    return Reflections(
        group,
        Crystal(lattice, frac, numbers),
        hkl[seen],
        multiplicity[seen],
        strength[seen],
        wavelength,
        strains,
    )


def _conventional(crystal: Crystal, symprec: float) -> tuple[Floats, Floats, Ints, Ints, int]:
    """Conventional cell as it is, not idealised, with its distinct rotations and the space group."""
    import spglib

    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its change of error handling
        try:
            cell = spglib.standardize_cell(cell, no_idealize=True, symprec=symprec)
            dataset = spglib.get_symmetry_dataset(cell, symprec=symprec) if cell else None
        except spglib.error.SpglibError as error:
            raise ValueError(f"spglib finds no symmetry: {error}") from error
    if dataset is None:
        raise ValueError(f"spglib finds no symmetry within {symprec:g} angstrom")
    lattice, frac, numbers = cell
    rotations = np.unique(dataset.rotations, axis=0).astype(np.int64)
    return lattice, frac, np.asarray(numbers, dtype=np.int64), rotations, int(dataset.number)


def _families(lattice: Floats, rotations: Ints, longest: float) -> tuple[Ints, Ints]:
    """One member and the size of each family up to a length in reciprocal angstrom, by rising length."""
    most = np.floor(longest * np.linalg.norm(lattice, axis=1) * (1 + 1e-9)).astype(np.int64)
    if np.prod(2.0 * most + 1) > _MAX_REFLECTIONS:
        raise ValueError(f"too many reflections: indices up to {most.tolist()}")
    axes = [np.arange(-m, m + 1) for m in most]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1)
    hkl = hkl[(length > 1e-9) & (length <= longest * (1 + 1e-9))]
    base = 4 * int(most.max(initial=0)) + 1  # rotated indices fit: they have the same length
    weights = np.array([base**2, base, 1])
    key = np.zeros(len(hkl), dtype=np.int64)
    for rotation in rotations:
        np.maximum(key, np.abs(hkl @ rotation @ weights), out=key)
    own = hkl @ weights
    _, family, sizes = np.unique(key, return_inverse=True, return_counts=True)
    first = np.zeros(len(sizes), dtype=np.int64)
    first[family[own == key]] = np.flatnonzero(own == key)
    members = hkl[first]
    order = np.argsort(np.linalg.norm(members @ np.linalg.inv(lattice).T, axis=1), kind="stable")
    return members[order], sizes[order]


def _squared_structure_factors(hkl: Ints, lattice: Floats, frac: Floats, numbers: Ints) -> Floats:
    s2 = (np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1) / 2) ** 2
    total = np.zeros(len(hkl), dtype=np.complex128)
    for z in np.unique(numbers).tolist():
        sites = frac[numbers == z]
        rows = max(1, _CHUNK // len(sites))
        sums = [
            np.exp(2j * np.pi * (hkl[i : i + rows] @ sites.T)).sum(axis=1)
            for i in range(0, len(hkl), rows)
        ]
        total += _form_factor(z, s2) * (np.concatenate(sums) if sums else 0.0)
    squared: Floats = np.abs(total) ** 2
    return squared


def _form_factor(z: int, s2: Floats) -> Floats:
    """Of the neutral atom, by (sin theta / wavelength)^2 in 1/angstrom^2.

    Raises:
        ValueError: the element has none in pymatgen's table.
    """
    symbol = SYMBOLS[z]
    if symbol not in _scattering():
        raise ValueError(f"no X-ray form factor of {symbol} is tabulated")
    a, b = np.array(_scattering()[symbol]).T
    factor: Floats = z - 41.78214 * s2 * (a * np.exp(-b * s2[:, None])).sum(axis=1)
    return factor


@cache
def _scattering() -> Mapping[str, Any]:
    from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS

    table: Mapping[str, Any] = ATOMIC_SCATTERING_PARAMS
    return table


def _allowed_strains(lattice: Floats, rotations: Ints) -> Floats:
    """Symmetric matrices that every rotation leaves alone, (m, 3, 3), the unit matrix first."""
    turns = np.linalg.inv(lattice) @ rotations.transpose(0, 2, 1) @ lattice  # of Cartesian rows
    kept = []
    for i, j in combinations_with_replacement(range(3), 2):
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0
        mean = (turns.transpose(0, 2, 1) @ unit @ turns).mean(axis=0)
        kept.append((mean - np.trace(mean) / 3 * np.eye(3)).ravel())
    _, sizes, axes = np.linalg.svd(np.array(kept))
    found = [np.eye(3)]
    for axis in axes[: int((sizes > 1e-6).sum())]:
        shear = axis.reshape(3, 3)
        shear = (shear + shear.T) / 2
        found.append(shear / np.abs(np.linalg.eigvalsh(shear)).max())
    return np.array(found)


def stick_pattern(angles: Floats, strength: Floats, first: float, step: float, points: int) -> Floats:
    """Intensities on an even grid, each shared by the two nearest points; those outside are left out."""
    position = (angles - first) / step
    inside = (position >= 0) & (position < points - 1)  # False for NaN
    left = position[inside].astype(np.int64)
    share = position[inside] - left
    places = np.concatenate([left, left + 1])
    shares = np.concatenate([strength[inside] * (1 - share), strength[inside] * share])
    return np.bincount(places, shares, minlength=points).astype(np.float64)


def profile(grid: Floats, two_theta: Floats, intensities: Floats, fwhm: float, mixing: float) -> Floats:
    """Sum of pseudo-Voigt peaks on an even grid (degrees); the area of each is its intensity.

    Sticks on a grid four times as fine are convolved with the peak: about 1 ms however many there are.
    Peaks up to 3 degrees outside of the grid count; tails are not cut.

    Args:
        grid: rising, of even step. two_theta, intensities: of the peaks; NaN ones are left out.
        fwhm: full width at half maximum, degrees. mixing: share of the Lorentzian, 0 to 1.
    """
    step = (grid[1] - grid[0]) / _FINER
    margin = _FINER * int(np.ceil(_OUTSIDE / step / _FINER))
    points = 2 * margin + _FINER * (len(grid) - 1) + 1
    size = 2 ** int(np.ceil(np.log2(points + margin)))
    sticks = stick_pattern(two_theta, intensities, grid[0] - margin * step, step, points)
    x = np.pi * fwhm * np.fft.rfftfreq(size, step)
    shape = mixing * np.exp(-x) + (1 - mixing) * np.exp(-(x**2) / (4 * np.log(2)))
    drawn = np.fft.irfft(np.fft.rfft(sticks, size) * shape, size) / step
    total: Floats = np.maximum(drawn[margin : points - margin : _FINER], 0.0)
    return total
