"""Duplicates among n crystals: ours beside pymatgen's `StructureMatcher.group_structures`."""

from __future__ import annotations

import time

from crystals import table, with_copies
from pymatgen.analysis.structure_matcher import StructureMatcher

from heliodor.core.convert import to_structure
from heliodor.validators.uniqueness import Uniqueness


def main(sizes: tuple[int, ...] = (1000, 2500, 5000)) -> None:
    rows = table().query("n_atoms <= 20")
    print("deduplication, 10 % noisy copies       ours/s   peer/s   ratio   ours unique   peer groups")
    for n in sizes:
        batch = with_copies(rows, n, 0.1)
        begin = time.perf_counter()
        unique = sum(v.passed is True for v in Uniqueness().check(batch))
        ours = time.perf_counter() - begin
        structures = [to_structure(c) for c in batch]
        begin = time.perf_counter()
        groups = len(StructureMatcher(0.2, 0.3, 5).group_structures(structures))
        peer = time.perf_counter() - begin
        print(f"  n = {n:<6} {ours:>31.2f} {peer:>8.2f} {peer / ours:>6.1f}x {unique:>13} {groups:>13}")


if __name__ == "__main__":
    main()
