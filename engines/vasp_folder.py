"""VASP's files, brought home from where it ran: read, and compared with what the level asks for.

Many run VASP by hand or in a queue of their own. Such a folder may be truncated, of other settings, or
no calculation at all; the answer is then a sentence, never an energy.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.records import Reason
from .recipe import Parsed, Unfinished
from .vasp_results import Task, brief, potcar_symbol, read_task, run_type

if TYPE_CHECKING:
    from pymatgen.core import Structure

logger = logging.getLogger("heliodor.engines")

_KPOINT_TOLERANCE = 0.9  # as pymatgen-io-validation: versions of VASP and custodian differ a little
_BESIDE = ("OUTCAR", "CONTCAR")
_SIGNAL = re.compile(r"return ?code (?:is |of )?(?:-\d+|137|143)\b|SIGKILL|SIGTERM|[Ww]alltime")


@dataclass(frozen=True)
class Expected:
    """What a calculation must have been for its energy to be of a level.

    Args:
        run_types: pymatgen's names of the functional.
        static: a static calculation, not a relaxation.
        encut: least plane-wave cutoff, eV.
        potcars: element -> POTCAR symbol.
        kpoint_density: least k-points per volume of the reciprocal cell (with 2 pi, angstrom^-3); None:
            not by density.
        kspacing: widest spacing of k-points, 1/angstrom (with 2 pi); None: not by spacing.
    """

    run_types: tuple[str, ...]
    static: bool
    encut: float
    potcars: Mapping[str, str]
    kpoint_density: float | None
    kspacing: float | None


def read_folder(path: Path, expected: Expected) -> Parsed | Unfinished | None:
    """The newest finished calculation of the level in a folder or below it; never raises.

    Where there is none, what is wrong with the newest; None where VASP has written nothing. POTCAR
    versions are not compared: VASP's output names a potential ("PAW_PBE Fe_pv 06Sep2000"), and some
    names are the same in several releases.
    """
    try:
        runs = sorted(path.rglob("vasprun*xml*"), key=lambda p: p.stat().st_mtime, reverse=True)
    except OSError as error:
        return Unfinished(Reason.DFT_FAILED, f"{path} cannot be read: {brief(error)}")
    first: Unfinished | None = None
    for folder in dict.fromkeys(run.parent for run in runs):
        found = _read(folder, expected)
        if isinstance(found, Parsed):
            return found
        first = first or found
    return first


def explain_failure(folder: Path, error: Exception) -> Unfinished:
    """What a job that raised came to, from VASP's files, custodian's log and the error."""
    try:
        found = _parsed(folder) if any(folder.glob("vasprun*xml*")) else None
    except Exception:  # a truncated file: the error says more
        logger.debug("%s: its output cannot be read", folder, exc_info=True)
        found = None
    if isinstance(found, Unfinished):
        return found
    said = brief(error)
    if mended := _corrections(folder):
        said += f"; custodian had mended: {', '.join(mended)}"
    if isinstance(error, FileNotFoundError):
        said += " (VASP_CMD in ~/.atomate2.yaml names the program)"
    return Unfinished(Reason.DFT_KILLED if _SIGNAL.search(said) else Reason.DFT_FAILED, said)


def _read(folder: Path, expected: Expected) -> Parsed | Unfinished:
    # emmet 0.87 can make no document of vasprun.xml alone, and it lacks the magnetization.
    missing = [name for name in _BESIDE if not any(folder.glob(f"{name}*"))]
    if missing:
        detail = f"{folder}: {' and '.join(missing)} must be there too, beside vasprun.xml"
        return Unfinished(Reason.DFT_FAILED, detail)
    try:
        return _parsed(folder, expected)
    except Exception as error:  # truncated, foreign: pymatgen raises many types
        logger.debug("%s: no VASP calculation", folder, exc_info=True)
        detail = f"{folder}: VASP's files are truncated or not its own ({brief(error)})"
        return Unfinished(Reason.DFT_FAILED, detail)


def _parsed(folder: Path, expected: Expected | None = None) -> Parsed | Unfinished:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pymatgen warns of is in the result
        task = _task(folder)
        if expected is not None and (differs := _differs(task, expected)):
            return Unfinished(Reason.DFT_FAILED, f"{folder}: of another level: {differs}")
        return read_task(task)


def _task(folder: Path) -> Task:
    from emmet.core.tasks import TaskDoc

    return TaskDoc.from_directory(folder, store_additional_json=False, average_locpot=False)


def _differs(task: Task, expected: Expected) -> str | None:
    """The first thing that makes it another level."""
    given = task.calcs_reversed[0].input
    parameters = {**given.parameters, **given.incar}
    if (found := run_type(task)) not in expected.run_types:
        return f"the functional is {found}, not {' or '.join(expected.run_types)}"
    if expected.static and parameters.get("NSW", 0) > 0:
        return "a relaxation; the energy is taken from a static calculation after it (NSW = 0)"
    cutoff = float(parameters.get("ENMAX", parameters.get("ENCUT", 0)))
    if cutoff < expected.encut - 1e-3:
        return f"ENCUT is {cutoff:g} eV, not {expected.encut:g}"
    if parameters.get("ISPIN", 1) != 2:
        return "it is not spin-polarised (ISPIN = 2)"
    return _other_potentials(given, expected.potcars) or _coarse_kpoints(given, expected)


def _other_potentials(given: Any, wanted: Mapping[str, str]) -> str | None:
    for symbol in map(potcar_symbol, given.potcar_spec):
        right = wanted.get(symbol.split("_")[0], "none")
        if symbol != right:
            return f"the potential is {symbol}, not {right}"
    return None


def _coarse_kpoints(given: Any, expected: Expected) -> str | None:
    least = _least_kpoints(given.structure, expected)
    found = int(np.prod(given.kpoints.kpts[0])) if len(given.kpoints.kpts) == 1 else given.nkpoints
    if found < np.floor(_KPOINT_TOLERANCE * least):
        return f"{found} k-points in the grid; the set has {least}"
    return None


def _least_kpoints(structure: Structure, expected: Expected) -> int:
    from pymatgen.io.vasp.inputs import Kpoints

    if expected.kspacing is not None:
        reciprocal = np.array(structure.lattice.reciprocal_lattice.abc)
        return int(np.prod(np.maximum(1, np.ceil(reciprocal / expected.kspacing))))
    density = int(expected.kpoint_density or 0)
    grid = Kpoints.automatic_density_by_vol(structure, density, force_gamma=True)
    return int(np.prod(grid.kpts[0]))


def _corrections(folder: Path) -> list[str]:
    """Names of the errors that custodian has met, in order."""
    try:
        runs = json.loads((folder / "custodian.json").read_text(encoding="utf-8"))
        return [str(name) for run in runs for made in run["corrections"] for name in made["errors"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
