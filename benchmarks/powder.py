"""How often a strained crystal is recovered from its own noisy powder pattern, and how long that takes.

Real crystals, strained at random within their crystal system (principal strains up to 2 %), CuKa, 10 to
80 degrees, zero shift up to 0.1 degrees, counting noise at 3,000 counts, a sloping and humped background,
three peaks of another phase. Recovered: every component of the strain within 0.1 %.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from crystals import crystals, table

from heliodor.validators.powder import Reflections, profile, reflections, wavelength_of
from heliodor.validators.powder_match import Limits, match
from heliodor.validators.powder_pattern import Pattern, pattern_from

SYSTEMS = {1: "cubic", 2: "uniaxial", 3: "orthorhombic", 4: "monoclinic", 6: "triclinic"}
GRID = np.arange(10, 80, 0.02)


def measured(phase: Reflections, rng: np.random.Generator) -> tuple[Pattern, np.ndarray]:
    """A pattern of the strained phase, and the strain."""
    strain = phase.strain(rng.uniform(-0.02, 0.02, len(phase.strains)))
    strain *= min(1, 0.02 / np.abs(np.linalg.eigvalsh(strain)).max())
    angles = phase.two_theta(strain)
    drawn = profile(GRID, angles + rng.uniform(-0.1, 0.1), phase.intensities(angles, 0.8), 0.12, 0.5)
    foreign = profile(GRID, np.array([26.6, 38.47, 44.7]), np.array([1.0, 0.6, 0.3]), 0.12, 0.5)
    back = 80 + 300 * np.exp(-GRID / 25) + 100 * np.exp(-(((GRID - 22) / 8) ** 2))
    counts = rng.poisson(3000 * drawn / drawn.max() + 150 * foreign / foreign.max() + back)
    return pattern_from(GRID, counts.astype(float)), strain


def main(n: int = 60) -> None:
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[bool, float, float]]] = {}
    for crystal in crystals(table().sample(n, random_state=0)):
        phase = reflections(crystal, wavelength_of("CuKa"), 85)
        pattern, strain = measured(phase, rng)
        begin = time.perf_counter()
        result = match(pattern, phase, Limits())
        seconds = time.perf_counter() - begin
        near = bool(np.abs(result.strain - strain).max() < 1e-3)
        found.setdefault(SYSTEMS[len(phase.strains)], []).append((near, result.similarity, seconds))
    print(f"powder patterns of {n} crystals, strained up to 2 %")
    for system in SYSTEMS.values():
        if rows := found.get(system):
            near, similarity, seconds = np.array(rows).T
            print(
                f"  {system:<13} recovered {near.sum():>3.0f} of {len(rows):<3} similarity {similarity.min():.3f} "
                f"to {similarity.max():.3f}   {seconds.mean():.2f} s a crystal"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=60)
    main(parser.parse_args().n)
