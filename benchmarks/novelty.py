"""Novelty of 1,000 to 20,000 crystals against 26,000 known phases: ours beside a matcher call a phase.

The peer is what evaluation scripts do: `StructureMatcher.fit` on every phase of the same formula, the
structures as they are. Its time is capped; the ratio is that of the times per crystal. Ours is measured in
processes of its own: with the store there and the process warm; with opening it, in a new process; and
with building it too. Then the recall of the index: pairs that it does not propose, among all that the
matcher finds. And ours alone against more phases, up to 1,000,000 (`--large`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pyarrow.parquet as pq
from crystals import DATA, crystals, noisy, table
from pymatgen.analysis.structure_matcher import StructureMatcher

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.protocols import Phase
from heliodor.validators.index import AMD_RADIUS, FEW
from heliodor.validators.novelty import StructureNovelty
from heliodor.validators.store_build import open_store
from heliodor.validators.tables import write_table

SIZES = (1000, 5000, 20000)
PEER_SECONDS = 120.0

Known = list[tuple[str, Crystal]]


def mixed(known: list[Crystal], n: int, seed: int = 0) -> list[Crystal]:
    """Half noisy copies of known phases, half known phases with their elements changed round."""
    rng = np.random.default_rng(seed)
    picked = [known[i] for i in rng.integers(0, len(known), n)]
    copies = [noisy(crystal, rng) for crystal in picked[: n // 2]]
    others = [_substituted(crystal, rng) for crystal in picked[n // 2 :]]
    batch = copies + others
    return [batch[i] for i in rng.permutation(n)]


def _substituted(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Two of the elements change places; an element alone makes room for its neighbour."""
    elements = list(dict.fromkeys(crystal.atomic_numbers.tolist()))
    a, b = (
        rng.choice(elements, 2, replace=False)
        if len(elements) > 1
        else (elements[0], elements[0] % 89 + 1)
    )
    swap = {a: b, b: a}
    return Crystal(
        crystal.lattice, crystal.frac_coords, np.array([swap.get(z, z) for z in crystal.atomic_numbers])
    )


def hard(rows, n: int, seed: int = 0) -> list[Crystal]:
    """Strongly distorted copies of phases of which more than `FEW` share a composition."""
    rng = np.random.default_rng(seed)
    common = crystals(rows[rows.formula.map(rows.formula.value_counts()) > FEW])
    picked = rng.integers(0, len(common), n)
    return [noisy(common[i], rng, 0.04, rng.uniform(0.05, 0.4)) for i in picked]


# --- ours, in a process of its own -----------------------------------------------------------------


def _built(path: Path, cache: Path, threads: int) -> float:
    begin = time.perf_counter()
    open_store(path, cache, threads)
    return time.perf_counter() - begin


def _asked(path: Path, cache: Path, batch: list[Crystal], threads: int) -> dict[str, float | list]:
    """Seconds of opening and of the first and the second time that the batch is judged, and memory."""
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    store = open_store(path, cache)
    opened = time.perf_counter()
    size = psutil.Process().memory_info().rss - before
    first = StructureNovelty(store, threads=threads).check(_fresh(batch))
    cold = time.perf_counter()
    again = _fresh(batch)
    warm = time.perf_counter()
    verdicts = StructureNovelty(store, threads=threads).check(again)
    end = time.perf_counter()
    if verdicts != first:
        raise AssertionError("the second time, the verdicts are others")
    return {
        "open": opened - begin,
        "cold": cold - begin,
        "warm": end - warm,
        "open_mb": size / 1e6,
        "mb": (psutil.Process().memory_info().rss - before) / 1e6,
        "match": [v.match if v.passed is not None else "failed" for v in verdicts],
    }


def _fresh(batch: list[Crystal]) -> list[Crystal]:
    """The same crystals, with nothing remembered."""
    return [Crystal(c.lattice, c.frac_coords, c.atomic_numbers) for c in batch]


def alone(function: Callable, *arguments):
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# --- the peer ---------------------------------------------------------------------------------------


def naive(batch: list[Crystal], known: Known, seconds: float) -> tuple[float, list[str | None]]:
    """Seconds a crystal, and the first phase that matches each of those that were done in time."""
    matcher = StructureMatcher(0.2, 0.3, 5)
    by_formula = defaultdict(list)
    for name, phase in known:
        by_formula[phase.reduced_composition].append((name, to_structure(phase)))
    structures = [to_structure(c) for c in batch]
    found: list[str | None] = []
    begin = time.perf_counter()
    for crystal, structure in zip(batch, structures, strict=True):
        same = by_formula[crystal.reduced_composition]
        found.append(next((name for name, phase in same if matcher.fit(phase, structure)), None))
        if time.perf_counter() - begin > seconds:
            break
    return (time.perf_counter() - begin) / len(found), found


# --- the lines --------------------------------------------------------------------------------------


def compare(
    path: Path, cache: Path, known: Known, sizes: tuple[int, ...], threads: int, cap: float
) -> None:
    built = alone(_built, path, cache, threads)
    print(
        f"novelty against {len(known):,} phases, {threads} threads; the store is built in {built:.1f} s\n"
        "  queries   ours: warm  new process  + building   peer (measured on)      ratio: warm  new  built"
        "   verdicts that differ    MB"
    )
    before = None
    for n in sizes:
        batch = mixed([crystal for _, crystal in known], n)
        ours = alone(_asked, path, cache, batch, threads)
        each, theirs = naive(batch, known, cap)
        differ = sum(a != b for a, b in zip(ours["match"], theirs, strict=False))
        times = [ours["warm"], ours["cold"], ours["cold"] + built]
        ratios = "  ".join(f"{each * n / t:6.1f}x" for t in times)
        growth = (
            ""
            if before is None
            else f"  growth n^{np.log(times[0] / before[1]) / np.log(n / before[0]):.2f}"
        )
        print(
            f"  {n:>7} {times[0]:>10.2f} s {times[1]:>9.2f} s {times[2]:>9.2f} s {each * n:>9.1f} s "
            f"({len(theirs)})  {ratios} {differ:>8}  {ours['mb']:>12.0f}{growth}",
            flush=True,
        )
        before = n, times[0]


def recall(name: str, batch: list[Crystal], path: Path, cache: Path, threads: int) -> None:
    """Crystals that the matcher finds known without the index, and how many the index loses."""
    store = open_store(path, cache)
    with_index, without = (
        [v.match for v in StructureNovelty(store, threads=threads, radius=r).check(batch)]
        for r in (AMD_RADIUS, np.inf)
    )
    known = sum(m is not None for m in without)
    lost = sum(a is None and b is not None for a, b in zip(with_index, without, strict=True))
    other = sum(a != b for a, b in zip(with_index, without, strict=True)) - lost
    print(
        f"  {name}: {known} of {len(batch)} known; recall {1 - lost / max(known, 1):.2%}, "
        f"another phase named {other}",
        flush=True,
    )


def large(known: list[Crystal], n: int, queries: int, folder: Path, threads: int) -> None:
    """Ours against many phases: noisy copies of the known ones, over and over."""
    path = folder / "large.parquet"
    _tile(known, n, path)
    built = alone(_built, path, folder, threads)
    ours = alone(_asked, path, folder, mixed(known, queries), threads)
    size = sum(f.stat().st_size for f in (folder / "phases").glob("*/*"))
    print(
        f"  {n:,} phases (perturbed copies of the {len(known):,}), {queries} queries: built in {built:.0f} s, "
        f"{size / 1e6:,.0f} MB on disk; opened in {ours['open']:.2f} s and {ours['open_mb']:.0f} MB; judged in "
        f"{ours['warm']:.2f} s, {ours['mb']:.0f} MB"
    )


def _tile(known: list[Crystal], n: int, path: Path) -> None:
    """A table of noisy copies, written piece by piece."""
    rng = np.random.default_rng(1)
    part, writer = path.with_suffix(".part"), None
    for begin in range(0, n, len(known)):
        copies = (noisy(c, rng, 0.03, 0.1) for c in known[: n - begin])
        phases = [
            Phase(f"{begin + i}", c.reduced_composition, -1.0, None, c) for i, c in enumerate(copies)
        ]
        write_table(part, phases, {})
        piece = pq.read_table(part)
        writer = writer or pq.ParquetWriter(path, piece.schema)
        writer.write_table(piece)
    if writer:
        writer.close()
    part.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--peer-seconds", type=float, default=PEER_SECONDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--generated", type=Path, help="folder of crystals of the diffusion model")
    parser.add_argument("--large", type=int, default=0, help="phases of a large reference")
    options, _ = parser.parse_known_args()
    rows = table()
    path = DATA / "materials_project.parquet"
    known = list(zip(rows["material_id"], crystals(rows), strict=True))
    threads = options.threads
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        compare(path, cache, known, tuple(options.sizes), threads, options.peer_seconds)
        print("recall of the index against the matcher alone")
        plain = [crystal for _, crystal in known]
        recall("copies and substitutions", mixed(plain, max(options.sizes)), path, cache, threads)
        recall(f"distorted, more than {FEW} phases each", hard(rows, 2000), path, cache, threads)
        if options.generated:
            from duplicate_sets import generated

            recall("diffusion model", generated(1000, options.generated), path, cache, threads)
    if options.large:
        with tempfile.TemporaryDirectory() as scratch:
            large(plain, options.large, 5000, Path(scratch), threads)


if __name__ == "__main__":
    main()
