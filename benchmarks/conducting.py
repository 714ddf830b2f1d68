"""What conducting costs: a campaign whose rooms do nothing, one Prefect task per candidate, a real campaign.

In the first the rooms (generator, checks, relaxer, hull) are stubs that answer at once, so that all wall
time, CPU and bytes are the conductor's: ledger, pipeline, Prefect's client and its server, tables and
report. Beside it the plain way: a flow that maps one Prefect task over the candidates, which does nothing
either. Of a real campaign (substitution in Li-Ti-O, CHGNet, two workers) it tells the share of its wall
time in which the workers did not relax, and the share of its CPU time that was not relaxing: start,
proposals, checks, novelty, hull and conducting together.

    python benchmarks/conducting.py --sizes 1000 10000 100000 --peer 1000 10000 --real 1000
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SERVER = runpy.run_path(str(HERE.parents[1] / "tests" / "prefect_server.py"))


WORKERS = int(os.environ.get("HELIODOR_WORKERS", "2"))  # they decide how many crystals a task relaxes


def main(
    sizes: Sequence[int] = (1000,), peers: Sequence[int] = (1000,), real: Sequence[int] = (200,)
) -> None:
    print(
        "conducting, per candidate     wall/s   ms/candidate   client CPU ms   server CPU ms   ledger kB   Prefect kB"
    )
    for n in sizes:
        measure("stub rooms", n)
    for n in peers:
        measure("task per candidate", n)
    for n in real:
        measure("real campaign", n)


def measure(what: str, n: int) -> None:
    import psutil

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with SERVER["prefect_server"](folder / "home") as server:
            process = psutil.Process(server.pid)
            database, before = folder / "home" / "prefect.db", cpu(process)
            empty = size(database)
            child = subprocess.run(
                [sys.executable, str(HERE), "--child", what, str(n), str(folder / "out")],
                env=server.client(folder / "client")
                | {"OMP_NUM_THREADS": "1", "HELIODOR_WORKERS": str(WORKERS)},
                check=True,
                capture_output=True,
                text=True,
            )
            told = json.loads(child.stdout.strip().splitlines()[-1])
            settled = wait_until_recorded(server.url, process, told["task_runs"])
            server_cpu = cpu(process) - before
            grown = size(database) - empty
    wall = told["wall"] + settled
    print(
        f"  {what:<18} {n:>7,} {wall:>8.1f} {1000 * wall / n:>14.2f} {1000 * told['cpu'] / n:>15.2f}"
        f" {1000 * server_cpu / n:>15.2f} {told['ledger'] / 1000 / n:>11.2f} {grown / 1000 / n:>12.2f}",
        flush=True,
    )
    if relaxing := told["relaxing"]:
        idle, other = 1 - relaxing / WORKERS / wall, told["cpu"] + server_cpu - relaxing
        print(
            f"    not relaxing: {idle:.1%} of the workers' time, {other / (other + relaxing):.1%} of the CPU"
        )


def wait_until_recorded(url: str, process: Any, task_runs: int | None) -> float:
    """Seconds that the server still needs after the client has ended."""
    import httpx

    began, last = time.monotonic(), cpu(process)
    while True:
        if task_runs is not None:
            done = httpx.post(
                f"{url}/task_runs/count",
                json={"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}},
            ).json()
            if done >= task_runs:
                return time.monotonic() - began
        time.sleep(1)
        now = cpu(process)
        if task_runs is None and now - last < 0.1:
            return time.monotonic() - began
        last = now


def cpu(process: Any) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def size(database: Path) -> int:
    return sum(p.stat().st_size for p in database.parent.glob(database.name + "*"))


# --- in a process of its own -----------------------------------------------------------------------


def child(what: str, n: int, folder: Path) -> None:
    began = time.monotonic()
    task_runs, relaxing = None, 0.0
    if what == "task per candidate":
        task_runs = task_per_candidate(n)
    elif what == "stub rooms":
        campaign(n, folder)
    else:
        relaxing = real_campaign(n, folder)
    used = os.times()
    ledger = folder / "ledger.sqlite"
    print(
        json.dumps(
            {
                "wall": time.monotonic() - began,
                "cpu": used.user + used.system + used.children_user + used.children_system,
                "ledger": ledger.stat().st_size if ledger.exists() else 0,
                "task_runs": task_runs,
                "relaxing": relaxing,
            }
        )
    )


def task_per_candidate(n: int) -> int:
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    @task
    def one(slot: int) -> int:
        return slot

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
    def every() -> int:
        return sum(future.result() for future in one.map(range(n)))

    assert every() == n * (n - 1) // 2
    return n


def real_campaign(n: int, folder: Path) -> float:
    """Run it; returns the seconds that workers spent on relaxing."""
    from heliodor.core.campaign import parse_campaign
    from heliodor.core.records import Stage
    from heliodor.core.settings import load_settings
    from heliodor.flows.build import open_ledger
    from heliodor.flows.discover import discover

    content = {
        "name": "real",
        "space": {"elements": ["Li", "Ti", "O"]},
        "generator": {"kind": "substitution"},
        "budget": {"candidates": n, "round_size": n},
        "dft": {"kind": "none"},
    }
    made = parse_campaign(content)
    discover(campaign=made, folder=str(folder))
    ledger = open_ledger(made, folder, load_settings(), create=False)
    return sum(float(o.data.get("seconds", 0.0)) for o in ledger.outcomes(Stage.RELAX))


def campaign(n: int, folder: Path) -> None:
    from heliodor.core.campaign import parse_campaign
    from heliodor.flows import discover

    discover.assemble = stubs
    discover.discover(
        campaign=parse_campaign(
            {
                "name": "stubs",
                "space": {"elements": ["Na", "Cl"]},
                "generator": {"kind": "substitution"},
                "budget": {"candidates": n, "round_size": 1000},
                "review": {"scores": False},
                "dft": {"kind": "none"},
            }
        ),
        folder=str(folder),
    )


def stubs(campaign: Any, folder: Path, settings: Any, attempts: int = 1, **_: Any) -> Any:
    """A context whose rooms answer at once; ledger, order and records are the real ones."""
    import numpy as np

    from heliodor.core.crystal import Crystal
    from heliodor.core.protocols import ReferenceInfo
    from heliodor.core.records import Candidate, HullPoint, Origin, Relaxed, Stage, Verdict
    from heliodor.flows.build import open_ledger
    from heliodor.tasks.assess import assessed_crystals
    from heliodor.tasks.context import Context, InOrder
    from heliodor.tasks.screen import screened_crystals

    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])

    class Rooms:
        name, model, check_name = "stub", "stub-1", "validity"
        info = ReferenceInfo("stub", "0" * 64, 1, "nothing")

        def generate(self, n: int, *, seed: int, conditions: Any, start: int = 0) -> Iterator[Candidate]:
            for i in range(start, start + n):
                crystal = Crystal(np.eye(3) * (3 + 1e-5 * i), frac, np.array([11, 17]))
                yield Candidate(crystal, Origin("stub", "1", seed, i))

        def check(self, batch: Sequence[Any]) -> list[Verdict]:
            return [Verdict(c.digest, self.check_name, True) for c in batch]

        def match(self, batch: Sequence[Any]) -> list[Verdict]:
            return [Verdict(c.digest, "novelty", True) for c in batch]

        def absorb(self, batch: Sequence[Any]) -> None: ...

        def like(self, composition: Any) -> list[Any]:
            return []

        def entries(self, elements: Any) -> list[Any]:
            return []

        def supports(self, atomic_number: int) -> bool:
            return True

        def relax(self, batch: Sequence[Any], ceilings: Any = None) -> Iterator[Relaxed]:
            for c in batch:
                yield Relaxed(c.digest, c, -6.0, 0.01, 0.001, 1, True, self.model)

        def close(self) -> None: ...

        def judge(self, batch: Sequence[Relaxed]) -> list[HullPoint]:
            return [
                HullPoint(r.key, 0.5, 0.5, -1.0, (("NaCl", "mp-1", 1.0),), "stub", "none", "stub")
                for r in batch
            ]

    class Unique(Rooms):
        check_name = "uniqueness"

    rooms = Rooms()
    ledger = open_ledger(campaign, folder, settings)
    return Context(
        campaign=campaign,
        ledger=ledger,
        folder=folder,
        generator=rooms,
        validity=rooms,
        unique=InOrder(Unique, ledger, Stage.SCREEN, screened_crystals),
        unique_relaxed=InOrder(Unique, ledger, Stage.ASSESS, assessed_crystals),
        reference=rooms,
        relaxer=rooms,
        judge=rooms.judge,
        dft=None,
        workers=2,
        attempts=attempts,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--peer", type=int, nargs="*", default=[1000])
    parser.add_argument("--real", type=int, nargs="*", default=[200])
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], int(given.child[1]), Path(given.child[2]))
    else:
        main(given.sizes, given.peer, given.real)
