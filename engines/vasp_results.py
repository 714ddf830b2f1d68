"""What a VASP calculation came to, read from emmet's task document (atomate2's output).

The energy is VASP's energy(sigma->0) of the last calculation in the document. No correction is applied
here; `entry` holds what MaterialsProject2020Compatibility needs (see `vasp_entries`).
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.convert import from_structure
from ..core.records import Frame, Reason
from .recipe import Parsed, Unfinished
from .recipe_parts import largest_component, longest, vectors

logger = logging.getLogger("heliodor.engines")

Task = Any
"""emmet's TaskDoc. All its fields may be missing; one that is needed and missing raises here."""

_EV_PER_KBAR = 1e8 / 1.602176634e-19 * 1e-30  # 1 kbar = 1e8 J/m^3, in eV/angstrom^3

_RUN_TYPES = {"PBE": "GGA", "PBE+U": "GGA+U", "r2SCAN": "R2SCAN", "r2SCAN+U": "R2SCAN+U"}
"""emmet's names -> pymatgen's. VASP 6.4.3 writes GGA = PE where older ones write GGA = --: one PBE."""


def parse_task(output: Mapping[str, Any]) -> Parsed | Unfinished:
    """Read a task document as a job store holds it; never raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen and emmet warn of what is in the result
            return read_task(_task(output))
    except Exception as error:  # whatever pydantic, emmet or pymatgen make of a document
        logger.debug("no task document", exc_info=True)
        return Unfinished(Reason.DFT_FAILED, f"the task document cannot be read: {brief(error)}")


def _task(output: Mapping[str, Any]) -> Task:
    from emmet.core.tasks import TaskDoc

    fields = {name: value for name, value in output.items() if not name.startswith("@")}
    return TaskDoc(**copy.deepcopy(fields))  # emmet changes what it is given


def read_task(task: Task) -> Parsed | Unfinished:
    """The last calculation of a task document.

    Raises:
        Exception: fields are missing or of the wrong kind.
    """
    calculation = task.calcs_reversed[0]
    if unfinished := _unfinished(task, calculation):
        return unfinished
    energy = float(task.output.energy)
    if not math.isfinite(energy):
        return Unfinished(Reason.DFT_FAILED, f"the energy is {energy}")
    forces = vectors(task.output.forces)
    stress = vectors(task.output.stress, -_EV_PER_KBAR)  # VASP's sign is not ASE's
    return Parsed(
        crystal=from_structure(calculation.output.structure),
        energy=energy,
        max_force=longest(forces),
        max_stress=largest_component(stress),
        converged=True,
        steps=_ionic_steps(task),
        magnetization=(calculation.output.outcar or {}).get("total_magnetization"),
        band_gap=calculation.output.bandgap,
        entry=_entry(task, calculation),
        forces=forces,
        stress=stress,
    )


def read_steps(output: Mapping[str, Any], run_types: Sequence[str]) -> list[Frame]:
    """The ionic steps of a job's document; none where its functional is not of `run_types`.

    Steps whose electrons did not converge are left out, the last one never: `parse_task` took it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = _task(output)
        if run_type(task) not in run_types:
            return []
        calculation = task.calcs_reversed[0]
        most = {**calculation.input.parameters, **calculation.input.incar}.get("NELM", math.inf)
        return [
            Frame(
                crystal=from_structure(step.structure),
                energy=float(step.e_0_energy),
                forces=vectors(step.forces) or (),
                stress=vectors(step.stress, -_EV_PER_KBAR) or (),
            )
            for step in calculation.output.ionic_steps
            if len(step.electronic_steps) < most
        ]


def run_type(task: Task) -> str:
    """Pymatgen's name of the functional: "GGA", "GGA+U", "R2SCAN", ..."""
    found = task.run_type
    name = str(getattr(found, "value", found))
    return _RUN_TYPES.get(name, name)


def potcar_symbol(potential: Any) -> str:
    """The symbol of a potential: Fe_pv of "PAW_PBE Fe_pv 06Sep2000".

    Raises:
        ValueError: it is no PAW potential of PBE. emmet calls a run with LDA potentials "GGA" all the
            same, and MaterialsProject2020Compatibility looks at the symbol only.
    """
    words = str(potential.titel).split()
    if len(words) < 2 or words[0] != "PAW_PBE":
        raise ValueError(f"the potential {potential.titel!r} is not of PBE (PAW_PBE)")
    return words[1]


def brief(error: Exception) -> str:
    """An error in one line of moderate length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _unfinished(task: Task, calculation: Any) -> Unfinished | None:
    state = calculation.has_vasp_completed
    if str(getattr(state, "value", state)) != "successful":
        return Unfinished(Reason.DFT_NOT_CONVERGED, _what_did_not_converge(calculation))
    if task.analysis is not None and task.analysis.errors:
        return Unfinished(Reason.DFT_FAILED, "; ".join(task.analysis.errors))
    return None


def _what_did_not_converge(calculation: Any) -> str:
    parameters = {**(calculation.input.parameters or {}), **(calculation.input.incar or {})}
    electronic = calculation.output.num_electronic_steps or []
    most, ionic = parameters.get("NELM"), parameters.get("NSW", 0)
    if electronic and most and electronic[-1] >= most:
        return f"the electrons did not converge in {most} steps (NELM)"
    if ionic and len(electronic) >= ionic:
        return f"the geometry did not converge in {ionic} steps (NSW)"
    return f"VASP stopped after {len(electronic)} ionic steps, before it had converged"


def _ionic_steps(task: Task) -> int:
    """Of the last relaxation in the document; 0 where it holds a static calculation only."""
    for calculation in task.calcs_reversed:
        if {**calculation.input.parameters, **calculation.input.incar}.get("NSW", 0) > 0:
            return len(calculation.output.num_electronic_steps or [])
    return 0


def _entry(task: Task, calculation: Any) -> dict[str, Any]:
    """Plain values that MaterialsProject2020Compatibility needs, and the version of VASP."""
    hubbards = {s: float(u) for s, u in (calculation.input.hubbards or {}).items() if u}
    potentials = calculation.input.potcar_spec
    if not [potcar_symbol(potential) for potential in potentials]:
        raise ValueError("its potentials are not named")
    return {
        "run_type": run_type(task),
        "is_hubbard": bool(hubbards),
        "hubbards": hubbards,
        "potcar_spec": [{"titel": p.titel, "hash": p.hash} for p in potentials],
        "oxide_type": task.entry.data["oxide_type"],
        "aspherical": bool(task.entry.data["aspherical"]),
        "vasp_version": str(calculation.vasp_version).strip(),
    }
