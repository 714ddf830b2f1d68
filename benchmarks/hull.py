"""Energy above hull: ours beside pymatgen's `PhaseDiagram`, built per query or once per system."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
from crystals import table
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.protocols import Phase
from heliodor.validators.hull import Hull


def composition(formula: str) -> tuple[tuple[int, int], ...]:
    amounts = Composition(formula).get_el_amt_dict()
    return tuple(sorted((ATOMIC_NUMBERS[s], int(n)) for s, n in amounts.items()))


def main(queries: int = 1000, sizes: tuple[int, ...] = (6_500, 13_000, 26_000)) -> None:
    rows = table()
    print(
        f"{queries} hull queries                      ours/s   peer/s   ratio   largest difference (eV/atom)"
    )
    for size in sizes:
        part = rows.sample(size, random_state=0)
        phases = [
            Phase(r.material_id, composition(r.formula), r.formation_energy_per_atom)
            for r in part.itertuples()
        ]
        chosen = rows.sample(queries, random_state=1)
        asked = [(composition(r.formula), r.formation_energy_per_atom) for r in chosen.itertuples()]
        begin = time.perf_counter()
        hull = Hull(phases)
        ours = [hull.query(c, e).decomposition_energy for c, e in asked]
        spent = time.perf_counter() - begin
        begin = time.perf_counter()
        peer = pymatgen_distances(part, chosen)
        peer_spent = time.perf_counter() - begin
        largest = float(np.abs(np.array(ours) - np.array(peer)).max())
        print(
            f"  {size:>6} phases {spent:>24.2f} {peer_spent:>8.2f} {peer_spent / spent:>6.1f}x {largest:>12.1e}"
        )


def pymatgen_distances(part, chosen) -> list[float]:
    """A PhaseDiagram of the query's system, made from an index by element set, as users write it."""
    by_system = defaultdict(list)
    for r in part.itertuples():
        entry = PDEntry(
            Composition(r.formula), r.formation_energy_per_atom * Composition(r.formula).num_atoms
        )
        by_system[frozenset(entry.composition.elements)].append(entry)
    found = []
    for r in chosen.itertuples():
        wanted = Composition(r.formula)
        elements = set(wanted.elements)
        entries = [e for system, members in by_system.items() if system <= elements for e in members]
        entries += [PDEntry(Composition({Element(str(e)): 1}), 0.0) for e in elements]
        query = PDEntry(wanted, r.formation_energy_per_atom * wanted.num_atoms)
        diagram = PhaseDiagram(entries)
        found.append(diagram.get_decomp_and_e_above_hull(query, allow_negative=True)[1])
    return found


if __name__ == "__main__":
    main()
