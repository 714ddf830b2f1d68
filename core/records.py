"""Records that pass between rooms: small, frozen, with units in the docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .crystal import Crystal
from .levels import Level

Vector = tuple[float, float, float]


class Stage(StrEnum):
    """The stages of a campaign, in order. A campaign may leave some out, never reorder them."""

    GENERATE = "generate"
    SCREEN = "screen"
    RELAX = "relax"
    ASSESS = "assess"
    REVIEW = "review"
    DFT = "dft"
    VERIFY = "verify"


AFTER_ROUNDS = (Stage.DFT, Stage.VERIFY)
"""Stages that come once, when the rounds have ended."""


class Status(StrEnum):
    """Outcome of one candidate at one stage. A crash is not a rejection."""

    PASSED = "passed"
    REJECTED = "rejected"  # judged, and not good enough
    FAILED = "failed"  # could not be judged or computed


class Reason(StrEnum):
    """Why a candidate was rejected or failed."""

    # rejected: validity
    NOT_FINITE = "not_finite"
    DISTANCE = "atoms_too_close"
    VOLUME = "volume_per_atom"
    CELL = "cell_shape"
    TOO_MANY_ATOMS = "too_many_atoms"
    COMPOSITION = "outside_requested_composition"
    CHARGE = "not_charge_neutral"
    ELEMENT = "element_unknown_to_potential"
    # rejected: comparison and energy
    DUPLICATE = "duplicate"
    KNOWN = "known"
    UNSTABLE = "above_hull"
    FAR_ABOVE_HULL = "far_above_hull"  # given up while it was relaxed
    # failed: reading and generating
    UNREADABLE = "unreadable"
    DISORDERED = "partial_occupancy"
    GENERATION = "generation_failed"
    EXHAUSTED = "generator_exhausted"
    # failed: relaxing
    NOT_CONVERGED = "not_converged"
    EXPLODED = "exploded"
    COLLAPSED = "collapsed"
    ENERGY = "energy_out_of_range"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    WORKER_DIED = "worker_died"
    # failed: judging and DFT
    NO_REFERENCE = "no_reference_for_element"
    CORRECTION = "energy_correction_failed"
    CHECK_FAILED = "check_failed"
    DFT_INPUT = "dft_input_failed"
    DFT_ELEMENT = "element_without_pseudopotential"
    DFT_NOT_CONVERGED = "dft_not_converged"
    DFT_FAILED = "dft_failed"  # the code ended with an error, or its result cannot be read
    DFT_KILLED = "dft_killed"  # time or memory limit, or a signal
    NO_COMPETITORS = "competing_phases_missing"  # no hull at this level of theory


@dataclass(frozen=True)
class Conditions:
    """What a generator is asked for. All given conditions hold together.

    Args:
        elements: symbols that may appear; none outside is allowed. Empty means no restriction.
        require_all: every element of `elements` must appear (a chemical system in the strict sense).
        max_atoms: largest number of atoms in the cell.
        composition: reduced composition to be met exactly, as (symbol, count) pairs; empty means free.
    """

    elements: tuple[str, ...] = ()
    require_all: bool = True
    max_atoms: int = 20
    composition: tuple[tuple[str, int], ...] = ()

    def admits(self, crystal: Crystal) -> bool:
        """Whether the crystal's composition obeys the conditions."""
        present = set(crystal.elements)
        if self.elements and not present <= set(self.elements):
            return False
        if self.elements and self.require_all and present != set(self.elements):
            return False
        if self.composition:
            from .elements import ATOMIC_NUMBERS

            wanted = sorted((ATOMIC_NUMBERS[s], n) for s, n in self.composition)
            if tuple(wanted) != crystal.reduced_composition:
                return False
        return len(crystal) <= self.max_atoms


@dataclass(frozen=True)
class Origin:
    """Where a candidate came from.

    Args:
        generator: registered name of the generator.
        version: version of the code that made it.
        seed: seed of the stream; `index`: position in the stream that the seed defines.
        source: what it was made from (prototype and substitution, file path and entry, ...).
        checkpoint_sha256: digest of the weights, for learned generators.
    """

    generator: str
    version: str
    seed: int
    index: int
    source: str = ""
    checkpoint_sha256: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A proposed crystal and its origin. `key` is the crystal's digest: same crystal, same key."""

    crystal: Crystal
    origin: Origin

    @property
    def key(self) -> str:
        """Content key."""
        return self.crystal.digest


@dataclass(frozen=True)
class Failure:
    """The failure of one item, as a value. `key` is empty where no crystal could be made."""

    key: str
    reason: Reason
    detail: str = ""
    origin: Origin | None = None


@dataclass(frozen=True)
class Verdict:
    """The judgement of one check on one crystal.

    Args:
        key: content key of the crystal.
        check: name of the check ("validity", "uniqueness", "novelty").
        passed: True, False, or None where the check could not be made (then `reason` says why).
        score, unit: the number behind it, for example the smallest distance in angstrom.
        match: key or material id of the crystal that it matched.
        detail: one short sentence for a person.
    """

    key: str
    check: str
    passed: bool | None
    reason: Reason | None = None
    score: float | None = None
    unit: str = ""
    match: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Prepared:
    """A first relaxation with a cheaper potential, before the one that counts.

    Args:
        model: name and version of the cheaper potential.
        steps: its optimiser steps. seconds: its wall time.
        detail: why it was given up; the crystal was then relaxed from its start. Empty: it was not.
    """

    model: str
    steps: int
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Relaxed:
    """A relaxation that ended regularly: converged, out of steps, or given up as hopeless.

    Args:
        key: content key of the crystal that went in.
        crystal: the relaxed crystal.
        energy: potential energy of the cell in eV, in the potential's own scheme (`model`).
        max_force: largest force on an atom in eV/angstrom, recomputed at the final geometry.
        max_stress: largest absolute stress component in eV/angstrom^3, likewise recomputed.
        steps: optimiser steps. converged: both thresholds hold at the final geometry.
        model: name and version of the potential, for example "chgnet-0.3.0".
        seconds: wall time.
        stopped: why it was given up before its end: it is heading far above the hull. Empty: it was not.
        prepared: what came before, in a relaxation of two stages.
    """

    key: str
    crystal: Crystal
    energy: float
    max_force: float
    max_stress: float
    steps: int
    converged: bool
    model: str
    seconds: float = 0.0
    stopped: str = ""
    prepared: Prepared | None = None


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Energy, forces and stress of a crystal as it is: a single point.

    Args:
        key: content key of the crystal.
        energy: potential energy of the cell in eV, in the potential's own scheme (`model`).
        forces: (n, 3) in eV/angstrom, in the order of the atoms of the crystal that went in.
        stress: (3, 3) in eV/angstrom^3, symmetric, (1/V) dE/d(strain): positive where the crystal
            wants to shrink (ASE's sign).
        model: name and version of the potential. seconds: wall time.
    """

    key: str
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    model: str
    seconds: float = 0.0


@dataclass(frozen=True)
class HullPoint:
    """A crystal against the convex hull of a reference.

    Args:
        energy_above_hull: eV/atom, >= 0; the distance above the hull of the reference phases and the
            crystal itself.
        decomposition_energy: eV/atom, signed: energy above the hull of the reference phases alone;
            negative means below the known hull (Bartel et al., npj Comput. Mater. 6, 97 (2020)).
        formation_energy_per_atom: eV/atom, against the elements in their reference states.
        decomposition: (formula, material id, fraction of atoms) of the competing phases.
        level: where the energy comes from, for example "chgnet-0.3.0" or "PBE+U".
        corrections: how it was made comparable, for example "MP2020 (in the potential)".
        reference: name and digest of the reference snapshot. coverage: what part of MP it holds.
        uncertain: the correction is known to be unreliable for this crystal.
    """

    key: str
    energy_above_hull: float
    decomposition_energy: float
    formation_energy_per_atom: float
    decomposition: tuple[tuple[str, str, float], ...]
    level: str
    corrections: str
    reference: str
    coverage: str = ""
    uncertain: bool = False


@dataclass(frozen=True)
class Judged:
    """A crystal with all that is known of it when it is reviewed.

    Args:
        key: content key of the candidate.
        proposed: the crystal as it was proposed.
        relaxed, hull: None where nothing was relaxed.
    """

    key: str
    proposed: Crystal
    relaxed: Relaxed | None = None
    hull: HullPoint | None = None

    @property
    def crystal(self) -> Crystal:
        """The relaxed crystal, or the proposed one."""
        return self.relaxed.crystal if self.relaxed is not None else self.proposed


@dataclass(frozen=True)
class DftTicket:
    """A calculation that was prepared or submitted: what, where, and the digest of its inputs."""

    key: str
    engine: str
    path: str
    input_digest: str
    flow_uuid: str


@dataclass(frozen=True)
class DftResult:
    """What a DFT calculation gave: the last, converged step.

    Args:
        key: content key of the crystal that went in. input_digest: digest of the inputs.
        level: what its energy may be compared with.
        crystal: the relaxed crystal.
        energy: eV of the cell, at that level.
        max_force: eV/angstrom; max_stress: eV/angstrom^3; None where the code did not print them.
        converged: the electrons and, where it was asked to relax, the geometry.
        steps: ionic steps of the last relaxation.
        magnetization: Bohr magneton of the cell. band_gap: eV, 0 for a metal. None: not computed.
        seconds: wall time of all jobs.
        attempts: how often it was run; mended: what was changed for it to converge.
        entry: of VASP, what MaterialsProject2020Compatibility needs: run_type, is_hubbard, hubbards,
            potcar_spec, oxide_type.
        path: its folder.
        forces: (n, 3) in eV/angstrom, in the order of the crystal's atoms. stress: (3, 3) in
            eV/angstrom^3, positive where the crystal wants to shrink (ASE's sign). None: not computed.
    """

    key: str
    input_digest: str
    level: Level
    crystal: Crystal
    energy: float
    max_force: float | None
    max_stress: float | None
    converged: bool
    steps: int
    magnetization: float | None = None
    band_gap: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    mended: tuple[str, ...] = ()
    entry: Mapping[str, Any] | None = None
    path: str = ""
    forces: tuple[Vector, ...] | None = None
    stress: tuple[Vector, ...] | None = None

    @property
    def energy_per_atom(self) -> float:
        """eV/atom."""
        return self.energy / len(self.crystal)


@dataclass(frozen=True)
class Frame:
    """A crystal on its way to rest, with what DFT says of it.

    Args:
        energy: eV of the cell.
        forces: (n, 3) in eV/angstrom, in the order of the crystal's atoms. stress: (3, 3) in
            eV/angstrom^3, ASE's sign.
    """

    crystal: Crystal
    energy: float
    forces: tuple[Vector, ...]
    stress: tuple[Vector, ...]

    @property
    def energy_per_atom(self) -> float:
        """eV/atom."""
        return self.energy / len(self.crystal)


@dataclass(frozen=True)
class Outcome:
    """One append-only row of the ledger: what happened to a slot of the campaign at a stage.

    Args:
        slot: position of the candidate in the campaign (0, 1, 2, ...).
        data: plain JSON values. crystal: a crystal that the stage produced, if any.
        at: seconds since the epoch. provenance: id of the provenance record.
    """

    slot: int
    stage: Stage
    status: Status
    reason: Reason | None = None
    attempt: int = 1
    data: Mapping[str, Any] = field(default_factory=dict)
    crystal: Crystal | None = None
    at: float = 0.0
    provenance: str = ""
