"""Sets of crystals with duplicates, on which deduplication is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.io import read
from crystals import noisy, table, with_copies

from heliodor.core.convert import from_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.records import Candidate, Conditions
from heliodor.generators.random_symmetric import RandomGenerator

SYSTEM = "Li-Ti-O"


def varied(n: int) -> list[Crystal]:
    """Materials Project crystals of at most 20 atoms, 10 % noisy copies of others among them."""
    return with_copies(table().query("n_atoms <= 20"), n, 0.1)


def generated(n: int, folder: Path, originals: int = 1000) -> list[Crystal]:
    """Crystals of the diffusion model: one half of any elements, the other of one chemical system.

    `originals` of each are generated once and kept in `folder`. More than 2 `originals` are made up with
    copies of them, each with its own strain of up to 2 % and displacements of 0.05 to 0.25 angstrom
    (fewer: the first n / 2 of each).
    """
    half = min(n // 2, originals)
    crystals = _drawn(folder, originals)[:half] + _drawn(folder, originals, "--chemsys", SYSTEM)[:half]
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(crystals), n - len(crystals))
    crystals += [noisy(crystals[i], rng, 0.02, rng.uniform(0.05, 0.25)) for i in picked]
    return [crystals[i] for i in rng.permutation(n)]


def _drawn(folder: Path, n: int, *options: str) -> list[Crystal]:
    path = folder / f"generated{''.join(options[1:])}-{n}.extxyz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.extxyz")
        command = [sys.executable, "-m", "heliodor.cli", "generate", "-n", str(n), *options]
        subprocess.run([*command, "--out", str(part)], check=True, stdout=subprocess.DEVNULL)
        part.rename(path)
    return [from_atoms(atoms) for atoms in read(path, ":")]


def polymorphs(n: int) -> list[Crystal]:
    """Random carbon of at most 8 atoms, and one third of them copies moved by 0.05 to 0.4 angstrom."""
    fresh = n - n // 3
    conditions = Conditions(elements=("C",), composition=(("C", 1),), max_atoms=8)
    stream = RandomGenerator().generate(2 * fresh, seed=0, conditions=conditions)
    crystals = [item.crystal for item in stream if isinstance(item, Candidate)][:fresh]
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(crystals), n - len(crystals))
    crystals += [noisy(crystals[i], rng, 0.02, rng.uniform(0.05, 0.4)) for i in picked]
    return [crystals[i] for i in rng.permutation(len(crystals))]
