"""The crystals that the benchmarks run on: real ones from a structure table, and noisy copies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from heliodor.core.crystal import Crystal

DATA = Path(
    os.environ.get("HELIODOR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def table() -> pd.DataFrame:
    """The structure table; ends the program with a reason where it is not there."""
    path = DATA / "materials_project.parquet"
    if not path.is_file():
        sys.exit(f"skipped: no structure table at {path}; set HELIODOR_TEST_DATA")
    return pd.read_parquet(path)


def crystal(row) -> Crystal:
    """A row of the table as a crystal."""
    return Crystal(
        np.reshape(row.lattice, (3, 3)),
        np.reshape(row.frac_coords, (-1, 3)),
        np.array(row.atomic_numbers),
    )


def crystals(rows: pd.DataFrame) -> list[Crystal]:
    """Rows as crystals."""
    return [crystal(row) for row in rows.itertuples()]


def noisy(
    original: Crystal, rng: np.random.Generator, strain: float = 0.03, jitter: float = 0.05
) -> Crystal:
    """A copy with a random strain, and positions moved by about `jitter` angstrom."""
    deformed = original.lattice @ (np.eye(3) + rng.uniform(-strain, strain, (3, 3)))
    shift = rng.normal(0, jitter / np.sqrt(3), (len(original), 3)) @ np.linalg.inv(deformed)
    return Crystal(deformed, original.frac_coords + shift, original.atomic_numbers)


def with_copies(rows: pd.DataFrame, n: int, share: float, seed: int = 0) -> list[Crystal]:
    """`n` crystals, `share` of them noisy copies of others, in random order."""
    rng = np.random.default_rng(seed)
    originals = crystals(rows.sample(round(n * (1 - share)), random_state=seed))
    copies = [noisy(originals[i], rng) for i in rng.integers(0, len(originals), n - len(originals))]
    mixed = originals + copies
    rng.shuffle(mixed)  # type: ignore[arg-type]
    return mixed
