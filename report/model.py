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
        dft_verdict: what that calculation said, in a word; the DFT section has its card.
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
    dft_verdict: str | None = None
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
    """One chemical system: element symbols, and the phases in it and in its subsystems.

    Args:
        left_out: candidates that are not among the points; they lie higher than those that are.
    """

    elements: tuple[str, ...]
    points: Sequence[HullPhase]
    left_out: int = 0


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
class Compared:
    """A quantity of one crystal by the potential and by DFT; None: one of them has none."""

    label: str
    unit: str
    potential: float | None
    dft: float | None
    digits: int = 3
    signed: bool = False


@dataclass(frozen=True)
class DftPhase:
    """A phase of the hull that the crystal was judged on.

    Args:
        energy_per_atom: eV/atom at the crystal's level; None: the phase is the reference's.
        share: fraction of the atoms in the crystal's decomposition; None: not in it.
        origin: where its structure comes from. folder: see `DftCard`.
    """

    formula: str
    material_id: str
    energy_per_atom: float | None
    share: float | None
    origin: str
    folder: str


@dataclass(frozen=True)
class DftCard:
    """A crystal judged by DFT, beside what the potential said of it.

    Args:
        verdict: "confirmed", "metastable" or "refuted".
        decomposition_energies: eV/atom, signed, by the potential and by DFT, each against its own hull.
        compared: all that both computed. rmsd: between the two crystals in angstrom.
        model: the potential. level: the DFT level's name; settings: what it is, in plain words.
        steps: ionic steps. max_force: eV/angstrom. max_stress: eV/angstrom^3. seconds: wall time.
        attempts: how often it was run; mended: what was changed for it to converge.
        magnetization: Bohr magneton of the cell. band_gap: eV. None: not computed.
        hull: which phases it holds, and what corrections the energy got.
        folder: of the calculation, relative to the report, where it lies beside it; else absolute.
        later_failure: what is to be said of a calculation that failed after the verdict.
    """

    slot: int
    formula: str
    verdict: str
    decomposition_energies: tuple[float, float]
    compared: Sequence[Compared]
    rmsd: float | None
    model: str
    level: str
    settings: Sequence[tuple[str, str]]
    steps: int
    max_force: float | None
    max_stress: float | None
    attempts: int
    mended: Sequence[str]
    seconds: float
    magnetization: float | None
    band_gap: float | None
    phases: Sequence[DftPhase]
    hull: str
    input_digest: str
    folder: str
    later_failure: str = ""


@dataclass(frozen=True)
class DftFailure:
    """A crystal that DFT could not judge. `detail`: one sentence."""

    slot: int
    formula: str
    reason: str
    detail: str


@dataclass(frozen=True)
class DftData:
    """What DFT said of the best crystals. `threshold`: eV/atom above hull that metastable allows."""

    cards: Sequence[DftCard]
    failures: Sequence[DftFailure]
    threshold: float


@dataclass(frozen=True)
class FailureRow:
    """Failures of one kind: `example` is the message of one of them."""

    stage: str
    reason: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class BudgetRow:
    """One limit of the budget: its label, what is spent, and the limit (None: it is only counted)."""

    label: str
    spent: float
    limit: float | None


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
        dft: verdicts by DFT; None before anything was computed.
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
    dft: DftData | None = None
    polymorphs: Sequence[PolymorphRow] = ()
    protocol: ProtocolData | None = None
    failures: Sequence[FailureRow] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    threshold: float = 0.1
