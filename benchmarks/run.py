"""All benchmarks in one run on this machine, side by side with their peers."""

from __future__ import annotations

import os
import platform
from importlib import metadata

os.environ.setdefault("OMP_NUM_THREADS", "1")

import conducting
import deduplication
import hull
import job_store
import novelty
import relaxation

import flows

if __name__ == "__main__":
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("heliodor", "pymatgen", "ase", "chgnet"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions}\n")
    for part in (deduplication, novelty, hull, relaxation, flows, job_store, conducting):
        part.main()
        print(flush=True)
