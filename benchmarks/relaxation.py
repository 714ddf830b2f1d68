"""Relaxing noisy crystals: ours beside ASE one by one and torch-sim, same potential, same thresholds.

Every contender starts from the same crystals and stops at the same thresholds, on the largest force on an
atom and the largest component of the stress. What it reached is then judged by the potential's public
calculator at its final geometry: converged or not, and the energy, which is compared with ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ase.io
import numpy as np
from crystals import crystals, noisy, table

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.convert import from_atoms, to_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.records import Relaxed
from heliodor.engines.mlip import MlipRelaxer

FMAX, SMAX, STEPS = 0.05, 0.003, 300  # eV/angstrom, eV/angstrom^3
SAME = 1e-3  # eV/atom
OPTIMISERS = ("FIRE", "BFGSLineSearch")
TORCH_SIM = "HELIODOR_TORCH_SIM"


@dataclass
class Run:
    """Who relaxed, how long it took, and where each crystal ended (None: nowhere)."""

    name: str
    seconds: float
    ends: list[Crystal | None]


def calculator(potential: str):
    if potential == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu", verbose=False)
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def ours(potential: str, batch: list[Crystal], workers: int, **settings) -> Run:
    # Nobody has a limit of time here: on a busy machine it would decide who converges.
    choice = MlipChoice(fmax=FMAX, smax=SMAX, max_steps=STEPS, device="cpu", time_limit=3600, **settings)
    relaxer = MlipRelaxer(potential, choice, workers)
    list(relaxer.relax(batch[:workers]))  # the workers start; the peers' potentials are loaded, too
    begin = time.perf_counter()
    found = {r.key: r for r in relaxer.relax(batch)}
    seconds = time.perf_counter() - begin
    relaxer.close()
    ends = [r.crystal if isinstance(r := found[c.digest], Relaxed) else None for c in batch]
    before = f"{settings['first']} first, " if "first" in settings else ""
    return Run(f"ours, {before}{workers} process{'es' * (workers > 1)}", seconds, ends)


def with_ase(batch: list[Crystal], calc, name: str) -> Run:
    """One by one in one process, with ASE's Frechet cell filter."""
    import ase.optimize
    from ase.filters import FrechetCellFilter

    ends: list[Crystal | None] = []
    begin = time.perf_counter()
    for crystal in batch:
        atoms = to_atoms(crystal)
        atoms.calc = calc
        try:
            run = getattr(ase.optimize, name)(FrechetCellFilter(atoms), logfile=None)
            # The thresholds of everybody: the filter's own would weigh the stress by the volume.
            for _ in run.irun(fmax=0, steps=STEPS):
                if within(atoms):
                    break
            ends.append(from_atoms(atoms))
        except Exception as error:  # the potentials raise many types for odd crystals
            print(f"  ASE {name}: {crystal.formula} failed: {type(error).__name__}: {error}")
            ends.append(None)
    return Run(f"ASE {name}", time.perf_counter() - begin, ends)


def with_torch_sim(python: str, batch: list[Crystal], optimiser: str, processes: int) -> Run:
    """In its own interpreter; several processes share the crystals."""
    script = Path(__file__).with_name("peer_torch_sim.py")
    with tempfile.TemporaryDirectory() as folder:

        def part(k: int) -> tuple[float, list]:
            source, target = f"{folder}/{k}.extxyz", f"{folder}/{k}-out.extxyz"
            ase.io.write(source, [to_atoms(c) for c in batch[k::processes]])
            numbers = [str(FMAX), str(SMAX), str(STEPS)]
            done = subprocess.run(
                [python, script, source, target, optimiser, *numbers],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or ["no words"]
                raise RuntimeError(f"torch-sim: {last[0]}")
            return float(done.stdout.split()[-1]), ase.io.read(target, ":")

        with ThreadPoolExecutor(processes) as pool:
            parts = list(pool.map(part, range(processes)))
    ends: list[Crystal | None] = [None] * len(batch)
    for k, (_, atoms) in enumerate(parts):
        ends[k::processes] = [from_atoms(a) for a in atoms]
    plural = f", {processes} processes" if processes > 1 else ""
    return Run(f"torch-sim {optimiser}{plural}", max(seconds for seconds, _ in parts), ends)


def within(atoms) -> bool:
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    return bool(force <= FMAX and np.abs(atoms.get_stress()).max() <= SMAX)


def judged(ends: list[Crystal | None], calc) -> tuple[list[bool], list[float]]:
    """Converged and energy per atom (NaN: nowhere), by the public calculator at the final geometry."""
    converged, energies = [], []
    for end in ends:
        if end is None:
            converged.append(False)
            energies.append(np.nan)
            continue
        atoms = to_atoms(end)
        atoms.calc = calc
        converged.append(within(atoms))
        energies.append(float(atoms.get_potential_energy()) / len(atoms))
    return converged, energies


def report(runs: list[Run], calc) -> None:
    base = min(run.seconds for run in runs if run.name.startswith("ASE"))
    mine: list[float] = []
    print(
        "    per minute   times ASE's best   converged   energy: same as ours  ours lower  higher  median |d|"
    )
    for run in runs:
        converged, energies = judged(run.ends, calc)
        mine = mine or energies
        d = np.array(mine) - np.array(energies)  # ours minus theirs
        both = d[np.isfinite(d)]
        print(
            f"    {60 * len(run.ends) / run.seconds:>10.1f} {base / run.seconds:>18.2f}"
            f" {sum(converged):>8} of {len(run.ends)}"
            f" {np.mean(np.abs(both) <= SAME):>15.0%} {sum(both < -SAME):>14} {sum(both > SAME):>7}"
            f" {1000 * np.median(np.abs(both)):>8.2f} meV   {run.name}",
            flush=True,
        )


def main(
    n: int = 24,
    potentials: tuple[str, ...] = ("chgnet", "sevennet"),
    torch_sim: str | None = os.environ.get(TORCH_SIM),
) -> None:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    rows = table().query("4 <= n_atoms <= 12").sample(n, random_state=3)
    batch = [noisy(c, rng, strain=0.04, jitter=0.1) for c in crystals(rows)]
    cores = os.cpu_count() or 1
    print(
        f"relaxing {n} noisy crystals of 4 to 12 atoms, fmax {FMAX}, smax {SMAX}, one thread a process"
    )
    for potential in potentials:
        calc = calculator(potential)
        runs = [ours(potential, batch, workers) for workers in dict.fromkeys((1, cores))]
        if potential != "chgnet":
            runs.append(ours(potential, batch, 1, first="chgnet"))
        runs += [with_ase(batch, calc, name) for name in OPTIMISERS]
        if potential == "sevennet" and torch_sim:
            runs += [
                with_torch_sim(torch_sim, batch, optimiser, processes)
                for optimiser, processes in (("fire", 1), ("lbfgs", 1), ("lbfgs", cores))
            ]
        print(f"  {potential}")
        report(runs, calc)
    if not torch_sim:
        print(f"  torch-sim left out: give --torch-sim or {TORCH_SIM}, a Python >= 3.12 that has it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=24)
    parser.add_argument("--potentials", nargs="+", default=["chgnet", "sevennet"])
    parser.add_argument("--torch-sim", default=os.environ.get(TORCH_SIM), help="python with torch-sim")
    main(**vars(parser.parse_args(sys.argv[1:])))
