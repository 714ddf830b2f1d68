"""A measured powder pattern made ready for comparing: even steps, background taken off, peaks found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks, peak_widths

from ..core.errors import InputError
from .powder import profile

Floats = NDArray[np.float64]

LIST_STEP = 0.25  # degrees: rows farther apart in the median are a list of peaks
_STEP = 0.02  # degrees, of the grid that a list of peaks is drawn on
_LIST_WIDTH, _LIST_MIXING = 0.15, 0.5  # of the peaks drawn for a list
_WINDOW = 1.5  # degrees: what is wider than twice this counts as background
_SHRINK = 0.85  # of the window from pass to pass: more passes would eat at broad humps
_NEGATIVE = 0.02  # of the highest intensity: below minus this it is no noise of a background taken off
_LOWEST_PEAK = 0.02  # of the highest
_SIGMAS = 6.0  # of the noise, that a peak stands out by
_FEWEST_POINTS, _FEWEST_PEAKS = 50, 3
_MOST_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class Pattern:
    """A measured pattern.

    Args:
        two_theta: (n,) degrees, of even step. counts: (n,) as measured.
        background: (n,) estimated. weights: (n,) one over the variance, up to a factor.
        peaks: (k,) angles of the peaks that stand out. heights: (k,) above background.
        fwhm: median width of the clearest peaks, degrees.
        from_list: drawn from a list of peaks, without background.
    """

    two_theta: Floats
    counts: Floats
    background: Floats
    weights: Floats
    peaks: Floats
    heights: Floats
    fwhm: float
    from_list: bool

    @property
    def net(self) -> Floats:
        """Counts above background."""
        return self.counts - self.background


def pattern_from(
    angles: Floats, intensities: Floats, within: tuple[float, float] = (0.0, 180.0)
) -> Pattern:
    """A pattern from rows of angle (2 theta, degrees) and intensity, a scan or a list of peaks.

    Rows whose median step is above `LIST_STEP` are a list. Intensities a little below zero, as a
    background taken off leaves them, are set to zero.

    Raises:
        InputError: angles that do not rise or are no angles, too few of them within the range, or
            intensities that are negative or nowhere positive.
    """
    _check(angles, intensities)
    inside = (angles >= within[0]) & (angles <= within[1])
    if not inside.any():
        raise InputError(
            f"no angle of the pattern ({angles[0]:g} to {angles[-1]:g} degrees) lies within the range "
            f"{within[0]:g} to {within[1]:g}"
        )
    angles, intensities = angles[inside], np.maximum(intensities[inside], 0.0)
    listed = bool(len(angles) < 2 or np.median(np.diff(angles)) > LIST_STEP)
    fewest = _FEWEST_PEAKS if listed else _FEWEST_POINTS
    if len(angles) < fewest:
        what = "peaks" if listed else "points of a scan"
        raise InputError(f"the pattern has {len(angles)} {what} in range; at least {fewest} are needed")
    if intensities.max() <= 0:
        raise InputError("the pattern is zero everywhere in the range")
    return _of_list(angles, intensities) if listed else _of_scan(angles, intensities)


def _check(angles: Floats, intensities: Floats) -> None:
    if not (np.isfinite(angles).all() and np.isfinite(intensities).all()):
        raise InputError("the pattern holds values that are no finite numbers")
    if (wrong := np.flatnonzero((angles <= 0) | (angles >= 180))).size:
        raise InputError(
            f"row {wrong[0] + 1} of the pattern: {angles[wrong[0]]:g} is no angle two theta; expected "
            "above 0 and below 180 degrees"
        )
    if (wrong := np.flatnonzero(np.diff(angles) <= 0)).size:
        k = int(wrong[0])
        raise InputError(
            f"row {k + 2} of the pattern: {angles[k + 1]:g} degrees comes after {angles[k]:g}; angles "
            "must rise",
            hint="sort the rows by angle",
        )
    lowest = int(intensities.argmin())
    if intensities[lowest] < -_NEGATIVE * abs(intensities.max()):
        raise InputError(
            f"row {lowest + 1} of the pattern: intensity {intensities[lowest]:g} is negative, by more "
            "than noise; expected counts"
        )


def _of_list(angles: Floats, intensities: Floats) -> Pattern:
    margin = 10 * _LIST_WIDTH
    grid = np.arange(max(angles[0] - margin, 0.1), min(angles[-1] + margin, 179.9), _STEP)
    drawn = profile(grid, angles, intensities, _LIST_WIDTH, _LIST_MIXING)
    drawn *= intensities.max() / drawn.max()
    flat = np.full(len(grid), 1 / drawn.max())
    shown = intensities > 0
    nothing = np.zeros(len(grid))
    return Pattern(
        grid, drawn, nothing, flat, angles[shown], intensities[shown], _LIST_WIDTH, from_list=True
    )


def _of_scan(angles: Floats, intensities: Floats) -> Pattern:
    step = max(float(np.median(np.diff(angles))), (angles[-1] - angles[0]) / _MOST_POINTS)
    grid = np.arange(angles[0], angles[-1] + 1e-9, step)
    counts = np.interp(grid, angles, intensities)
    smooth = gaussian_filter1d(counts, max(1.0, 0.03 / step))
    background = _background(smooth, max(2, int(_WINDOW / step)))
    net = smooth - background
    noise = float(np.median(np.abs(counts - smooth))) * 1.4826
    places = find_peaks(net, prominence=max(_LOWEST_PEAK * net.max(), _SIGMAS * noise))[0]
    if not len(places):
        raise InputError("the pattern has no peak that stands out of its noise")
    clearest = places[np.argsort(-net[places])[:12]]
    width = float(np.median(peak_widths(net, clearest, rel_height=0.5)[0])) * step
    weights = 1 / np.maximum(counts, 0.002 * counts.max())
    return Pattern(
        grid,
        counts,
        background,
        weights,
        grid[places],
        net[places],
        max(width, 2 * step),
        from_list=False,
    )


def _background(counts: Floats, window: int) -> Floats:
    """Iterative clipping of peaks (SNIP) on the scale of log log root, windows falling.

    Ryan et al., Nucl. Instrum. Methods B 34, 396 (1988); falling windows after Morhac et al., Nucl.
    Instrum. Methods A 401, 113 (1997).
    """
    scale = 1e4 / max(float(counts.max()), 1e-300)  # so that the transform does not depend on the unit
    level = np.log(np.log(np.sqrt(counts * scale + 1) + 1) + 1)
    w = window
    while w >= 1:
        padded = np.pad(level, w, mode="edge")
        level = np.minimum(level, (padded[: -2 * w] + padded[2 * w :]) / 2)
        w = int(_SHRINK * w)
    back: Floats = ((np.exp(np.exp(level) - 1) - 1) ** 2 - 1) / scale
    return back
