"""ABINIT as a recipe: PBE relaxation and static calculation by atomate2's Makers, on a hull of its own.

One level for insulators and metals alike, so that their energies may be compared: Gaussian smearing of
0.005 hartree everywhere, and the energy extrapolated to none, E = F + TS/2 (M. J. Gillan, J. Phys.:
Condens. Matter 1, 689 (1989)). No +U. The static calculation at the relaxed cell, with a basis of its
own, gives the energy; its stress shows what the basis of the relaxation, that of the start, left behind
(Pulay stress).

Crystals with an element of `MOMENTS`, and pure oxygen, are computed with spin, from ferromagnetic
moments. Antiferromagnetic order is not looked for: for a crystal that has it, the energy is too high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.errors import missing_extra
from ..core.levels import Level
from ..core.records import Failure, Frame
from . import abinit_output
from .abinit_history import history
from .abinit_program import version
from .abinit_variables import (
    FORCE,
    HARTREE,
    MOMENTS,
    SMEARING,
    bands,
    moments,
    relax_variables,
    static_variables,
)
from .pseudopotential_sets import open_set
from .pseudopotentials import Pseudopotential, PseudopotentialSet
from .recipe import Inputs, Parsed, Unfinished
from .recipe_parts import input_digest, require_cell
from .symmetry import symmetrized

if TYPE_CHECKING:
    from jobflow.core.flow import Flow


class AbinitRecipe:
    """See `heliodor.engines.recipe.Recipe`.

    Args:
        pseudopotentials: "auto", "gpaw-data", "abinit-data" or a folder of PBE files.
        kpoint_density: k-points times atoms in the cell; the grids are centred on Gamma.
        cutoff: plane waves, eV; None: the largest hint of the chemical system's elements. The PAW double
            grid has twice as much.
        command: the program, by name or path; None: abinit on the PATH. What takes arguments (mpirun)
            goes into a script.

    Raises:
        InputError, MissingError: the pseudopotentials are not there.
    """

    name = "abinit"

    def __init__(
        self,
        pseudopotentials: str = "auto",
        kpoint_density: float = 1000,
        cutoff: float | None = None,
        command: str | None = None,
    ) -> None:
        self.options: Mapping[str, Any] = {
            "pseudopotentials": pseudopotentials,
            "kpoint_density": kpoint_density,
            "cutoff": cutoff,
            "command": command,
        }
        self._set: PseudopotentialSet = open_set(pseudopotentials)
        self._density = kpoint_density
        self._cutoff = cutoff
        self._command = command or "abinit"

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements that keep the chemical system from being computed, and why."""
        return self._set.unsupported(elements)

    def level(self, elements: Sequence[str]) -> Level:
        """PBE with one pseudopotential per element and the cutoff that the hardest of them needs.

        Raises:
            InputError: an element cannot be computed. MissingError: there is no ABINIT.
        """
        chosen = self._set.choose(elements)
        cutoff = self._cutoff or max(p.cutoff for p in chosen.values()) * HARTREE
        family = next(iter(chosen.values())).family
        settings = {
            "pseudopotentials": {e: [p.name, p.sha256] for e, p in chosen.items()},
            "pseudopotential_set": self._set.name,
            "family": family,
            "cutoff_eV": round(cutoff, 3),
            "double_grid_eV": round(2 * cutoff, 3) if family == "PAW" else None,
            "kpoint_density": self._density,
            "usexcnhat": 0,
            "smearing": f"Gaussian, {SMEARING} hartree; energy extrapolated to none",
            "spin": f"ferromagnetic start with {', '.join(MOMENTS)} and in pure oxygen; else none",
            "force_threshold_hartree_per_bohr": FORCE,
        }
        return Level.of(f"abinit-{version(self._command)}", "PBE", "own", settings)

    def inputs(self, crystal: Crystal, level: Level) -> Inputs:
        """Texts of both inputs; the static one is for the cell as it is, before the relaxation.

        Raises:
            ValueError: a cell that is not finite or flat, or an element without a pseudopotential.
        """
        cell = _checked(crystal)
        structure = to_structure(cell)
        relax, static = self._makers(cell, level, ())
        made = {
            name: maker.input_set_generator.get_input_set(structure).abinit_input
            for name, maker in (("run", relax), ("static", static))
        }
        files = {f"abinit/{name}.abi": str(text) + "\n" for name, text in made.items()}
        chosen = self._chosen(crystal, level)
        settings = {
            "functional": "PBE",
            "cutoff": level.as_dict()["settings"]["cutoff_eV"],
            "kpoints": [int(n) for n in made["static"]["ngkpt"]],
            "pseudopotentials": {e: p.name for e, p in chosen.items()},
            "initial_moments": moments(crystal),
        }
        unmeasured = [e for e, p in chosen.items() if not p.measured]
        notes = (
            [f"no convergence test for {', '.join(unmeasured)}: default cutoff"] if unmeasured else []
        )
        if moments(crystal):
            notes.append("spin from a ferromagnetic start; antiferromagnetic order is not looked for")
        return Inputs(files, settings, tuple(notes), input_digest(crystal, level))

    def flow(self, crystal: Crystal, level: Level, mends: Sequence[str] = ()) -> Flow:
        """Relaxation of atoms and cell, then the static calculation."""
        from jobflow.core.flow import Flow

        cell = _checked(crystal)
        relax, static = self._makers(cell, level, mends)
        first = relax.make(to_structure(cell))
        second = static.make(first.output.structure)
        return Flow([first, second], output=second.output, name="ABINIT relax and static")

    def parse(self, output: Mapping[str, Any], mends: Sequence[str] = ()) -> Parsed | Unfinished:
        """Read an `AbinitTaskDoc` of either job."""
        return abinit_output.parse(output, mends)

    def steps(self, output: Mapping[str, Any], folder: Path) -> list[Frame]:  # noqa: ARG002
        """The steps in the history file of a relaxation's folder."""
        return history(folder / "outdata")

    def explain(self, folder: Path, error: Exception) -> Unfinished:
        """What ABINIT's log in the folder says."""
        return abinit_output.explain(folder, error)

    def _makers(self, crystal: Crystal, level: Level, mends: Sequence[str]) -> tuple[Any, Any]:
        """The Makers of both jobs.

        Raises:
            MissingError: atomate2 or abipy is not installed.
        """
        try:
            from atomate2.abinit.sets.core import StaticSetGenerator

            from .abinit_makers import AbinitRelax, AbinitStatic
        except ImportError as error:
            raise missing_extra("atomate2[abinit]", "abinit") from error
        settings = level.as_dict()["settings"]
        chosen = self._chosen(crystal, level)
        cutoff = settings["cutoff_eV"] / HARTREE
        factory = {
            "ecut": cutoff,
            "pawecutdg": 2 * cutoff if settings["family"] == "PAW" else None,
            "nband": bands(crystal, chosen),
            "spin_mode": "polarized" if moments(crystal) else "unpolarized",
            "smearing": f"gaussian: {SMEARING} Ha",
        }
        common: dict[str, Any] = {
            "pseudos": [str(p.path) for p in chosen.values()],
            "factory_kwargs": factory,
            "user_kpoints_settings": {"grid_density": settings["kpoint_density"]},
        }
        relax = AbinitRelax.full_relaxation(
            tolmxf=FORCE, **common, user_abinit_settings=relax_variables(crystal, mends)
        )
        static = AbinitStatic()
        static.input_set_generator = StaticSetGenerator(
            **common, user_abinit_settings=static_variables(crystal, mends)
        )
        for maker in (relax, static):
            maker.run_abinit_kwargs = {"abinit_cmd": self._command}
        return relax, static

    def _chosen(self, crystal: Crystal, level: Level) -> dict[str, Pseudopotential]:
        """The level's pseudopotentials for the crystal's elements, on this machine.

        Raises:
            ValueError: the level has none for an element, or this machine has another file.
        """
        named = level.as_dict()["settings"]["pseudopotentials"]
        if lacking := [e for e in crystal.elements if e not in named]:
            raise ValueError(f"the level has no pseudopotential for {', '.join(lacking)}")
        family = level.as_dict()["settings"]["family"]
        chosen = {}
        for element in sorted(crystal.elements):
            here = self._set.found[family].get(element)
            if here is None or here.sha256 != named[element][1]:
                raise ValueError(
                    f"the pseudopotential {named[element][0]} for {element} of the level is not in"
                    f" {self._set.name} here"
                )
            chosen[element] = here
        return chosen


def _checked(crystal: Crystal) -> Crystal:
    """The primitive cell, exactly in its space group: ABINIT stops at one that is only nearly so."""
    require_cell(crystal)
    found = symmetrized(crystal, primitive=True)
    return crystal if isinstance(found, Failure) else found
