"""An independent judge of steered samples: a property from composition and volume alone, no coordinates.

Extremely randomised trees (Geurts et al., doi:10.1007/s10994-006-6226-1) on statistics of the elements,
after the descriptors of Ward et al. (doi:10.1038/npjcompumats.2016.28). It shares nothing with the diffusion
model but the labels, so that it cannot be fooled by the model's own mistakes; it can by its own, which its
held-out error tells.

    python benchmarks/property_predictor.py          # held-out errors of both properties
"""

from __future__ import annotations

import os
import time
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from heliodor.core.crystal import Crystal
from heliodor.core.elements import SYMBOLS

DATA = Path(
    os.environ.get("HELIODOR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)
TABLES = {
    "bulk_modulus": "aflow_bulk_modulus.parquet",  # GPa
    "band_gap": "materials_project.parquet",  # eV
}


@lru_cache(maxsize=1)
def elements() -> np.ndarray:
    """(104, k) descriptors of each atomic number; gaps are the mean of the row of the periodic table."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen tells of each value it lacks
        rows = pd.DataFrame([_of(Element(SYMBOLS[z])) for z in range(1, 104)])
    rows = rows.fillna(rows.groupby(1).transform("mean")).fillna(rows.mean())
    return np.concatenate([np.zeros((1, rows.shape[1])), rows.to_numpy()])


def _of(e) -> list[float]:
    shells = dict.fromkeys("spdf", 0)
    for _, kind, n in e.full_electronic_structure:
        shells[kind] = n
    values = [e.Z, e.row, e.group, e.X, e.atomic_radius or e.atomic_radius_calculated]
    values += [e.melting_point, e.molar_volume, e.bulk_modulus, e.mendeleev_no]
    values += [e.ionization_energy, e.is_metal, *shells.values()]
    return [np.nan if v is None else float(v) for v in values]


def features(crystal: Crystal) -> np.ndarray:
    """(f,) mean, deviation, least, largest and commonest of each descriptor; volume; packing; counts."""
    rows = elements()[crystal.atomic_numbers]
    numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    volume = crystal.volume / len(crystal)
    radii = rows[:, 4]
    return np.concatenate(
        [
            rows.mean(0),
            rows.std(0),
            rows.min(0),
            rows.max(0),
            elements()[numbers[counts.argmax()]],
            [
                volume,
                (4 / 3 * np.pi * radii**3).mean() / volume,
                len(numbers),
                counts.max() / counts.sum(),
            ],
        ]
    )


class Predictor:
    """A property of crystals, learned from a table."""

    def __init__(self, crystals: list[Crystal], values: np.ndarray, seed: int = 0) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self.trees = ExtraTreesRegressor(
            200, max_features=0.5, min_samples_leaf=2, random_state=seed, n_jobs=1
        ).fit(np.array([features(c) for c in crystals]), values)

    def __call__(self, crystals: list[Crystal]) -> np.ndarray:
        """(m,) predicted values, in the unit of the labels."""
        return self.trees.predict(np.array([features(c) for c in crystals]))


def labelled(name: str, limit: int | None = None) -> tuple[list[Crystal], np.ndarray, np.ndarray]:
    """Crystals with a label, its values, and their formulas."""
    rows = pd.read_parquet(DATA / TABLES[name]).dropna(subset=[name])
    if limit is not None and len(rows) > limit:
        rows = rows.sample(limit, random_state=0)
    crystals = [
        Crystal(np.reshape(c, (3, 3)), np.reshape(f, (-1, 3)), np.asarray(z))
        for c, f, z in zip(rows["lattice"], rows["frac_coords"], rows["atomic_numbers"], strict=True)
    ]
    return crystals, rows[name].to_numpy(float), rows["formula"].to_numpy(str)


def predictor(name: str, limit: int | None = 6000) -> Predictor:
    """The judge of a property, from all that is labelled."""
    crystals, values, _ = labelled(name, limit)
    return Predictor(crystals, values)


def held_out(name: str, limit: int | None = 6000) -> dict[str, float]:
    """Errors on a fifth of the crystals, of whose formulas none is in the training set."""
    crystals, values, formulas = labelled(name, limit)
    known = np.unique(formulas)
    away = np.isin(formulas, np.random.default_rng(0).permutation(known)[: len(known) // 5])
    model = Predictor([c for c, a in zip(crystals, away, strict=True) if not a], values[~away])
    found = model([c for c, a in zip(crystals, away, strict=True) if a])
    error = found - values[away]
    return {
        "n": int(away.sum()),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - (error**2).mean() / values[away].var()),
        "mae_of_the_mean": float(np.abs(values[away] - values[~away].mean()).mean()),
    }


def main() -> None:
    for name in TABLES:
        begin = time.perf_counter()
        found = held_out(name)
        print(
            f"{name:>14}: {found['n']:>5} held out, MAE {found['mae']:.3f} (the mean: "
            f"{found['mae_of_the_mean']:.3f}), R2 {found['r2']:.3f}; {time.perf_counter() - begin:.0f} s"
        )


if __name__ == "__main__":
    main()
