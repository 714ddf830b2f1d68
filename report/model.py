"""What a report shows, as plain data. Whoever reads the ledger fills these in; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..core.crystal import Crystal


@dataclass(frozen=True)
class FunnelStep:
    """One step of the campaign. All that entered it = `count` + all `dropped` + all `failed`.

    Args:
        label: what those that are left are, for example "proposed", "unique", "relaxed".
        count: how many are left after the step.
        dropped: judged and rejected at this step, reason -> count.
        failed: could not be judged or computed at this step, reason -> count.
    """

    label: str
    count: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with the limits of its 95 % interval as fractions (see `stats.wilson`)."""

    label: str
    count: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class CrystalRow:
    """One judged crystal. Energies are in eV/atom, None where there is none.

    Args:
        slot: position in the campaign. key: content key of the candidate.
        crystal: the relaxed crystal (the proposed one where nothing was relaxed).
        energy_above_hull: >= 0. decomposition_energy: signed, negative below the known hull.
        decomposition: (formula, material id, fraction of atoms) of the competing phases.
        level, corrections, reference: where the energies come from (see `records.HullPoint`).
        unique, novel: None where the check could not be made.
        source: what the candidate was made from. dft_path: folder of the prepared DFT calculation.
        uncertain: the energy correction is known to be unreliable for this crystal.
        scores: (title, ((column, value with its unit), ...)) of each group of further columns.
    """

    slot: int
    key: str
    formula: str
    spacegroup_symbol: str | None
    n_atoms: int
    crystal: Crystal
    energy_above_hull: float | None
    decomposition_energy: float | None
    formation_energy_per_atom: float | None
    decomposition: tuple[tuple[str, str, float], ...]
    level: str
    corrections: str
    reference: str
    unique: bool | None
    novel: bool | None
    sun: bool
    source: str = ""
    dft_path: str | None = None
    uncertain: bool = False
    scores: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()


@dataclass(frozen=True)
class HullPhase:
    """A point of a hull diagram.

    Args:
        fractions: atomic fraction of each of the diagram's elements, in its order; they sum to 1.
        formation_energy_per_atom: eV/atom.
        energy_above_hull: eV/atom above the hull of the reference phases; for candidates signed (their
            `decomposition_energy`), negative below the known hull.
        slot: the candidate's position in the campaign; links the point to its row in the table.
    """

    label: str
    material_id: str | None
    fractions: tuple[float, ...]
    formation_energy_per_atom: float
    energy_above_hull: float
    kind: Literal["reference", "candidate"]
    slot: int | None = None


@dataclass(frozen=True)
class HullDiagram:
    """One chemical system: element symbols, and the phases in it and in its subsystems."""

    elements: tuple[str, ...]
    points: Sequence[HullPhase]


@dataclass(frozen=True)
class PolymorphRow:
    """One crystal among all of its composition, in order of `formula` and `rank`.

    Args:
        name: key of the candidate, or material id. slot: of a candidate with a row in the table.
        formation_energy_per_atom, gap: eV/atom; the gap is to the lowest other polymorph, negative where
            this is the lowest of all.
        cluster: those of one number are the same structure; None: not compared.
        level: what computed the energy. finalist: what the others are compared for.
    """

    formula: str
    rank: int
    name: str
    known: bool
    formation_energy_per_atom: float | None
    gap: float | None
    spacegroup: int | None
    cluster: int | None
    level: str
    finalist: bool
    slot: int | None = None


@dataclass(frozen=True)
class FailureRow:
    """Failures of one kind: `example` is the message of one of them."""

    stage: str
    reason: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One number of another evaluator: a share (`count` of `n`) or a mean (of `n`; `count` None)."""

    name: str
    value: float | None
    meaning: str
    count: int | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ProtocolData:
    """Counting by another evaluator's rules. `differences`: (what, theirs, ours)."""

    name: str
    source: str
    metrics: Sequence[MetricRow]
    differences: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class ReportData:
    """A campaign as its report shows it.

    Args:
        name, seed: of the campaign. space: where it searched, for example "Li-Ti-O".
        proposed: crystals generated. sun: how many of them are stable, unique and novel.
        threshold: largest energy above hull in eV/atom that `sun` counts as stable.
        settings: (label, value) pairs: generator, relaxer, reference, thresholds, ...
        rows: judged crystals, in any order; the best are shown in full.
        all_energies: decomposition energy (eV/atom, signed) of every relaxed candidate.
        element_counts: symbol -> (proposed crystals with it, SUN crystals with it).
        polymorphs: the finalists among all crystals of their compositions.
        protocol: the numbers of another evaluator, where they were asked for.
        provenance: versions, digests, machine, coverage and attribution of the reference.
        notes: what a reader must know about the numbers, one sentence each.
    """

    name: str
    seed: int
    space: str
    created_at: datetime
    proposed: int
    sun: int
    settings: Sequence[tuple[str, str]] = ()
    funnel: Sequence[FunnelStep] = ()
    rates: Sequence[Rate] = ()
    rows: Sequence[CrystalRow] = ()
    all_energies: Sequence[float] = ()
    element_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    hulls: Sequence[HullDiagram] = ()
    polymorphs: Sequence[PolymorphRow] = ()
    protocol: ProtocolData | None = None
    failures: Sequence[FailureRow] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    threshold: float = 0.1
