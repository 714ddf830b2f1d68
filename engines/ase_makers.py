"""atomate2's ASE Makers for GPAW and for our own potentials, importable by name where a Flow is run.

It needs atomate2; GPAW or the potential only where a calculator is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from atomate2.ase.jobs import AseRelaxMaker

from ..core.choices.relaxers import MlipChoice
from ..core.convert import from_atoms
from .neighbors import find_neighbors
from .potentials import load


class PotentialCalculator(Calculator):
    """One of `heliodor.engines.potentials.KNOWN` as an ASE calculator.

    Args:
        potential: its name.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, potential: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._potential = load(potential, "cpu", MlipChoice()).potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """See ASE's `Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        if self.atoms is None:
            raise ValueError("no atoms to compute")
        crystal = from_atoms(self.atoms)
        [found] = self._potential.evaluate([(crystal, find_neighbors(crystal, self._potential.cutoff))])
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": found.forces,
            "stress": full_3x3_to_voigt_6_stress(found.stress),
        }


@dataclass
class PotentialRelax(AseRelaxMaker):
    """Relaxation, or with `steps=1` a single point, with a potential named in `calculator_kwargs`."""

    name: str = "potential"

    def _get_calculator(self) -> Calculator:
        return PotentialCalculator(**self.calculator_kwargs)


@dataclass
class GpawRelax(AseRelaxMaker):
    """Relaxation, or with `steps=1` a single point, with GPAW in a basis of plane waves.

    `calculator_kwargs`: cutoff (eV), and arguments of `gpaw.GPAW`.
    """

    name: str = "GPAW"

    def _get_calculator(self) -> Calculator:
        from gpaw import GPAW, PW

        others = {key: value for key, value in self.calculator_kwargs.items() if key != "cutoff"}
        made: Calculator = GPAW(mode=PW(self.calculator_kwargs["cutoff"]), txt="gpaw.txt", **others)
        return made
