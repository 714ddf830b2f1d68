"""What one DFT code needs to say about itself. Folders, running, retries and results are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..core.crystal import Crystal
from ..core.levels import Level
from ..core.records import Frame, Reason, Vector

if TYPE_CHECKING:
    from jobflow.core.flow import Flow


@dataclass(frozen=True)
class Inputs:
    """The inputs of a calculation.

    Args:
        files: relative path -> text, to look at or to run by hand (`abinit/run.abi`, `vasp/INCAR`).
        settings: what a person wants to know (cutoff, k-points, pseudopotentials, moments).
        notes: what is odd about them.
        digest: SHA-256 over the crystal's key, the level and the kind of calculation: two calculations
            with one digest give the same result.
    """

    files: Mapping[str, str]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Parsed:
    """A finished calculation. Fields as in `heliodor.core.records.DftResult`."""

    crystal: Crystal
    energy: float
    max_force: float | None
    max_stress: float | None
    converged: bool
    steps: int
    magnetization: float | None = None
    band_gap: float | None = None
    entry: Mapping[str, Any] | None = None
    forces: tuple[Vector, ...] | None = None
    stress: tuple[Vector, ...] | None = None


@dataclass(frozen=True)
class Unfinished:
    """A calculation that ended without a result.

    Args:
        reason: DFT_NOT_CONVERGED, DFT_FAILED or DFT_KILLED.
        detail: one sentence for a person, with what the code printed.
        mend: what the next attempt should change, understood by the same recipe's `flow` (for example
            "mixing", "smearing", "kpoints"); None where another attempt would end the same way.
    """

    reason: Reason
    detail: str
    mend: str | None = None


class Recipe(Protocol):
    """One DFT code with its settings, as atomate2 Flows.

    A recipe holds plain values only and is made anew from `options` by its class, in another process or
    on another machine.
    """

    name: str
    """Name of the engine in the campaign file: "abinit", "vasp", "gpaw", "mlip"."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments that make the same recipe; plain JSON values."""
        ...

    def level(self, elements: Sequence[str]) -> Level:
        """The level of theory for crystals of these elements and their subsets.

        All phases of one hull are computed at one level, so what depends on the elements (the cutoff) is
        the most demanding of them.

        Raises:
            InputError: an element cannot be computed; names it, and why.
        """
        ...

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements that cannot be computed, and why ("no PBE pseudopotential in ...")."""
        ...

    def inputs(self, crystal: Crystal, level: Level) -> Inputs:
        """The inputs for the cell as it is.

        Raises:
            ValueError: a cell that is not finite or flat, or an element without a pseudopotential.
        """
        ...

    def flow(self, crystal: Crystal, level: Level, mends: Sequence[str] = ()) -> Flow:
        """The Flow: relaxation, then a static calculation. Its last job's output is what is parsed.

        Args:
            mends: what earlier attempts asked for. None of them changes the level.
        """
        ...

    def parse(self, output: Mapping[str, Any], mends: Sequence[str] = ()) -> Parsed | Unfinished:
        """Read the output document of the last job that ran. Never raises for what a code printed."""
        ...

    def explain(self, folder: Path, error: Exception) -> Unfinished:
        """What a job that raised came to, from the files in its folder and the error."""
        ...


@runtime_checkable
class StepReader(Protocol):
    """A recipe that reads the steps of its relaxations."""

    def steps(self, output: Mapping[str, Any], folder: Path) -> list[Frame]:
        """The steps of a job, the last one included, each with converged electrons.

        None of a job with another functional than the level's.

        Args:
            output: the job's document, of which `parse` makes a result. folder: where it ran.
        """
        ...


@runtime_checkable
class FolderReader(Protocol):
    """A recipe that reads what its program wrote, however it was run."""

    def parse_folder(self, path: Path) -> Parsed | Unfinished | None:
        """The program's files in a folder or below it; None where there are none. Never raises.

        What is of another level of theory is Unfinished. That the crystal is the one that was asked for,
        the caller sees.
        """
        ...
