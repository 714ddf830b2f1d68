"""Job documents one by one into a store, and found again: ours beside maggma's MemoryStore and JSONStore.

Documents are of 16 kB as JSON, written as jobflow writes them (`update(document, key=["uuid", "index"])`)
and read as it reads an output (`query_one({"uuid": ...}, ["output"], sort={"index": -1})`). Only ours and
JSONStore keep what they were given when the process ends; ours waits for the disk at each update. JSONStore
writes its whole file at each update, and MemoryStore looks through all its documents, so they are run at
smaller numbers; their time for the large one is extrapolated by a n + b n^2 through the two largest, and
marked so.

    python benchmarks/job_store.py [--documents 10000] [--memory-sizes 500 1000 2000]
        [--json-sizes 100 200 400] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from maggma.stores import JSONStore, MemoryStore

from heliodor.engines.job_store import SqliteStore

KEY = ["uuid", "index"]
LOOKUPS = 200


def main(
    documents: int = 10_000,
    memory_sizes: tuple[int, ...] = (500, 1000, 2000),
    json_sizes: tuple[int, ...] = (100, 200, 400),
    folder: Path | None = None,
) -> None:
    size = len(json.dumps(document(0))) / 1000
    print(
        f"job documents of {size:.1f} kB      number   write/s  ms/document  ratio  file/MB  lookup/ms"
    )
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name)
        ours = measure("heliodor, one by one", SqliteStore(path / "one", "jobs", key="uuid"), documents)
        in_hundreds = SqliteStore(path / "hundreds", "jobs", key="uuid")
        measure("heliodor, by 100", in_hundreds, documents, ours, batch=100)
        grown("MemoryStore", lambda _: MemoryStore(key="uuid"), memory_sizes, documents, ours)
        grown("JSONStore", lambda n: json_store(path / f"{n}.json"), json_sizes, documents, ours)
    print(
        "ratio: time per document to heliodor's one by one. lookup: one output by uuid, in that store."
    )


def json_store(path: Path) -> JSONStore:
    return JSONStore(str(path), read_only=False, key="uuid")


def grown(name, make, sizes, documents: int, ours: float) -> None:
    """A peer at rising numbers, and what follows for the large one."""
    times = {number: measure(name, make(number), number, ours) for number in sizes}
    if len(times) > 1:
        seconds = extrapolated(times, documents)
        show(f"{name}, extrapolated", documents, seconds, ours * documents)


def document(number: int) -> dict:
    """A relaxed crystal of 56 atoms, as pymatgen's JSON writes it: numbers of 16 digits, short keys."""
    rng = random.Random(number)

    def vector():
        return [rng.random() for _ in range(3)]

    sites = [
        {"species": [{"element": "O", "occu": 1}], "abc": vector(), "xyz": vector(), "properties": {}}
        for _ in range(56)
    ]
    output = {
        "structure": {"@module": "pymatgen.core.structure", "@class": "Structure", "sites": sites},
        "forces": [vector() for _ in range(56)],
        "energy": rng.random(),
    }
    return {
        "uuid": f"{rng.getrandbits(128):032x}",
        "index": 1,
        "output": output,
        "completed_at": "2026-11-21T12:00:00.000000",
        "metadata": {"number": number},
        "hosts": [],
        "name": "static",
        "@module": "jobflow.core.schemas",
        "@class": "JobStoreDocument",
    }


def measure(name, store, number: int, ours: float | None = None, batch: int = 1) -> float:
    """Seconds per document where it is ours, in all where it is not; prints a line."""
    store.connect()
    seconds = 0.0
    for start in range(0, number, batch):
        made = [document(i) for i in range(start, min(start + batch, number))]
        begin = time.perf_counter()
        store.update(made, key=KEY)
        seconds += time.perf_counter() - begin
    assert store.count() == number
    lookup = look_up(store, number)
    path = Path(store.path if isinstance(store, SqliteStore) else getattr(store, "paths", ["/none"])[0])
    megabytes = path.stat().st_size / 1e6 if path.is_file() else None
    show(name, number, seconds, (ours or seconds / number) * number, megabytes, lookup)
    return seconds if ours else seconds / number


def look_up(store, number: int) -> float:
    """Milliseconds for one output by uuid."""
    wanted = [document(i) for i in random.Random(1).sample(range(number), min(LOOKUPS, number))]
    begin = time.perf_counter()
    found = [store.query_one({"uuid": d["uuid"]}, ["output"], sort={"index": -1}) for d in wanted]
    seconds = time.perf_counter() - begin
    assert [f["output"] for f in found] == [d["output"] for d in wanted]
    return 1000 * seconds / len(wanted)


def extrapolated(times: dict[int, float], number: int) -> float:
    """Time for `number` by a n + b n^2 through the two largest."""
    (small, short), (large, long) = sorted(times.items())[-2:]
    b = (long / large - short / small) / (large - small)
    a = short / small - b * small
    return a * number + b * number**2


def show(name, number, seconds, ours, megabytes=None, lookup=None) -> None:
    size = f"{megabytes:>8.1f}" if megabytes is not None else f"{'-':>8}"
    found = f"{lookup:>10.2f}" if lookup is not None else f"{'-':>10}"
    print(
        f"  {name:<25} {number:>10} {seconds:>9.1f} {1000 * seconds / number:>12.2f}"
        f" {seconds / ours:>5.1f}x {size} {found}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--memory-sizes", type=int, nargs="*", default=(500, 1000, 2000))
    parser.add_argument("--json-sizes", type=int, nargs="*", default=(100, 200, 400))
    parser.add_argument("--folder", type=Path, help="where the files are written; default: temporary")
    main(**vars(parser.parse_args()))
