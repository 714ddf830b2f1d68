"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

# One thread a process: more are slower for small crystals, and the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(
    os.environ.get("HELIODOR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the structure tables; tests that take it are marked `shared`."""
    if not (DATA / "materials_project.parquet").is_file():
        pytest.skip(f"no structure tables at {DATA}; set HELIODOR_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def mp_table(data_folder: Path) -> pd.DataFrame:
    """26,438 Materials Project crystals."""
    return pd.read_parquet(data_folder / "materials_project.parquet")
