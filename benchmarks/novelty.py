"""Novelty of 1,000 crystals against a reference: ours beside a matcher call per same-formula phase."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
from crystals import crystals, noisy, table
from pymatgen.analysis.structure_matcher import StructureMatcher

from heliodor.core.convert import to_structure
from heliodor.validators.novelty import StructureNovelty


def main(queries: int = 1000, sizes: tuple[int, ...] = (6_500, 13_000, 26_000)) -> None:
    rows = table()
    rng = np.random.default_rng(0)
    print(f"novelty of {queries} against a reference    ours/s   peer/s   ratio   verdicts that differ")
    everything = list(zip(rows["material_id"], crystals(rows), strict=True))
    for size in sizes:
        known = everything[:size]
        # Half noisy copies of known phases, half phases that the reference may lack.
        copied = [noisy(known[i][1], rng) for i in rng.integers(0, size, queries // 2)]
        others = [everything[i][1] for i in rng.integers(0, len(everything), queries // 2)]
        batch = copied + others
        begin = time.perf_counter()
        ours = [v.passed for v in StructureNovelty(known).check(batch)]
        spent = time.perf_counter() - begin
        begin = time.perf_counter()
        peer = naive(batch, known)
        naive_spent = time.perf_counter() - begin
        differ = sum(a != b for a, b in zip(ours, peer, strict=True))
        print(
            f"  {size:>6} phases {spent:>24.2f} {naive_spent:>8.2f} {naive_spent / spent:>6.1f}x {differ:>10}"
        )


def naive(batch, known) -> list[bool]:
    """What evaluation scripts do: the matcher on every phase of the same formula, structures as they are."""
    matcher = StructureMatcher(0.2, 0.3, 5)
    by_formula = defaultdict(list)
    for _, phase in known:
        by_formula[phase.reduced_composition].append(phase)
    found = []
    for crystal in batch:
        structure = to_structure(crystal)
        same = by_formula[crystal.reduced_composition]
        found.append(not any(matcher.fit(to_structure(phase), structure) for phase in same))
    return found


if __name__ == "__main__":
    main()
