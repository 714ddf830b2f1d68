"""What redundancy control takes, and how far crystals hang together, at several thresholds."""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from crystals import crystals, table

from heliodor.validators.redundancy import (
    Measure,
    clusters,
    composition_measure,
    representatives,
    scaled_amd,
    structure_measure,
)

THRESHOLDS = (
    *((0.02, None), (0.05, None), (0.1, None), (0.2, None)),
    *((None, 0.02), (None, 0.05), (None, 0.1), (0.1, 0.1), (0.2, 0.1), (0.3, 0.2)),
)


def main(n: int = 26_438) -> None:
    rows = table()
    real = crystals(rows.sample(min(n, len(rows)), random_state=0))
    begin = time.perf_counter()
    vectors = np.array([scaled_amd(c) for c in real])
    print(f"redundancy of {len(real)} crystals; AMD vectors {time.perf_counter() - begin:.1f} s")
    every = np.arange(len(real))
    for composition, structure in THRESHOLDS:
        measures: list[Measure] = []
        if composition:
            measures.append(composition_measure(real, composition))
        if structure:
            measures.append(structure_measure(vectors, structure))
        begin = time.perf_counter()
        kept = int((representatives(measures, every, lambda _: None) == every).sum())
        middle = time.perf_counter()
        labels = clusters(measures, every, lambda _: None)
        end = time.perf_counter()
        print(
            f"  composition {composition or '-':>5}  structure {structure or '-':>5}  "
            f"kept {kept:>6} ({middle - begin:.1f} s)  clusters {labels.max() + 1:>6}, "
            f"largest {np.bincount(labels).max() / len(real):6.1%} ({end - middle:.1f} s)",
            flush=True,
        )
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=26_438)
    main(parser.parse_args().n)
