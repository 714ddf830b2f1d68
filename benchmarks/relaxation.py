"""Relaxing crystals with CHGNet: ours on all cores beside ASE one by one, same potential and thresholds."""

from __future__ import annotations

import os
import time
import warnings

import numpy as np
from crystals import crystals, noisy, table

from heliodor.core.campaign import ChgnetChoice
from heliodor.core.convert import to_atoms
from heliodor.core.records import Relaxed
from heliodor.engines.mlip import MlipRelaxer

FMAX = 0.05


def main(n: int = 30) -> None:
    rng = np.random.default_rng(0)
    rows = table().query("4 <= n_atoms <= 12").sample(n, random_state=3)
    batch = [noisy(c, rng, strain=0.04, jitter=0.1) for c in crystals(rows)]
    workers = os.cpu_count() or 1
    relaxer = MlipRelaxer("chgnet", ChgnetChoice(kind="chgnet", fmax=FMAX), workers)
    list(relaxer.relax(batch[:workers]))  # start the workers; the peer's model is loaded beforehand too
    begin = time.perf_counter()
    results = {r.key: r for r in relaxer.relax(batch)}
    ours = time.perf_counter() - begin
    relaxer.close()
    print(
        f"relaxing {n} noisy crystals, CHGNet, fmax {FMAX}    seconds   per minute   converged   ratio"
    )
    converged = sum(isinstance(r, Relaxed) and r.converged for r in results.values())
    print(f"  ours, {workers} processes {ours:>36.1f} {60 * n / ours:>12.1f} {converged:>11}")
    for name in ("FIRE", "BFGSLineSearch"):
        energies, spent = with_ase(batch, name)
        done = sum(e is not None for e in energies)
        print(
            f"  ASE {name:<16} {spent:>33.1f} {60 * n / spent:>12.1f} {done:>11} {spent / ours:>6.1f}x"
        )
        both = [
            (results[c.digest].energy - e) / len(c)
            for c, e in zip(batch, energies, strict=True)
            if e is not None and isinstance(results[c.digest], Relaxed)
        ]
        print(
            f"    energy, ours minus ASE: median |d| {1000 * np.median(np.abs(both)):.2f} meV/atom,"
            f" ours lower by > 1 meV/atom {sum(d < -1e-3 for d in both)}, higher {sum(d > 1e-3 for d in both)}"
        )


def with_ase(batch, optimiser: str) -> tuple[list[float | None], float]:
    """One by one in one process; threads as OMP_NUM_THREADS says (one is fastest for small cells)."""
    import ase.optimize
    from ase.filters import FrechetCellFilter
    from chgnet.model.dynamics import CHGNetCalculator

    warnings.simplefilter("ignore")
    calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    energies: list[float | None] = []
    begin = time.perf_counter()
    for crystal in batch:
        atoms = to_atoms(crystal)
        atoms.calc = calculator
        run = getattr(ase.optimize, optimiser)(FrechetCellFilter(atoms), logfile=None)
        energies.append(float(atoms.get_potential_energy()) if run.run(fmax=FMAX, steps=300) else None)
    return energies, time.perf_counter() - begin


if __name__ == "__main__":
    main()
