"""Duplicates among n crystals: ours beside pymatgen's `StructureMatcher.group_structures`.

Three sets (`duplicate_sets`): real crystals with noisy copies, crystals of the diffusion model, polymorphs
of one composition. Ours answers whether any crystal before it matches; the peer compares with the first
crystal of each group alone, and puts a crystal that matches only others of the group into a new one. So
it may count more. Beside them stands ours by the peer's rule ("leaders"): the two must be equal.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from duplicate_sets import generated, polymorphs, varied
from pymatgen.analysis.structure_matcher import StructureMatcher

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.packed import pack
from heliodor.validators.fingerprint import amd
from heliodor.validators.index import AMD_RADIUS, FEW, StructureIndex
from heliodor.validators.matching import Matcher, prepare
from heliodor.validators.uniqueness import Uniqueness

SIZES = (1000, 5000, 20000)
HARD = (300, 1000)
CACHE = Path(tempfile.gettempdir()) / "heliodor-benchmarks"
RADII = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.45, 0.60)


def fresh(crystals: list[Crystal]) -> list[Crystal]:
    """The same crystals, with nothing remembered."""
    return [Crystal(c.lattice, c.frac_coords, c.atomic_numbers) for c in crystals]


def ours(crystals: list[Crystal], threads: int) -> tuple[float, int, int]:
    """Seconds, unique crystals, pairs that went to the matcher."""
    crystals, checker = fresh(crystals), Uniqueness(threads=threads)
    begin = time.perf_counter()
    verdicts = checker.check(crystals)
    return time.perf_counter() - begin, sum(v.passed is True for v in verdicts), checker.compared


def peer(crystals: list[Crystal]) -> tuple[float, int]:
    """Seconds and groups of `group_structures`; making its structures is not counted."""
    structures = [to_structure(c) for c in crystals]
    begin = time.perf_counter()
    groups = StructureMatcher(0.2, 0.3, 5).group_structures(structures)
    return time.perf_counter() - begin, len(groups)


def leaders(crystals: list[Crystal]) -> int:
    """Groups by the peer's rule: a crystal is compared with the first of each group alone."""
    index = StructureIndex()
    for i, crystal in enumerate(crystals):
        if index.earliest_match(crystal) is None:
            index.add([str(i)], [crystal], pack([crystal]))
    return len(index)


def compare(
    name: str, make: Callable[[int], list[Crystal]], sizes: tuple[int, ...], peer_limit: int
) -> None:
    """One row a size: seconds, ratio, counts."""
    print(
        f"{name:<34} ours/s 1 thread  2 threads     peer/s   ratio |  unique  leaders  peer groups |   pairs"
    )
    for n in sizes:
        crystals = make(n)
        one, unique, pairs = ours(crystals, 1)
        two, again, _ = ours(crystals, 2)
        assert again == unique
        row = f"  n = {len(crystals):<28} {one:>15.3f} {two:>10.3f}"
        if n <= peer_limit:
            seconds, groups = peer(crystals)
            row += f" {seconds:>10.1f} {seconds / min(one, two):>6.0f}x | {unique:>7} {leaders(crystals):>8} {groups:>12} |"
        else:
            row += f" {'skipped':>10} {'':>7} | {unique:>7} {leaders(crystals):>8} {'':>12} |"
        print(f"{row} {pairs:>7}", flush=True)


def recall(name: str, crystals: list[Crystal]) -> None:
    """Share of the pairs that the matcher matches, of all of one composition, that the index proposes."""
    matcher, buckets = Matcher(), defaultdict(list)
    for crystal in crystals:
        try:
            reduced = prepare(crystal)
        except ValueError:
            continue
        own = Crystal(reduced.lattice, reduced.frac_coords, reduced.atomic_numbers)
        buckets[reduced.composition].append((reduced, amd(own, 100, scaled=True)))
    gaps, same, few = [], [], []
    for bucket in buckets.values():
        for later in range(1, len(bucket)):
            for earlier in range(later):
                a, b = bucket[earlier], bucket[later]
                if len(a[0]) == len(b[0]):  # of another size, none matches
                    gaps.append(np.abs(a[1] - b[1]).max())
                    same.append(matcher.matches(a[0], b[0]))
                    few.append(later <= FEW)
    gap, match, small = np.array(gaps), np.array(same), np.array(few)
    kept = ((gap <= AMD_RADIUS) | small)[match].mean()
    print(
        f"  {name} ({len(crystals)}): {len(gap)} pairs of one composition and size, {match.sum()} match; "
        f"the index proposes {100 * kept:.2f} % of these"
    )
    print("    radius   " + "".join(f"{r:>8.2f}" for r in RADII))
    print("    matches  " + "".join(f"{100 * (gap[match] <= r).mean():>8.2f}" for r in RADII) + "  %")
    print("    pairs    " + "".join(f"{100 * (gap <= r).mean():>8.2f}" for r in RADII) + "  %")


def main(
    sizes: tuple[int, ...] = SIZES,
    hard: tuple[int, ...] = HARD,
    cache: Path = CACHE,
    originals: int = 1000,
    peer_limits: tuple[int, int, int] = (20_000, 5000, 300),
) -> None:
    ours(varied(100), 1)  # compiles, or reads what was compiled
    drawn = partial(generated, folder=cache, originals=originals)
    print("deduplication (StructureMatcher 0.2/0.3/5); the peer is skipped where it takes minutes")
    compare("varied, 10 % noisy copies", varied, sizes, peer_limits[0])
    compare("generated, any and one system", drawn, sizes, peer_limits[1])
    compare("polymorphs of one composition", polymorphs, hard, peer_limits[2])
    print("recall of the index against the matcher on every pair of one composition")
    recall("varied", varied(min(5000, max(sizes))))
    recall("generated", drawn(min(5000, max(sizes))))
    recall("polymorphs", polymorphs(min(600, max(hard))))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--hard", type=int, nargs="+", default=HARD)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of generated crystals")
    parser.add_argument("--originals", type=int, default=1000, help="generated of either kind")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    main(tuple(given.sizes), tuple(given.hard), given.cache, given.originals)
