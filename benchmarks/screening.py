"""A screening of mixed crystals, a tenth of them broken: whole, and killed twice and run again.

    python benchmarks/screening.py [--n 2000] [--potential chgnet] [--out FOLDER]

Checks that every input has its row, and that the interrupted screening ends with the same rows. Prints
wall time, crystals per minute, and the largest memory of the main process and of all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import zipfile
from contextlib import closing
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import psutil
from crystals import crystals, noisy, table
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from heliodor.core.convert import to_atoms, to_structure
from heliodor.core.crystal import Crystal

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
SWAPS = {3: 11, 11: 3, 12: 20, 20: 12, 8: 16, 16: 34, 17: 35, 35: 17, 26: 27, 27: 28, 28: 26, 13: 31}
"""Atomic numbers of similar elements."""
EXACT = 1e-6  # eV/atom, and what else is a number


def cif(structure: Structure) -> str:
    return str(CifWriter(structure))


def good(n: int, rng: np.random.Generator) -> list[Crystal]:
    """A third known, a third noisy copies, a third with elements swapped for similar ones."""
    rows = table()
    known = crystals(rows[rows.atomic_numbers.map(len) <= 8].sample(n, random_state=0, replace=True))
    made = []
    for i, crystal in enumerate(known):
        if i % 3 == 0:
            made.append(crystal)
        elif i % 3 == 1:
            made.append(noisy(crystal, rng))
        else:
            numbers = [SWAPS.get(int(z), int(z)) for z in crystal.atomic_numbers]
            made.append(noisy(Crystal(crystal.lattice, crystal.frac_coords, numbers), rng, 0.01, 0.02))
    return made


def broken(crystal: Crystal, kind: int) -> tuple[str, bytes]:
    """(suffix, content) of one of ten kinds of what is no crystal, or none that can be relaxed."""
    text = cif(to_structure(crystal))
    if kind == 0:
        return ".cif", text[: len(text) // 3].encode()
    if kind == 1:
        return ".cif", b""
    if kind == 2:
        return ".cif", LFS.encode()
    if kind == 3:
        return ".cif", bytes(range(256))
    if kind == 4:
        mixed = Structure(
            Lattice(crystal.lattice), [{"Cu": 0.5, "Au": 0.5}] * len(crystal), crystal.frac_coords
        )
        return ".cif", cif(mixed).encode()
    if kind == 5:
        return ".xyz", b"2\nmolecule\nH 0 0 0\nH 0 0 0.74\n"
    if kind == 6:
        return ".json", b'[{"lattice": {"matrix": [[1, 0'
    if kind == 7:
        close = (
            np.tile(crystal.frac_coords[:1], (len(crystal), 1)) + 1e-3 * np.arange(len(crystal))[:, None]
        )
        return ".vasp", to_structure(Crystal(0.4 * crystal.lattice, close, crystal.atomic_numbers)).to(
            fmt="poscar"
        ).encode()
    if kind == 8:
        unknown = Crystal(crystal.lattice, crystal.frac_coords, [96] * len(crystal))
        return ".cif", cif(to_structure(unknown)).encode()
    times = round((10_000 / len(crystal)) ** (1 / 3)) + 1
    large = to_structure(crystal).make_supercell([times] * 3, in_place=False)
    return ".vasp", large.to(fmt="poscar").encode()


def write_inputs(folder: Path, n: int, seed: int = 0) -> int:
    """Nine tenths good, in four kinds of containers, and a tenth broken, file by file."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    n_broken = n // 10
    made = good(n - n_broken, rng)
    quarter = len(made) // 4
    for i, crystal in enumerate(made[:quarter]):
        (folder / f"c{i:05d}.cif").write_text(cif(to_structure(crystal)))
    with zipfile.ZipFile(folder / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, crystal in enumerate(made[quarter : 2 * quarter]):
            archive.writestr(f"{i:05d}.cif", cif(to_structure(crystal)))
    ase.io.write(folder / "e.extxyz", [to_atoms(c) for c in made[2 * quarter : 3 * quarter]])
    rest = [to_structure(c).as_dict() for c in made[3 * quarter :]]
    (folder / "f.json").write_text(json.dumps(rest))
    for i in range(n_broken):
        suffix, content = broken(made[i], i % 10)
        (folder / f"g{i:05d}{suffix}").write_bytes(content)
    return n


class Screening:
    """The command in a process of its own; the last run of a folder is the one that ends."""

    def __init__(self, inputs: Path, out: Path, potential: str) -> None:
        self.out = out
        self.command = [sys.executable, "-m", "heliodor.cli", "screen", str(inputs), "--out", str(out)]
        self.command += ["--potential", potential, "--json"]
        self.peak = self.peak_all = 0

    def run(self, kill_at: int | None = None) -> float:
        """Seconds until it ended, or until it was killed with `kill_at` crystals screened."""
        begun = time.monotonic()
        with (self.out.parent / f"{self.out.name}.log").open("a") as log:
            process = psutil.Popen(
                self.command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            while process.poll() is None:
                self._measure(process)
                if kill_at is not None and self.ended() >= kill_at:
                    process.kill()
                    break
                time.sleep(0.5)
            code = process.wait()
        if kill_at is None and code != 0:
            sys.exit(f"heliodor screen ended with {code}: see {self.out}.log")
        return time.monotonic() - begun

    def ended(self) -> int:
        """Crystals that came to an end at the last stage that takes long."""
        path = self.out / "ledger.sqlite"
        if not path.is_file():
            return 0
        stage = "relax" if "none" not in self.command else "screen"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
            try:
                return int(
                    ledger.execute("select count(*) from outcome where stage = ?", (stage,)).fetchone()[
                        0
                    ]
                )
            except sqlite3.Error:  # not made yet
                return 0

    def _measure(self, process: psutil.Process) -> None:
        try:
            own = process.memory_info().rss
            below = sum(c.memory_info().rss for c in process.children(recursive=True))
        except psutil.Error:
            return
        self.peak = max(self.peak, own)
        self.peak_all = max(self.peak_all, own + below)

    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.out / "crystals.parquet")


def differing(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, int]:
    """Column -> rows that differ; numbers by more than `EXACT`."""
    found = {}
    for name in a.columns:
        x, y = a[name], b[name]
        if pd.api.types.is_float_dtype(x):
            unlike = ~(np.isclose(x.astype(float), y.astype(float), rtol=0, atol=EXACT, equal_nan=True))
        else:
            unlike = ~((x == y).fillna(False) | (x.isna() & y.isna()))
        if unlike.any():
            found[name] = int(unlike.sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here")
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="heliodor-screening-"))
    n = write_inputs(folder / "in", options.n)

    whole = Screening(folder / "in", folder / "whole", options.potential)
    seconds = whole.run()
    rows = whole.rows()
    broken_rows = rows[rows["source"].str.contains(r"/g\d{5}", regex=True)]

    again = Screening(folder / "in", folder / "killed", options.potential)
    parts = [again.run(kill_at=n // 3), again.run(kill_at=2 * n // 3), again.run()]
    differs = differing(rows, again.rows())

    result = {
        "crystals": n,
        "rows": len(rows),
        "sources distinct": bool(rows["source"].is_unique),
        "without a reason and without a verdict": int(
            (rows["reason"].isna() & ~rows["sun"].fillna(False) & rows["novel"].isna()).sum()
        ),
        "broken": len(broken_rows),
        "broken, by reason": broken_rows["reason"].value_counts().to_dict(),
        "converged": int(rows["converged"].fillna(False).sum()),
        "wall time (s)": round(seconds, 1),
        "crystals per minute": round(60 * n / seconds, 1),
        "memory of the main process (MB)": round(whole.peak / 1e6),
        "memory of all processes (MB)": round(whole.peak_all / 1e6),
        "killed: wall time of the three parts (s)": [round(p, 1) for p in parts],
        "killed: rows": len(again.rows()),
        "killed: columns that differ": differs,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    assert len(rows) == n, "every input has its row"
    assert rows["source"].is_unique
    if options.potential != "none":  # which asks nothing of the elements
        assert broken_rows["reason"].notna().all(), "every broken one has its reason"
    assert not differs, "killed twice, the rows are the same"


if __name__ == "__main__":
    main()
