"""Energy above hull: ours beside pymatgen's `PhaseDiagram` per query, and `PatchedPhaseDiagram`.

Half of the queries are known phases, half are hypothetical (WBM, where the table is there). Each method
runs in a process of its own and starts from its own kind of objects (`Phase`, `PDEntry`); its time
includes every index and diagram that it builds, its memory is the rise of the process's peak (Linux).
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import time
import warnings
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from crystals import DATA, table
from pymatgen.analysis.phase_diagram import PatchedPhaseDiagram, PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.protocols import Phase
from heliodor.validators.hull import Hull

PATCHED_FROM = 26_000  # phases; the patched diagram takes a minute to build


def main(queries: int = 10_000, sizes: tuple[int, ...] = (6_500, 13_000, 26_000)) -> None:
    rows, asked = table(), questions(queries)
    print(f"hull of {len(asked)} queries       build/s  query/s  total/s  memory/MB  ratio  difference")
    for size in sizes:
        part = listed(rows.sample(min(size, len(rows)), random_state=0))
        ours = alone(heliodor, part, asked)
        show(len(part), "heliodor", ours, ours)
        show(len(part), "PhaseDiagram", alone(per_query, part, asked), ours)
        if len(part) >= PATCHED_FROM:
            show(len(part), "PatchedPhaseDiagram", alone(patched, part, asked), ours)
    print("difference: largest to heliodor's, eV/atom; heliodor's own: one by one against the batch.")
    print("PatchedPhaseDiagram minimises by SLSQP, to its tolerance, where no patch covers a query.")


def questions(n: int) -> list[tuple[str, float]]:
    known, wbm = table(), DATA / "wbm.parquet"
    if not wbm.is_file():
        return listed(known.sample(n, random_state=1))
    other = pd.read_parquet(wbm)
    other = other.sample(min(n // 2, len(other)), random_state=1)
    return listed(known.sample(n - len(other), random_state=1)) + listed(other)


def listed(rows: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(rows.formula, rows.formation_energy_per_atom, strict=True))


def show(size, name, measured, ours) -> None:
    build, query, memory, found, *apart = measured
    largest = apart[0] if apart else np.abs(found - ours[3]).max()
    total, ratio = build + query, (build + query) / (ours[0] + ours[1])
    print(
        f"  {size:>6} phases {name:<20} {build:>6.2f} {query:>8.2f} {total:>8.2f} {memory:>10.0f}"
        f" {ratio:>5.0f}x {largest:>11.1e}",
        flush=True,
    )


def alone(method, phases, queries):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (method, phases, queries))


def measure(method, phases, queries):
    """(build seconds, query seconds, memory in MB, decomposition energies, ...)."""
    make = phase_of if method is heliodor else entry_of
    known, asked = [make(*p) for p in phases], [make(*q) for q in queries]
    warnings.simplefilter("ignore")  # noble gases have no electronegativity
    method(known[:30], asked[:3])  # imports, and pymatgen's caches of elements
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    build, query, found, *more = method(known, asked)
    return build, query, peak() - before, np.array(found), *more


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def phase_of(formula: str, energy: float) -> Phase:
    amounts = Composition(formula).get_el_amt_dict()
    composition = tuple(sorted((ATOMIC_NUMBERS[s], int(n)) for s, n in amounts.items()))
    return Phase(formula, composition, energy)


def entry_of(formula: str, energy: float) -> PDEntry:
    composition = Composition(formula)
    return PDEntry(composition, energy * composition.num_atoms)


def heliodor(phases, queries):
    """Energies and decompositions, as indices of the phases with their fractions."""
    begin = time.perf_counter()
    hull = Hull(phases)
    built = time.perf_counter()
    states = hull.ground_states([q.composition for q in queries])
    energies = np.array([q.formation_energy_per_atom for q in queries]) - states.energies
    done = time.perf_counter()
    some = range(0, len(queries), max(1, len(queries) // 200))
    single = [hull.query(queries[i].composition, queries[i].formation_energy_per_atom) for i in some]
    apart = max(abs(s.decomposition_energy - energies[i]) for s, i in zip(single, some, strict=True))
    return built - begin, done - built, energies, apart


def per_query(entries, queries):
    """A diagram of the query's chemical system, from an index by element set, as users write it."""
    begin = time.perf_counter()
    by_system = defaultdict(list)
    for entry in entries:
        by_system[frozenset(entry.composition.elements)].append(entry)
    built = time.perf_counter()
    found = []
    for query in queries:
        elements = query.composition.elements
        inside = [PDEntry(Composition({element: 1}), 0.0) for element in elements]
        for size in range(1, len(elements) + 1):
            for subset in combinations(elements, size):
                inside += by_system.get(frozenset(subset), ())
        diagram = PhaseDiagram(inside)
        found.append(
            diagram.get_decomp_and_e_above_hull(query, allow_negative=True, check_stable=False)[1]
        )
    return built - begin, time.perf_counter() - built, found


def patched(entries, queries):
    """One diagram for all; it is asked for the hull's energy, as its other methods look for the entry."""
    begin = time.perf_counter()
    symbols = {e.symbol for entry in [*entries, *queries] for e in entry.composition}
    elements = [PDEntry(Composition({Element(s): 1}), 0.0) for s in sorted(symbols)]
    diagram = PatchedPhaseDiagram([*entries, *elements])
    built = time.perf_counter()
    found = [q.energy_per_atom - diagram.get_hull_energy_per_atom(q.composition) for q in queries]
    return built - begin, time.perf_counter() - built, found


if __name__ == "__main__":
    main()
