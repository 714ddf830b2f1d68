"""Crystals of one composition against each other: which lie lowest, and which are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..core.elements import SYMBOLS
from .uniqueness import Uniqueness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.crystal import Crystal
    from .matching import MatcherSettings
    from .phases import Composition

Origin = Literal["known", "generated"]


@dataclass(frozen=True)
class Competitor:
    """A crystal of a composition, known or generated.

    Args:
        name: key of the candidate, or material id.
        formation_energy_per_atom: eV/atom; None where unknown.
        level: what computed the energy.
        crystal: None where the reference has no structures. spacegroup: number; None where unknown.
        finalist: what the others are compared for.
    """

    name: str
    origin: Origin
    formation_energy_per_atom: float | None
    level: str
    crystal: Crystal | None = None
    spacegroup: int | None = None
    finalist: bool = False


@dataclass(frozen=True)
class Polymorph:
    """A crystal among all of its composition.

    Args:
        formula: reduced.
        rank: by energy, from 1; those of unknown energy come last.
        key_or_material_id: of the candidate or the known phase.
        formation_energy_per_atom: eV/atom, of the level given; None where unknown.
        gap: eV/atom to the lowest other polymorph: negative where this is the lowest of all. Levels may
            differ between the two. None: there is no other, or no energy.
        spacegroup: number; None where unknown.
        cluster: those of one number match each other, by way of others perhaps; 1 holds the lowest.
            None: not compared (no structure, or the matcher cannot take it); it counts as a polymorph of
            its own.
        level: what computed the energy.
        finalist: what the others are compared for.
    """

    formula: str
    rank: int
    key_or_material_id: str
    origin: Origin
    formation_energy_per_atom: float | None
    gap: float | None
    spacegroup: int | None
    cluster: int | None
    level: str
    finalist: bool


def polymorphs(
    composition: Composition, competitors: Sequence[Competitor], settings: MatcherSettings | None = None
) -> list[Polymorph]:
    """All crystals of one composition, lowest energy first.

    Args:
        composition: reduced. competitors: all of that composition.
        settings: tolerances of the matcher.
    """
    from pymatgen.core import Composition as Formula

    formula = Formula({SYMBOLS[z]: n for z, n in composition}).reduced_formula
    ordered = sorted(competitors, key=lambda c: (_energy(c), c.origin != "known", c.name))
    clusters = _clusters(ordered, settings)
    gaps = _gaps([c.formation_energy_per_atom for c in ordered], clusters)
    return [
        Polymorph(
            formula=formula,
            rank=rank,
            key_or_material_id=c.name,
            origin=c.origin,
            formation_energy_per_atom=c.formation_energy_per_atom,
            gap=gap,
            spacegroup=c.spacegroup,
            cluster=cluster,
            level=c.level,
            finalist=c.finalist,
        )
        for rank, (c, cluster, gap) in enumerate(zip(ordered, clusters, gaps, strict=True), start=1)
    ]


def _energy(competitor: Competitor) -> float:
    energy = competitor.formation_energy_per_atom
    return math.inf if energy is None else energy


def _clusters(ordered: Sequence[Competitor], settings: MatcherSettings | None) -> list[int | None]:
    """The cluster of each; a crystal joins that of the first before it that it matches."""
    present = [(i, c.crystal) for i, c in enumerate(ordered) if c.crystal is not None]
    verdicts = Uniqueness(settings).check([crystal for _, crystal in present])
    clusters: list[int | None] = [None] * len(ordered)
    by_key: dict[str, int] = {}
    number = 0
    for (i, crystal), verdict in zip(present, verdicts, strict=True):
        if verdict.passed:
            number += 1
        if verdict.passed is not None:
            found = number if verdict.match is None else by_key[verdict.match]
            clusters[i] = by_key.setdefault(crystal.digest, found)
    return clusters


def _gaps(energies: Sequence[float | None], clusters: Sequence[int | None]) -> list[float | None]:
    """Energy of each minus the lowest of another cluster; `energies` rise."""
    # The lowest of another cluster is one of the two lowest of different clusters.
    lowest: list[tuple[float, int | None]] = []
    for energy, cluster in zip(energies, clusters, strict=True):
        if energy is not None and (cluster is None or cluster not in [c for _, c in lowest]):
            lowest.append((energy, cluster))
        if len(lowest) == 2:
            break
    gaps: list[float | None] = []
    for i, (energy, cluster) in enumerate(zip(energies, clusters, strict=True)):
        if energy is None or len(lowest) < 2:
            gaps.append(None)
            continue
        alone = cluster is None
        first = i == 0 if alone else cluster == lowest[0][1]
        gaps.append(energy - lowest[1 if first else 0][0])
    return gaps
