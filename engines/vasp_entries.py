"""VASP results as entries that may stand on the Materials Project's GGA/GGA+U hull.

Only new entries are corrected: the Materials Project's own carry the corrections already.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING

from ..core.convert import from_structure, to_structure
from ..core.errors import InputError
from ..core.mp2020 import anions_of, mp2020
from ..core.records import DftResult, Failure, Reason
from .vasp_results import brief

if TYPE_CHECKING:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

logger = logging.getLogger("heliodor.engines")

_PARAMETERS = ("run_type", "is_hubbard", "hubbards", "potcar_spec")


def computed_entry(result: DftResult) -> ComputedStructureEntry:
    """The uncorrected entry; `data["level"]` says what it may be compared with.

    Raises:
        InputError: the result is not of VASP, or did not converge.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    if result.entry is None:
        raise InputError(f"{result.crystal.formula}: a result of {result.level.name}, not of VASP")
    if not result.converged:
        raise InputError(f"{result.crystal.formula}: its calculation did not converge")
    return ComputedStructureEntry(
        to_structure(result.crystal),
        result.energy,
        parameters={name: copy.deepcopy(result.entry[name]) for name in _PARAMETERS},
        data={
            "key": result.key,
            "level": result.level.as_dict(),
            "oxide_type": result.entry["oxide_type"],
            "aspherical": result.entry["aspherical"],
        },
        entry_id=f"heliodor-{result.key[:12]}",
    )


def corrected(entry: ComputedStructureEntry) -> ComputedStructureEntry | Failure:
    """A copy of the entry with the MP2020 corrections; `data["correction_uncertain"]` says if they are.

    The potentials must be MPRelaxSet's and U its values, or there is no correction, but a failure. A
    correction that is there already is replaced, not added to.

    Raises:
        InputError: the energy is of a level that the GGA/GGA+U hull does not take.
    """
    level = entry.data.get("level", {})
    if level.get("hull") != "GGA_GGA+U":
        found = f"{level.get('functional')}, hull {level.get('hull')}" if level else "no level"
        raise InputError(
            f"{entry.reduced_formula}: got an energy of {found}; MP2020 corrects VASP's PBE and PBE+U of"
            " the hull GGA_GGA+U",
            hint="compare it with energies of its own level only",
        )
    made = copy.deepcopy(entry)
    made.energy_adjustments = []
    try:
        anions = anions_of(from_structure(made.structure))
        made.data |= anions.as_data() | {"correction_uncertain": anions.uncertain}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a failed guess of oxidation states is in the data
            made.energy_adjustments = mp2020(check_potcar=True).get_adjustments(made)
    except Exception as error:  # pymatgen raises many types for entries that it does not take
        logger.debug("MP2020 does not take %s", entry.entry_id, exc_info=True)
        detail = brief(error).split(" for {")[0]  # pymatgen appends the whole entry
        return Failure(str(entry.data.get("key", "")), Reason.CORRECTION, f"MP2020: {detail}")
    return made
