"""The Flow and the document that GPAW and our potentials share: atomate2's ASE Makers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.records import Frame, Reason
from .recipe import Parsed, Unfinished
from .recipe_parts import crystal_in, largest_component, longest, vectors

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from pymatgen.core import Structure

_KBAR = -1602.1766208  # in eV/angstrom^3, in atomate2's documents, with VASP's sign
STEPS = 200
FMAX = 0.01
"""Threshold in eV/angstrom, on atoms and on the cell as ASE's FrechetCellFilter weighs it."""


def relax_and_static(maker: type[Any], calculator: Mapping[str, Any], structure: Structure) -> Flow:
    """Relaxation of atoms and cell at fixed symmetry, then a single point with a basis of its own."""
    from jobflow.core.flow import Flow

    kwargs = dict(calculator)
    relax = maker(
        name=f"{maker.name} relaxation",
        calculator_kwargs=kwargs,
        fix_symmetry=True,
        steps=STEPS,
        relax_kwargs={"fmax": FMAX},
        optimizer_kwargs={"optimizer": "BFGSLineSearch"},
    )
    static = maker(name=f"{maker.name} static", calculator_kwargs=kwargs, steps=1)
    first = relax.make(structure)
    second = static.make(first.output.structure)
    return Flow([first, second], output=second.output, name=f"{maker.name} relax and static")


def parse(output: Mapping[str, Any]) -> Parsed | Unfinished:
    """Read an `AseStructureTaskDoc`, as an object's dictionary or as plain JSON. Never raises."""
    try:
        state = str(getattr(output["state"], "value", output["state"]))
        result = output["output"]
        if state != "successful":
            detail = f"not relaxed within {result['n_steps']} steps"
            return Unfinished(Reason.DFT_NOT_CONVERGED, detail)
        return _parsed(output, result)
    except Exception as error:  # a truncated or foreign document can be wrong in any way
        detail = f"this is no complete document of an ASE job: {type(error).__name__}: {error}"
        return Unfinished(Reason.DFT_FAILED, detail)


def _parsed(output: Mapping[str, Any], result: Mapping[str, Any]) -> Parsed:
    energy = float(result["energy"])
    if not math.isfinite(energy):
        raise ValueError(f"energy {energy}")
    forces, stress = vectors(result["forces"]), vectors(result["stress"], 1 / _KBAR)
    if forces is None or stress is None:
        raise ValueError("forces or stress are missing")
    return Parsed(
        crystal=crystal_in(output["structure"]),
        energy=energy,
        max_force=longest(forces),
        max_stress=largest_component(stress),
        converged=True,
        steps=int(result["n_steps"]),
        forces=forces,
        stress=stress,
    )


def steps(output: Mapping[str, Any]) -> list[Frame]:
    """The ionic steps in an `AseStructureTaskDoc`."""
    return [
        Frame(
            crystal=crystal_in(step["mol_or_struct"]),
            energy=float(step["energy"]),
            forces=vectors(step["forces"]) or (),
            stress=vectors(step["stress"], 1 / _KBAR) or (),
        )
        for step in output["output"]["ionic_steps"]
    ]


def explain(folder: Path, error: Exception) -> Unfinished:
    """The calculator's own words: what it raised, and the end of its text output where there is one."""
    words = f"{type(error).__name__}: {error}"
    text = folder / "gpaw.txt"
    if text.is_file():
        lines = text.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        words += f"; last line of gpaw.txt: {lines[-1].strip()[:200]}" if lines else ""
    memory = isinstance(error, MemoryError)
    return Unfinished(Reason.DFT_KILLED if memory else Reason.DFT_FAILED, " ".join(words.split())[:600])
