"""GPAW as a recipe: PBE in plane waves by atomate2's ASE Makers, on a hull of its own.

The PAW sets come from gpaw-data. One level for insulators and metals: Fermi-Dirac smearing of 0.1 eV,
and the energy that GPAW extrapolates to none. Spin as with ABINIT: ferromagnetic starts, no +U.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.errors import InputError, missing_extra
from ..core.levels import Level
from ..core.records import Frame, Reason
from . import ase_flow
from .abinit_variables import MOMENTS, moments
from .pseudopotential_sets import open_set
from .recipe import Inputs, Parsed, Unfinished
from .recipe_parts import input_digest, require_cell

if TYPE_CHECKING:
    from jobflow.core.flow import Flow

_WIDTH = 0.1  # eV


class GpawRecipe:
    """See `heliodor.engines.recipe.Recipe`.

    Args:
        kpoint_density: k-points times atoms in the cell; the grids are centred on Gamma.
        cutoff: plane waves, eV. Below 600 eV oxides shrink by Pulay stress while they are relaxed.

    Raises:
        MissingError: GPAW, its datasets or atomate2 are not installed.
    """

    name = "gpaw"

    def __init__(self, kpoint_density: float = 1000, cutoff: float = 700) -> None:
        for package in ("gpaw", "gpaw_data", "atomate2"):
            if find_spec(package) is None:
                raise missing_extra(package, "gpaw")
        self._density = kpoint_density
        self._cutoff = cutoff
        self._set = open_set("gpaw-data")

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments that make the same recipe."""
        return {"kpoint_density": self._density, "cutoff": self._cutoff}

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements without a dataset."""
        return self._set.unsupported(elements)

    def level(self, elements: Sequence[str]) -> Level:
        """PBE with gpaw-data's sets.

        Raises:
            InputError: an element has none.
        """
        if lacking := self.unsupported(elements):
            raise InputError("cannot compute " + "; ".join(f"{e}: {why}" for e, why in lacking.items()))
        settings = {
            "datasets": {e: [p.name, p.sha256] for e, p in self._set.choose(elements).items()},
            "cutoff_eV": self._cutoff,
            "kpoint_density": self._density,
            "smearing": f"Fermi-Dirac, {_WIDTH} eV; energy extrapolated to none",
            "spin": f"ferromagnetic start with {', '.join(MOMENTS)} and in pure oxygen; else none",
            "fmax_eV_per_angstrom": ase_flow.FMAX,
        }
        return Level.of(f"gpaw-{metadata.version('gpaw')}", "PBE", "own", settings)

    def inputs(self, crystal: Crystal, level: Level) -> Inputs:
        """The calculator's arguments as JSON, and the cell.

        Raises:
            ValueError: a cell that is not finite or flat.
        """
        from pymatgen.io.vasp import Poscar

        calculator = self._calculator(crystal)
        text = Poscar(to_structure(crystal)).get_str(significant_figures=10)
        return Inputs(
            files={"gpaw/POSCAR": text, "gpaw/calculator.json": json.dumps(calculator, indent=1) + "\n"},
            settings={
                "functional": "PBE",
                "cutoff": self._cutoff,
                "kpoints": calculator["kpts"]["size"],
                "initial_moments": moments(crystal),
            },
            notes=("spin from a ferromagnetic start",) if moments(crystal) else (),
            digest=input_digest(crystal, level),
        )

    def flow(self, crystal: Crystal, level: Level, mends: Sequence[str] = ()) -> Flow:
        """Relaxation of atoms and cell, then a single point."""
        from .ase_makers import GpawRelax

        del level
        calculator = self._calculator(crystal)
        if "mixing" in mends:
            calculator |= {"mixer": {"beta": 0.02, "nmaxold": 5, "weight": 50.0}, "maxiter": 1000}
        structure = to_structure(crystal)
        if spin := moments(crystal):
            structure.add_site_property(
                "magmom", [spin.get(SYMBOLS[z], 0.0) for z in crystal.atomic_numbers]
            )
        return ase_flow.relax_and_static(GpawRelax, calculator, structure)

    def parse(self, output: Mapping[str, Any], mends: Sequence[str] = ()) -> Parsed | Unfinished:
        """Read the document of either job."""
        del mends
        return ase_flow.parse(output)

    def steps(self, output: Mapping[str, Any], folder: Path) -> list[Frame]:  # noqa: ARG002
        """The ionic steps in the document of either job."""
        return ase_flow.steps(output)

    def explain(self, folder: Path, error: Exception) -> Unfinished:
        """GPAW's own words; what did not converge is tried again with slow mixing."""
        found = ase_flow.explain(folder, error)
        if type(error).__name__ == "KohnShamConvergenceError":
            return Unfinished(Reason.DFT_NOT_CONVERGED, found.detail, "mixing")
        return found

    def _calculator(self, crystal: Crystal) -> dict[str, Any]:
        from pymatgen.io.vasp import Kpoints

        require_cell(crystal)
        grid = Kpoints.automatic_density(to_structure(crystal), self._density, force_gamma=True)
        return {
            "cutoff": self._cutoff,
            "xc": "PBE",
            "kpts": {"size": [int(n) for n in grid.kpts[0]], "gamma": True},
            "occupations": {"name": "fermi-dirac", "width": _WIDTH},
            "spinpol": bool(moments(crystal)),
        }
