"""How well a crystal explains a measured powder pattern, its cell free within its crystal system.

Similarity after de Gelder, Wehrens, Hageman, J. Comput. Chem. 22, 273 (2001): the normalised overlap of
two patterns, each peak allowed to meet those up to a width away, with triangular weight. A wide triangle
finds the cell from afar, a narrow one near by; a profile fit at the end gives the cell and the residual.
Intensities are those of the atoms where they are: no preferred orientation, no sample displacement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize
from scipy.stats import qmc

from .powder import Reflections, profile, stick_pattern
from .powder_pattern import Pattern

Floats = NDArray[np.float64]

WIDTH = 0.3  # degrees: half base of the triangle that the reported similarity is taken with
_SEARCH_STEP = 0.04  # degrees, of the grid that the search works on
_LEVELS = ((1.5, 6), (0.5, 4), (0.2, 2))  # half base of the triangle (degrees), and places followed
_EXPLAINED = 0.2  # of a peak's height, that the other pattern reaches near by
_STRONG = 0.1  # of the highest calculated: a peak that must be seen
_DEGREE = 6  # of what is left of the background
_LARGEST_B = 5.0  # angstrom^2


class Cell(StrEnum):
    """What of the cell may vary: nothing, its volume, or all that its crystal system leaves open."""

    FIXED = "fixed"
    ISOTROPIC = "isotropic"
    FREE = "free"


@dataclass(frozen=True)
class Limits:
    """How far a match may go.

    Args:
        cell: what varies. strain: largest principal strain, as a fraction.
        zero: largest zero shift, degrees.
    """

    cell: Cell = Cell.FREE
    strain: float = 0.03
    zero: float = 0.2


@dataclass(frozen=True, eq=False)
class PowderMatch:
    """A crystal fitted to a pattern.

    Args:
        similarity: 0 to 1, with triangles of half base `WIDTH`.
        residual: weighted profile residual, of counts above background; 0 is perfect.
        strain: (3, 3) on the cell of the reflections. volume_change: as a fraction.
        zero: shift of the measured angles, degrees: measured = calculated + zero.
        fwhm, mixing, b_iso: of all peaks: width (degrees), Lorentzian share, B (angstrom^2).
        at_limit: the strain or the zero shift ended where it may go no further.
        calculated: (n,) above background, on the pattern's grid.
        unexplained: angles of measured peaks that nothing calculated explains.
        missing: angles of strong calculated peaks that were not measured.
    """

    similarity: float
    residual: float
    strain: Floats
    volume_change: float
    zero: float
    fwhm: float
    mixing: float
    b_iso: float
    at_limit: bool
    calculated: Floats
    unexplained: Floats
    missing: Floats


def match(pattern: Pattern, crystal: Reflections, limits: Limits) -> PowderMatch:
    """Fit a crystal to a pattern: a search over its cell, then over the whole profile.

    About 0.1 s (cubic) to 2 s (triclinic). Same input, same result.

    Raises:
        ValueError: the crystal has no reflection within the pattern.
    """
    strains = {Cell.FIXED: 0, Cell.ISOTROPIC: 1, Cell.FREE: len(crystal.strains)}[limits.cell]
    freedom = _Freedom(crystal.strains[:strains], limits)
    bounds = freedom.bounds
    search = _Search(pattern, crystal, freedom)
    if not search.sees(np.zeros(strains + 1)):
        raise ValueError("no reflection within the range of the pattern")
    places = _starts(bounds)
    for half_base, kept in _LEVELS:
        scored = sorted(places, key=lambda p: -search.similarity(p, half_base))[:kept]
        places = [search.climb(place, half_base, bounds) for place in scored]
    return min((_fit(pattern, crystal, freedom, p) for p in places), key=lambda found: found.residual)


@dataclass(frozen=True, eq=False)
class _Freedom:
    """The strains that may be varied, (m, 3, 3), and how far."""

    strains: Floats
    limits: Limits

    @property
    def bounds(self) -> Floats:
        """Of the amount of each strain and the zero shift, (m + 1,)."""
        return np.array([self.limits.strain] * len(self.strains) + [self.limits.zero])

    def strain(self, amounts: Floats) -> Floats:
        """(3, 3); shrunk where its largest principal strain would go beyond the limit."""
        total: Floats = np.tensordot(amounts, self.strains, 1)
        return total * min(1.0, self.limits.strain / max(_largest(total), 1e-12))


def _largest(strain: Floats) -> float:
    return float(np.abs(np.linalg.eigvalsh(strain)).max())


def _starts(bounds: Floats) -> list[Floats]:
    """The cell as it is, swollen and shrunk, and for more than one strain a spread of the others."""
    n = len(bounds)
    origin = np.zeros(n)
    if n == 1:
        return [origin]
    even = np.linspace(-1, 1, 13)
    starts = [np.concatenate([[e], np.zeros(n - 1)]) for e in even]
    if n > 2:
        spread = 2 * qmc.Sobol(n - 1, rng=0).random(2 ** (n + 2)) - 1
        starts += [np.append(point, 0.0) for point in spread]
    return [origin, *(start * bounds for start in starts)]


class _Search:
    """Similarity of sticks to a pattern, by Fourier transform, as a function of strain and zero."""

    def __init__(self, pattern: Pattern, crystal: Reflections, freedom: _Freedom) -> None:
        first, last = pattern.two_theta[0], pattern.two_theta[-1]
        self._first, self._crystal, self._freedom = first, crystal, freedom
        self._n = int((last - first) / _SEARCH_STEP) + 1
        grid = first + _SEARCH_STEP * np.arange(self._n)
        self._net = np.interp(grid, pattern.two_theta, np.maximum(pattern.net, 0))
        self._size = 2 ** int(np.ceil(np.log2(self._n + 2 * _LEVELS[0][0] / _SEARCH_STEP)))
        self._measured: dict[float, tuple[Floats, Floats, float]] = {}

    def sees(self, place: Floats) -> bool:
        """Whether any reflection lies within the pattern."""
        return bool(self._sticks(place).any())

    def similarity(self, place: Floats, half_base: float) -> float:
        """0 to 1; place: amounts of strain, then zero shift."""
        if half_base not in self._measured:
            self._measured[half_base] = self._prepare(half_base)
        window, blurred, norm = self._measured[half_base]
        sticks = self._sticks(place)
        spectrum = np.abs(np.fft.rfft(sticks, self._size)) ** 2
        own = 2 * float(spectrum @ window) - float(spectrum[0] * window[0] + spectrum[-1] * window[-1])
        return float(sticks @ blurred) / math.sqrt(max(own / self._size, 1e-300) * norm)

    def climb(self, place: Floats, half_base: float, bounds: Floats) -> Floats:
        """A place of larger similarity near by."""
        found = minimize(
            lambda scaled: -self.similarity(scaled * bounds, half_base),
            place / bounds,
            method="Powell",
            bounds=[(-1, 1)] * len(bounds),
            options={"xtol": 0.01, "ftol": 1e-4, "maxiter": 8},
        )
        reached: Floats = found.x * bounds
        return reached if -found.fun > self.similarity(place, half_base) else place

    def _prepare(self, half_base: float) -> tuple[Floats, Floats, float]:
        """Transform of the triangle, the pattern blurred with it, and the pattern's own overlap."""
        lags = np.minimum(np.arange(self._size), self._size - np.arange(self._size)) * _SEARCH_STEP
        window = np.fft.rfft(np.maximum(0, 1 - lags / half_base)).real
        blurred = np.fft.irfft(np.fft.rfft(self._net, self._size) * window, self._size)[: self._n]
        return window, blurred, float(self._net @ blurred)

    def _sticks(self, place: Floats) -> Floats:
        """Integrated intensities on the grid, each shared by the two nearest points."""
        angles = self._crystal.two_theta(self._freedom.strain(place[:-1]))
        strength = self._crystal.intensities(angles, 1.0)
        return stick_pattern(angles + place[-1], strength, self._first, _SEARCH_STEP, self._n)


# --- the profile ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Profile:
    """The calculated pattern as a function of place, then log width, mixing and B."""

    pattern: Pattern
    crystal: Reflections
    freedom: _Freedom

    @cached_property
    def slopes(self) -> Floats:
        """What is left of the background: Chebyshev polynomials, (n, degree + 1)."""
        x = self.pattern.two_theta
        basis: Floats = np.polynomial.chebyshev.chebvander(
            2 * (x - x[0]) / (x[-1] - x[0]) - 1, 0 if self.pattern.from_list else _DEGREE
        )
        return basis

    def peaks(self, values: Floats) -> Floats:
        """Calculated pattern before scaling."""
        amounts, (zero, log_width, mixing, b_iso) = values[:-4], values[-4:]
        angles = self.crystal.two_theta(self.freedom.strain(amounts))
        strength = self.crystal.intensities(angles, b_iso)
        return profile(self.pattern.two_theta, angles + zero, strength, float(np.exp(log_width)), mixing)

    def solved(self, values: Floats) -> tuple[Floats, Floats]:
        """Scaled peaks and what is left of the background, by linear least squares."""
        peaks = self.peaks(values)
        design = np.column_stack([peaks / max(peaks.max(), 1e-300), self.slopes])
        weighted = design.T * self.pattern.weights
        normal = weighted @ design  # of ten columns at most, and far from singular
        ridge = 1e-12 * np.trace(normal) * np.eye(len(normal))
        coefficients = np.linalg.solve(normal + ridge, weighted @ self.pattern.net)
        scale = max(float(coefficients[0]), 0.0)
        return scale * design[:, 0], self.slopes @ coefficients[1:]

    def residuals(self, values: Floats) -> Floats:
        """Weighted differences, in units of their typical size."""
        peaks, rest = self.solved(values)
        net = self.pattern.net
        typical = math.sqrt(float((self.pattern.weights * net**2).mean()))
        left: Floats = np.sqrt(self.pattern.weights) * (net - peaks - rest) / typical
        return left


def _fit(pattern: Pattern, crystal: Reflections, freedom: _Freedom, place: Floats) -> PowderMatch:
    model = _Profile(pattern, crystal, freedom)
    bounds = freedom.bounds
    width = np.log(pattern.fwhm)
    upper = np.concatenate([bounds, [width + 1, 1.0, _LARGEST_B]])
    lower = np.concatenate([-bounds, [width - 1, 0.0, 0.0]])
    start = np.concatenate([place, [width, 0.5, 0.5]])
    found = least_squares(
        model.residuals,
        np.clip(start, lower + 1e-6 * (upper - lower), upper - 1e-6 * (upper - lower)),
        bounds=(lower, upper),
        x_scale=np.concatenate([np.full(len(place), 1e-3), [0.1, 0.1, 0.5]]),
        diff_step=1e-4,
        loss="soft_l1",  # peaks of another phase pull less
        f_scale=0.3,
        max_nfev=40,
    )
    values = found.x
    peaks, rest = model.solved(values)
    net = pattern.net - rest
    strain = freedom.strain(values[:-4])
    limits = freedom.limits
    weights = pattern.weights
    fwhm = float(np.exp(values[-3]))
    return PowderMatch(
        similarity=_similarity(pattern.two_theta, np.maximum(net, 0), peaks),
        residual=float(np.sqrt((weights * (net - peaks) ** 2).sum() / (weights * net**2).sum())),
        strain=strain,
        volume_change=float(np.linalg.det(np.eye(3) + strain)) - 1,
        zero=float(values[-4]),
        fwhm=fwhm,
        mixing=float(values[-2]),
        b_iso=float(values[-1]),
        at_limit=_largest(strain) > 0.99 * limits.strain or bool(abs(values[-4]) > 0.99 * limits.zero),
        calculated=peaks,
        unexplained=_unexplained(pattern, peaks, fwhm),
        missing=_missing(pattern, net, peaks, fwhm),
    )


def _similarity(grid: Floats, a: Floats, b: Floats) -> float:
    reach = int(WIDTH / (grid[1] - grid[0]))
    triangle = 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    blurred_a, blurred_b = (np.convolve(y, triangle, mode="same") for y in (a, b))
    norm = float(a @ blurred_a) * float(b @ blurred_b)
    return float(a @ blurred_b) / math.sqrt(max(norm, 1e-300))


def _unexplained(pattern: Pattern, peaks: Floats, fwhm: float) -> Floats:
    reach = max(fwhm, pattern.fwhm)
    near = [_highest(pattern.two_theta, peaks, x, reach) for x in pattern.peaks]
    return pattern.peaks[np.array(near) < _EXPLAINED * pattern.heights]


def _missing(pattern: Pattern, net: Floats, peaks: Floats, fwhm: float) -> Floats:
    inner = peaks[1:-1]
    tops = 1 + np.flatnonzero(
        (inner > peaks[:-2]) & (inner >= peaks[2:]) & (inner > _STRONG * peaks.max())
    )
    reach = max(fwhm, pattern.fwhm)
    near = np.array([_highest(pattern.two_theta, net, pattern.two_theta[i], reach) for i in tops])
    return pattern.two_theta[tops[near < _EXPLAINED * peaks[tops]]] if len(tops) else np.empty(0)


def _highest(grid: Floats, values: Floats, centre: float, reach: float) -> float:
    low, high = np.searchsorted(grid, (centre - reach, centre + reach))
    return float(values[low : high + 1].max())
