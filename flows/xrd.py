"""`heliodor xrd`: powder patterns of crystals, and which crystal explains a measured one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import write_text
from ..core.records import Candidate, Conditions
from ..generators.files import FilesGenerator
from ..report.cif import cif_text
from ..report.powder_plots import MOST_CURVES, Curve, draw_match, draw_patterns
from ..validators.powder import SYMPREC, Reflections, profile, reflections, wavelength_of
from ..validators.powder_match import Limits, PowderMatch, match
from ..validators.powder_pattern import Pattern, pattern_from
from .pattern_file import read_pattern
from .single import progress

if TYPE_CHECKING:
    from rich.console import Console

_ALL = 2**62
_STEP = 0.02  # degrees, of simulated patterns
_SHOWN = 10  # candidates in the terminal
_TICKED = 4  # candidates whose reflections are marked below a match
_MARGIN = 1.05  # reflections are gathered so far beyond the range, for strained cells
_RANGE = (5.0, 90.0)  # degrees, where nothing was said


@dataclass(frozen=True)
class XrdOptions:
    """How to simulate and match.

    Args:
        radiation: name or wavelength in angstrom. two_theta: range in degrees; None: of the pattern, or
            5 to 90. fwhm: of simulated peaks, degrees. mixing: their Lorentzian share.
        symprec: tolerance of the symmetry, angstrom. limits: how far a match may go.

    Raises:
        InputError: a value out of its range.
    """

    radiation: str = "CuKa"
    two_theta: tuple[float, float] | None = None
    fwhm: float = 0.1
    mixing: float = 0.5
    symprec: float = SYMPREC
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        wavelength_of(self.radiation)
        if self.two_theta and not 0 < self.two_theta[0] < self.two_theta[1] - 1 < 179:
            low, high = self.two_theta
            raise InputError(
                f"--two-theta {low:g}:{high:g}: expected 0 < low < high < 180, a degree apart at least"
            )
        for name, value, low, high in (
            ("--fwhm", self.fwhm, 0.03, 5.0),
            ("--mixing", self.mixing, 0.0, 1.0),
            ("--symprec", self.symprec, 1e-5, 1.0),
            ("--max-strain", self.limits.strain, 1e-4, 0.1),
            ("--max-zero", self.limits.zero, 1e-4, 2.0),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} is {value:g}, expected {low:g} to {high:g}")


@dataclass(frozen=True, eq=False)
class _Phase:
    """A candidate and its reflections."""

    number: int
    source: str
    formula: str
    reflections: Reflections

    @property
    def label(self) -> str:
        return f"{self.formula}, no. {self.reflections.spacegroup}, {_short(self.source)}"


# --- simulate ------------------------------------------------------------------------------------


def simulate(
    paths: Sequence[Path], out: Path, options: XrdOptions, *, console: Console
) -> dict[str, Any]:
    """Write the peaks, the profile and a plot of each crystal's pattern.

    Raises:
        InputError: no crystal that a pattern can be made of.
    """
    low, high = options.two_theta or _RANGE
    phases, failed = _phases(paths, options, high, console)
    grid = np.arange(low, high + _STEP / 2, _STEP)
    curves, peaks = [], []
    for phase in phases:
        angles = phase.reflections.two_theta()
        strength = phase.reflections.intensities(angles)
        inside = (angles >= low) & (angles <= high)
        largest = strength[inside].max(initial=0.0)
        if not largest:
            failed.append({"candidate": phase.source, "why": "no reflection within the range"})
            continue
        drawn = profile(grid, angles, strength, options.fwhm, options.mixing)
        curves.append(Curve(phase.label, angles[inside], grid, 100 * drawn / drawn.max()))
        scaled = 100 * strength / largest
        peaks += [_peak_row(phase, i, angles, scaled) for i in np.flatnonzero(inside & (scaled > 0.1))]
        name = f"{phase.number:04d}_{phase.formula}.csv"
        points = zip(_texts(grid, 3), _texts(curves[-1].intensity, 4), strict=True)
        _write_csv(out / "profiles" / name, ("two_theta", "intensity"), points)
    if not curves:
        raise InputError(f"no reflection of any candidate lies within {low:g} to {high:g} degrees")
    _write_csv(out / "peaks.csv", _PEAK_COLUMNS, peaks)
    draw_patterns(curves, _radiation(options), [out / "patterns.png", out / "patterns.svg"])
    summary = {
        "candidates": len(curves),
        "failed": failed,
        "wavelength": wavelength_of(options.radiation),
        "two_theta": [low, high],
        "out": str(out),
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n", "the summary")
    drawn_text = f" (the first {MOST_CURVES} are drawn)" if len(curves) > MOST_CURVES else ""
    message = f"simulated {len(curves)} patterns{drawn_text}{_failures(failed)}; wrote {out}"
    return {**summary, "message": message}


_PEAK_COLUMNS = (
    *("candidate", "formula", "spacegroup", "h", "k", "l", "multiplicity", "d", "two_theta"),
    "intensity",
)


def _peak_row(
    phase: _Phase, i: np.int64, angles: NDArray[np.float64], scaled: NDArray[np.float64]
) -> tuple[Any, ...]:
    found = phase.reflections
    d = found.wavelength / (2 * np.sin(np.radians(angles[i]) / 2))
    h, k, l_ = found.hkl[i]
    return (
        *(phase.source, phase.formula, found.spacegroup, h, k, l_, found.multiplicity[i]),
        *(f"{d:.5f}", f"{angles[i]:.4f}", f"{scaled[i]:.3f}"),
    )


# --- match ---------------------------------------------------------------------------------------


def rank(
    paths: Sequence[Path], pattern_path: Path, out: Path, options: XrdOptions, *, console: Console
) -> dict[str, Any]:
    """Rank crystals by how well they explain a measured pattern; write the table, the plot, the best.

    Raises:
        InputError: the pattern cannot be used, or no crystal that a pattern can be made of.
    """
    angles, intensities = read_pattern(pattern_path)
    pattern = pattern_from(angles, intensities, options.two_theta or (0.0, 180.0))
    high = min(_MARGIN * (pattern.two_theta[-1] + 1), 179.0)
    phases, failed = _phases(paths, options, high, console)
    found: list[tuple[_Phase, PowderMatch]] = []
    with progress(console, "matching", len(phases)) as step:
        for phase in phases:
            try:
                found.append((phase, match(pattern, phase.reflections, options.limits)))
            except (ValueError, np.linalg.LinAlgError) as error:
                failed.append({"candidate": phase.source, "why": str(error)})
            step()
    if not found:
        raise InputError(f"no candidate could be matched: {failed[0]['why']}")
    found.sort(key=lambda item: (-item[1].similarity, item[1].residual))
    rows = [_row(k, phase, result) for k, (phase, result) in enumerate(found, start=1)]
    _write_csv(out / "matches.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    _write_best(pattern, *found[0], options.symprec, out)
    _draw(pattern, found, pattern_path.name, options, out)
    summary = {
        "pattern": str(pattern_path),
        "kind": "list of peaks" if pattern.from_list else "scan",
        "measured_peaks": len(pattern.peaks),
        "candidates": len(found),
        "failed": failed,
        "wavelength": wavelength_of(options.radiation),
        "best": rows[0],
        "out": str(out),
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n", "the summary")
    message = f"matched {len(found)} candidates{_failures(failed)}; wrote {out}"
    return {**summary, "rows": rows, "message": message}


def _row(number: int, phase: _Phase, result: PowderMatch) -> dict[str, Any]:
    lattice = phase.reflections.strained(result.strain).lattice
    return {
        "rank": number,
        "candidate": phase.source,
        "formula": phase.formula,
        "spacegroup": phase.reflections.spacegroup,
        "similarity": round(result.similarity, 4),
        "residual": round(result.residual, 4),
        "volume_change_percent": round(100 * result.volume_change, 3),
        "largest_strain_percent": round(float(100 * np.abs(np.linalg.eigvalsh(result.strain)).max()), 3),
        **_cell_parameters(lattice),
        "zero_shift": round(result.zero, 4),
        "fwhm": round(result.fwhm, 4),
        "mixing": round(result.mixing, 3),
        "b_iso": round(result.b_iso, 2),
        "at_limit": result.at_limit,
        "unexplained_peaks": len(result.unexplained),
        "missing_peaks": len(result.missing),
        "unexplained_at": " ".join(f"{x:.2f}" for x in result.unexplained),
        "missing_at": " ".join(f"{x:.2f}" for x in result.missing),
    }


def _cell_parameters(lattice: NDArray[np.float64]) -> dict[str, float]:
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = (lattice @ lattice.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(np.clip(cosines[[1, 0, 0], [2, 2, 1]], -1, 1)))
    named = dict(zip(("a", "b", "c"), lengths.round(4).tolist(), strict=True))
    return named | dict(zip(("alpha", "beta", "gamma"), angles.round(3).tolist(), strict=True))


def _write_best(pattern: Pattern, phase: _Phase, result: PowderMatch, symprec: float, out: Path) -> None:
    points = zip(
        _texts(pattern.two_theta, 4),
        _texts(pattern.counts, 4),
        _texts(pattern.background, 4),
        _texts(result.calculated, 4),
        strict=True,
    )
    _write_csv(out / "best_profile.csv", ("two_theta", "measured", "background", "calculated"), points)
    crystal = phase.reflections.strained(result.strain)
    note = f"cell fitted to {len(pattern.peaks)} peaks, similarity {result.similarity:.4f}"
    write_text(out / "best.cif", cif_text(crystal, symprec, [phase.source, note]), "the best candidate")


def _draw(
    pattern: Pattern,
    found: Sequence[tuple[_Phase, PowderMatch]],
    name: str,
    options: XrdOptions,
    out: Path,
) -> None:
    curves = []
    for phase, result in found[:_TICKED]:
        angles = phase.reflections.two_theta(result.strain)
        strength = phase.reflections.intensities(angles, result.b_iso)
        strong = strength > 0.005 * np.nanmax(strength)
        label = f"{phase.label} {result.similarity:.3f}"
        curves.append(Curve(label, angles[strong] + result.zero, pattern.two_theta, result.calculated))
    title = f"{name}, {_radiation(options)}"
    outs = [out / "match.png", out / "match.svg"]
    draw_match(pattern.net, curves, found[0][1].unexplained, title, outs)


def show(result: dict[str, Any], console: Console) -> None:
    """The best ten as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    for name in ("", "similarity", "residual", "ΔV %", "zero", "left", "missing", "no."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("formula", no_wrap=True)
    table.add_column("candidate", overflow="fold")
    for row in result["rows"][:_SHOWN]:
        table.add_row(
            str(row["rank"]),
            *(f"{row[name]:.3f}" for name in ("similarity", "residual")),
            f"{row['volume_change_percent']:+.2f}{'*' if row['at_limit'] else ' '}",
            f"{row['zero_shift']:+.3f}",
            *(str(row[k]) for k in ("unexplained_peaks", "missing_peaks", "spacegroup", "formula")),
            _short(row["candidate"]),
        )
    console.print(table)
    notes = (
        f"left: measured peaks not explained, of {result['measured_peaks']}; missing: calculated, not "
        "measured;\nzero in degrees; no.: space group"
    )
    if any(row["at_limit"] for row in result["rows"][:_SHOWN]):
        notes += "; *: the strain or the zero shift ended at its limit"
    console.print(notes, style="dim", highlight=False)


# --- shared --------------------------------------------------------------------------------------


def _phases(
    paths: Sequence[Path], options: XrdOptions, highest: float, console: Console
) -> tuple[list[_Phase], list[dict[str, str]]]:
    """Candidates with their reflections up to an angle, and those that have none, with why."""
    wavelength = wavelength_of(options.radiation)
    items = FilesGenerator([str(path) for path in paths]).generate(_ALL, seed=0, conditions=Conditions())
    phases: list[_Phase] = []
    failed = []
    with progress(console, "reflections", None) as step:
        for number, item in enumerate(items):
            source = item.origin.source if item.origin else ""
            if not isinstance(item, Candidate):
                failed.append({"candidate": source, "why": item.detail})
            else:
                try:
                    found = reflections(item.crystal, wavelength, highest, options.symprec)
                    phases.append(_Phase(number, source, item.crystal.formula, found))
                except ValueError as error:
                    failed.append({"candidate": source, "why": str(error)})
            step()
    if not phases:
        raise InputError(f"no candidate has a pattern: {failed[0]['candidate']}: {failed[0]['why']}")
    return phases, failed


def _short(source: str) -> str:
    """The entry's name where it has one, else the file's."""
    path, _, entry = source.rpartition("#")
    return entry if path and not entry.isdigit() else Path(source).name


def _radiation(options: XrdOptions) -> str:
    wavelength = f"{wavelength_of(options.radiation):g} Å"
    named = not options.radiation[0].isdigit()
    return f"{options.radiation} ({wavelength})" if named else wavelength


def _failures(failed: Sequence[dict[str, str]]) -> str:
    if not failed:
        return ""
    return f"; {len(failed)} have none (first: {failed[0]['candidate']}: {failed[0]['why']})"


def _texts(values: NDArray[np.float64], decimals: int) -> list[str]:
    return [f"{value:.{decimals}f}" for value in values.tolist()]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_text(path, text.getvalue())
