"""Convex hulls of formation energy over composition: geometry only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .model import HullDiagram, HullPhase


def with_elements(diagram: HullDiagram) -> list[HullPhase]:
    """The reference phases, and each element at 0 eV/atom where the reference has no entry for it.

    The formation energy of an element in its reference state is 0 by definition.
    """
    phases = [p for p in diagram.points if p.kind == "reference"]
    for k, symbol in enumerate(diagram.elements):
        if not any(p.fractions[k] > 1 - 1e-6 and p.formation_energy_per_atom <= 1e-4 for p in phases):
            pure = tuple(float(j == k) for j in range(len(diagram.elements)))
            phases.append(HullPhase(symbol, None, pure, 0.0, 0.0, "reference"))
    return phases


def lower_hull(phases: Sequence[HullPhase]) -> NDArray[np.int64]:
    """Facets of the lower hull, (m, d) indices into `phases`, for d elements (d >= 2).

    C. B. Barber, D. P. Dobkin, H. Huhdanpaa, ACM Trans. Math. Softw. 22, 469 (1996) (Qhull).
    The phases must hold every element (see `with_elements`).
    """
    from scipy.spatial import ConvexHull

    fractions = np.array([p.fractions[1:] for p in phases])
    energies = np.array([p.formation_energy_per_atom for p in phases])
    # A point far above makes a body of full dimension even where all phases lie in one plane.
    apex = np.append(fractions.mean(axis=0), energies.max() + 1.0 + np.ptp(energies))
    hull = ConvexHull(np.vstack([np.column_stack([fractions, energies]), apex]))
    below = hull.equations[:, -2] < -1e-9  # the energy component of the outward normal
    return np.asarray(hull.simplices[below], dtype=np.int64)


def edges(facets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Tie lines of the facets, each once."""
    found = {
        (min(i, j), max(i, j))
        for facet in facets.tolist()
        for k, i in enumerate(facet)
        for j in facet[k + 1 :]
    }
    return sorted(found)
