"""Reading measured powder patterns: columns of angle and intensity, whatever stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_BYTES = 64 * 2**20


def read_pattern(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles (2 theta, degrees) and intensities of a text file (.xy, .xye, .csv, .dat, .txt).

    The first two columns count, parted by blanks, tabs, commas or semicolons; with semicolons a comma
    is the decimal mark. Lines before the first row of numbers are a head; later ones that begin with
    # ! ' or / are remarks.

    Raises:
        InputError: not readable, no numbers, or a line among the numbers that is none.
    """
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif rows and line.strip() and line.strip()[0] not in "#!'/":
            raise InputError(
                f"{path}: line {number}: expected angle and intensity, got {line.strip()[:40]!r}"
            )
    if not rows:
        raise InputError(
            f"{path}: no rows of two numbers",
            hint="a text file with the columns two theta (degrees) and intensity is needed",
        )
    angles, intensities = np.array(rows).T
    return angles, intensities


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: larger than {_MOST_BYTES // 2**20} MiB; this is no pattern")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if b"\0" in data:
        raise InputError(f"{path}: binary data", hint="export the pattern as text: two theta, intensity")
    return data.decode("utf-8-sig", errors="replace")


def _row(line: str) -> tuple[float, float] | None:
    if ";" in line:
        line = line.replace(",", ".").replace(";", " ")
    parts = line.replace(",", " ").split()
    try:
        return (float(parts[0]), float(parts[1])) if len(parts) > 1 else None
    except ValueError:
        return None
