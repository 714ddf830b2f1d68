"""The seams between rooms. Every implementation passes the contract tests in `heliodor.testing`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol, runtime_checkable

from .columns import Column, Value
from .crystal import Crystal
from .levels import Hull, Level
from .records import (
    Candidate,
    Conditions,
    DftResult,
    DftTicket,
    Evaluated,
    Failure,
    Judged,
    Relaxed,
    Verdict,
)


@runtime_checkable
class Generator(Protocol):
    """Proposes crystals.

    One that makes many side by side, as on a GPU, says so by an attribute `batch_size`: a campaign then
    asks for that many at a time.
    """

    name: str

    def generate(
        self, n: int, *, seed: int, conditions: Conditions, start: int = 0
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1` of the stream that (seed, conditions) defines.

        Streams: an item is yielded as soon as it is there. Deterministic: item i is the same
        whatever `start` and `n` are. Each position yields one item, a candidate or a failure
        (an unreadable file, a draw that gave nothing). A stream that ends before `n` items is
        exhausted.

        Raises:
            InputError: the conditions cannot be served; raised at the call, before the first item.
        """
        ...


@runtime_checkable
class Validator(Protocol):
    """Judges crystals."""

    check_name: str

    def check(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """One verdict per input, in the same order; never raises for an item."""
        ...


@runtime_checkable
class OrderedValidator(Validator, Protocol):
    """A validator whose verdict depends on the crystals before (uniqueness).

    `check` compares each crystal with all that were absorbed or checked before it, then absorbs it.
    """

    def absorb(self, batch: Sequence[Crystal]) -> None:
        """Take in crystals that were judged earlier, without judging them again."""
        ...


@runtime_checkable
class Relaxer(Protocol):
    """Relaxes crystals with a machine-learned interatomic potential."""

    name: str
    model: str  # name and version of the potential, for example "chgnet-0.3.0"

    def supports(self, atomic_number: int) -> bool:
        """Whether the potential was trained on the element."""
        ...

    def relax(
        self, batch: Sequence[Crystal], ceilings: Sequence[float | None] | None = None
    ) -> Iterator[Relaxed | Failure]:
        """Yields each as it finishes, in any order (`key` tells which); one item per input.

        `ceilings` are energies of the cell (eV, in the potential's own scheme), one per crystal: one
        that is heading above its own may be given up, and says so in `Relaxed.stopped`. They are given
        only where the campaign file asks for an early stop.

        Safe to call from several threads at once: they share the workers.
        """
        ...

    def close(self) -> None:
        """End worker processes and free memory. The relaxer can be used again afterwards."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """Energies, forces and stresses of crystals as they are, with a potential."""

    name: str
    model: str  # as in `Relaxer`

    def supports(self, atomic_number: int) -> bool:
        """Whether the potential was trained on the element."""
        ...

    def evaluate(self, batch: Sequence[Crystal]) -> Iterator[Evaluated | Failure]:
        """Yields each as it is done, in any order (`key` tells which); one item per input.

        Crystals of one batch must differ in their keys, or their forces cannot be told apart: a key
        does not see the order of the atoms, nor displacements below 1e-6 of a cell vector.
        """
        ...

    def close(self) -> None:
        """End worker processes and free memory. The evaluator can be used again afterwards."""
        ...


@dataclass(frozen=True)
class ReferenceInfo:
    """What a reference is. `name` and `digest` pin the snapshot; `coverage` says what it holds.

    `version` is that of the database that it was taken from, and `hull` says which energies may be put
    beside its own.
    """

    name: str
    digest: str
    n_phases: int
    coverage: str
    attribution: str = ""
    date: str = ""
    version: str = ""
    hull: Hull = "GGA_GGA+U"


@dataclass(frozen=True)
class Phase:
    """A known phase: facts about it, and its structure where the reference has structures.

    Args:
        material_id: id in the source, for example "mp-149".
        composition: reduced composition, ((atomic number, count), ...) by rising atomic number.
        formation_energy_per_atom: eV/atom on the Materials Project's GGA/GGA+U scheme with MP2020
            corrections, or None where unknown. A self-consistent reference has its potential's own.
    """

    material_id: str
    composition: tuple[tuple[int, int], ...]
    formation_energy_per_atom: float | None
    spacegroup: int | None = None
    crystal: Crystal | None = None


@runtime_checkable
class Reference(Protocol):
    """An immutable, named snapshot of known phases."""

    @property
    def info(self) -> ReferenceInfo:
        """What it is."""
        ...

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`."""
        ...

    def like(self, composition: tuple[tuple[int, int], ...]) -> Sequence[Phase]:
        """Phases of that reduced composition."""
        ...

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty: one verdict per crystal (`passed` = novel; `match` = the known phase)."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Adds columns to the table: numbers about a crystal that decide nothing by themselves."""

    @property
    def name(self) -> str:
        """For the records."""
        ...

    @property
    def columns(self) -> Sequence[Column]:
        """What it adds."""
        ...

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """One mapping per crystal, in the same order; its keys are the names in `columns`.

        Never raises for an item: what cannot be computed is None.
        """
        ...


@runtime_checkable
class DftEngine(Protocol):
    """Turns crystals into DFT calculations; idempotent by the content of their inputs."""

    name: str

    def prepare(
        self, batch: Sequence[Crystal], folder: Path, elements: Sequence[str] = ()
    ) -> list[DftTicket | Failure]:
        """Write the calculation of each crystal under `folder`; the same input is written once.

        Args:
            elements: the chemical system whose level of theory is used; empty: each crystal's own.
        """
        ...

    def write_manifest(self, tickets: Sequence[DftTicket], folder: Path) -> Path:
        """List all calculations under `folder` in one file, for whoever submits them."""
        ...


@runtime_checkable
class DftCalculator(DftEngine, Protocol):
    """A DFT engine that also runs its calculations, or has them run elsewhere, and reads the results."""

    def level(self, elements: Sequence[str]) -> Level:
        """The level of theory for crystals of these elements and their subsets.

        Raises:
            InputError: an element cannot be computed.
        """
        ...

    def ended(self, ticket: DftTicket) -> DftResult | Failure | None:
        """What a calculation has come to, here or in another campaign; None where it would be run."""
        ...

    def run(self, ticket: DftTicket, stop: Event) -> DftResult | Failure | None:
        """Bring a calculation to its end; None where `stop` was set before.

        What has ended before, here or in another campaign, is not run again. An engine whose
        calculations run elsewhere gives what has come back, or None, at once.
        """
        ...
