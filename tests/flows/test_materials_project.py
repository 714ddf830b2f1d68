"""What our energies and novelty are worth on crystals whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

N = 40


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(900)
def test_energies_and_novelty_on_the_materials_project(heliodor, mp_table, tmp_path, capsys):
    rows = mp_table.sample(N, random_state=11)
    rows.to_parquet(tmp_path / "rows.parquet")
    mp_table.drop(rows.index).to_parquet(tmp_path / "rest.parquet")

    def screen(reference: object, relaxer: str, out: str) -> pd.DataFrame:
        result = heliodor(
            "screen", "rows.parquet", "--relaxer", relaxer, "--reference", reference, "--out", out
        )
        assert result.returncode == 0, result.stderr
        table = pd.read_parquet(tmp_path / out / "crystals.parquet")
        assert len(table) == N
        return table

    judged = screen("rest.parquet", "chgnet", "judged")
    known = rows["e_above_hull"].to_numpy()
    ours = judged["energy_above_hull"].to_numpy()
    there = np.isfinite(ours)
    error = np.abs(ours - known)[there].mean()
    confusion = pd.crosstab(
        pd.Series(known[there] <= 0.1, name="MP <= 0.1"),
        pd.Series(ours[there] <= 0.1, name="ours <= 0.1"),
    )
    with capsys.disabled():
        print(f"\nenergy above hull of {there.sum()} crystals: MAE {1000 * error:.0f} meV/atom")
        print(confusion)
    assert there.mean() >= 0.96
    assert error < 0.035, "CHGNet's error on MP is about 20 to 30 meV/atom"
    assert np.trace(confusion.to_numpy()) / there.sum() >= 0.9

    recognised = (screen("embedded", "none", "known")["novel"] == False).sum()  # noqa: E712
    with capsys.disabled():
        print(f"recognised as known by the embedded table: {recognised} of {N}")
    assert recognised >= 0.98 * N
