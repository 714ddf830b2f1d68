"""A potential in DFT's place, in the same Flows: a dry run of a whole campaign, on a hull of its own.

What it finds is what the potential says, not DFT; the level's name is the potential's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.choices.relaxers import MlipChoice
from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS
from ..core.errors import InputError, missing_extra
from ..core.levels import Level
from ..core.records import Frame
from . import ase_flow
from .guards import Unphysical, check_cell, check_start
from .neighbors import find_neighbors
from .potentials import describe
from .recipe import Inputs, Parsed, Unfinished
from .recipe_parts import input_digest

if TYPE_CHECKING:
    from jobflow.core.flow import Flow


class MlipRecipe:
    """See `heliodor.engines.recipe.Recipe`.

    Args:
        potential: one of `heliodor.engines.potentials.KNOWN`.

    Raises:
        InputError: there is no such potential.
    """

    name = "mlip"

    def __init__(self, potential: str = "chgnet") -> None:
        self._potential = potential
        self._info = describe(potential, MlipChoice())

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments that make the same recipe."""
        return {"potential": self._potential}

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements that the potential was not trained on."""
        unknown = [e for e in elements if ATOMIC_NUMBERS[e] not in self._info.elements]
        return dict.fromkeys(unknown, f"{self._info.model} was not trained on it")

    def level(self, elements: Sequence[str]) -> Level:
        """The potential, by the digest of its weights.

        Raises:
            InputError: an element that it was not trained on. MissingError: its package is not there.
        """
        if unknown := self.unsupported(elements):
            raise InputError(f"{self._info.model} was not trained on {', '.join(sorted(unknown))}")
        learned = "r2SCAN" if self._potential.endswith("r2scan") else "PBE/PBE+U"
        weights = self._info.provenance()["weights_sha256"]
        settings = {"weights_sha256": weights, "fmax_eV_per_angstrom": ase_flow.FMAX}
        return Level.of(self._info.model, f"{learned} (learned)", "own", settings)

    def inputs(self, crystal: Crystal, level: Level) -> Inputs:
        """The cell as it is; there are no other inputs.

        Raises:
            ValueError: a cell that is not finite, flat or far too small, or atoms on top of each other:
                a potential answers such with nonsense.
        """
        from pymatgen.io.vasp import Poscar

        try:
            check_cell(crystal)
            check_start(crystal, find_neighbors(crystal, 3.0))
        except Unphysical as error:
            raise ValueError(error.detail) from error
        text = Poscar(to_structure(crystal)).get_str(significant_figures=10)
        return Inputs(
            files={"mlip/POSCAR": text},
            settings={"potential": self._info.model},
            notes=("a machine-learned potential in DFT's place: a dry run",),
            digest=input_digest(crystal, level),
        )

    def flow(self, crystal: Crystal, level: Level, mends: Sequence[str] = ()) -> Flow:
        """Relaxation of atoms and cell, then a single point."""
        del level, mends  # nothing about a potential can be mended
        try:
            from .ase_makers import PotentialRelax
        except ImportError as error:
            raise missing_extra("atomate2", "vasp") from error
        calculator = {"potential": self._potential}
        return ase_flow.relax_and_static(PotentialRelax, calculator, to_structure(crystal))

    def parse(self, output: Mapping[str, Any], mends: Sequence[str] = ()) -> Parsed | Unfinished:
        """Read the document of either job."""
        del mends
        return ase_flow.parse(output)

    def steps(self, output: Mapping[str, Any], folder: Path) -> list[Frame]:  # noqa: ARG002
        """The ionic steps in the document of either job."""
        return ase_flow.steps(output)

    def explain(self, folder: Path, error: Exception) -> Unfinished:
        """What the job raised."""
        return ase_flow.explain(folder, error)
