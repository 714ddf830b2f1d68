"""What conducting costs: the share of a campaign's wall time in which the relaxing workers were idle."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from heliodor.core.campaign import parse_campaign
from heliodor.core.records import Stage
from heliodor.core.settings import load_settings
from heliodor.flows.build import open_ledger

WORKERS = 2


def main(sizes: tuple[int, ...] = (20, 60, 180)) -> None:
    print(
        "orchestration (ephemeral Prefect server)   wall/s   relaxing/s   idle share   first result/s   kB/candidate"
    )
    for n in sizes:
        measure(n)


def measure(n: int) -> None:
    content = {
        "name": "orchestration",
        "space": {"elements": ["Li", "Ti", "O"]},
        "generator": {"kind": "substitution"},
        "budget": {"candidates": n, "round_size": n},
        "dft": {"kind": "none"},
    }
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "c.yaml", Path(folder) / "out"
        file.write_text(json.dumps(content))
        began = time.time()
        command = [sys.executable, "-m", "heliodor.cli", "run", str(file), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, env=environment())
        wall = time.time() - began
        ledger = open_ledger(parse_campaign(content), out, load_settings(), create=False)
        outcomes = ledger.outcomes(Stage.RELAX)
        busy = sum(o.data.get("seconds", 0.0) for o in outcomes) / WORKERS
        first = min(o.at for o in outcomes) - began
        size = (out / "ledger.sqlite").stat().st_size / 1000 / n
        assert len(pd.read_parquet(out / "crystals.parquet")) == n
    print(
        f"  {n:>5} candidates {wall:>29.1f} {busy:>12.1f} {1 - busy / wall:>12.0%} {first:>16.1f} {size:>14.1f}"
    )


def environment() -> dict[str, str]:
    import os

    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "HELIODOR_LEDGER"))}
    return {**kept, "HELIODOR_WORKERS": str(WORKERS)}


if __name__ == "__main__":
    main()
