"""1,000 atomate2 Flows for VASP made: ours (`cached_schema_access`) beside plain jobflow.

Crystals of the structure table, `MPGGADoubleRelaxStaticMaker` (relax, relax, static). Plain jobflow's time is
linear in the number, so it makes fewer. Then each Flow as JSON, and back.

    python benchmarks/flows.py [--flows 1000] [--plain 50]
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from importlib import metadata

from crystals import crystals, table
from monty.json import MontyDecoder, MontyEncoder

from heliodor.core.convert import to_structure
from heliodor.engines.flow_speed import cached_schema_access


def main(flows: int = 1000, plain: int = 50) -> None:
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker as Maker

    rows = table()
    structures = [to_structure(c) for c in crystals(rows.sample(flows + plain + 1, random_state=0))]
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("atomate2", "jobflow"))
    Maker().make(structures.pop())  # imports
    slow, _ = made(Maker, structures[flows:], nullcontext())
    fast, found = made(Maker, structures[:flows], cached_schema_access())
    print(f"Flows ({versions})      number   make/s   ms/Flow  ratio")
    show("plain jobflow", plain, slow, slow / plain)
    show("heliodor", flows, fast, slow / plain)
    begin = time.perf_counter()
    texts = [json.dumps(flow, cls=MontyEncoder) for flow in found]
    dumped = time.perf_counter()
    again = [json.loads(text, cls=MontyDecoder) for text in texts]
    loaded = time.perf_counter()
    assert [f.uuid for f in again] == [f.uuid for f in found]
    assert all(a.job_uuids == f.job_uuids for a, f in zip(again, found, strict=True))
    print(
        f"  to JSON {dumped - begin:.1f} s, from JSON {loaded - dumped:.1f} s,"
        f" {sum(map(len, texts)) / len(texts) / 1000:.1f} kB per Flow"
    )


def made(maker, structures, context):
    """(seconds, Flows)."""
    begin = time.perf_counter()
    with context:
        flows = [maker().make(structure) for structure in structures]
    return time.perf_counter() - begin, flows


def show(name: str, number: int, seconds: float, plain: float) -> None:
    each = seconds / number
    print(
        f"  {name:<30} {number:>18} {seconds:>8.2f} {1000 * each:>9.2f} {plain / each:>5.1f}x",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=50)
    main(**vars(parser.parse_args()))
