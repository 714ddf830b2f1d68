"""DFT energies on the Materials Project's hulls: GGA/GGA+U with corrections, r2SCAN without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from ..core.errors import InputError, ReferenceUnavailableError
from ..core.protocols import Reference
from ..core.records import DftResult, Failure, HullPoint, Reason
from .energies import elemental_energies, without_reference
from .hull import Hull


@runtime_checkable
class KnowsElements(Protocol):
    """A reference that knows the total energies behind its formation energies."""

    def element_energies(self, elements: Iterable[str]) -> Mapping[int, float]:
        """Energy of each element's lowest phase, eV/atom, by atomic number; unknown ones are left out.

        Raises:
            ReferenceUnavailableError: the chemical system cannot be had; says why.
        """
        ...


def on_reference(
    reference: Reference, result: DftResult, energy: float, *, uncertain: bool
) -> HullPoint | Failure:
    """A DFT result against the hull of a reference; a failure where an element has no reference.

    Args:
        energy: eV of the cell; on the GGA/GGA+U hull with the corrections of MP2020.
        uncertain: they are known to be unreliable for this crystal.

    Raises:
        InputError: the energy is of a level that the reference's hull does not take.
    """
    info, level, crystal = reference.info, result.level, result.crystal
    if level.hull == "own" or info.hull != level.hull:
        raise InputError(
            f"{crystal.formula}: its energy is of {level.name}, hull {level.hull}; "
            f"'{info.name}' is a hull of {info.hull}",
            hint="only energies of one level can be compared",
        )
    corrected = level.hull == "GGA_GGA+U"
    elements: Mapping[int, float] = elemental_energies() if corrected else {}
    try:
        phases = reference.entries(crystal.elements)
        if not corrected and isinstance(reference, KnowsElements):
            elements = reference.element_energies(crystal.elements)
    except ReferenceUnavailableError as error:
        return Failure(result.key, Reason.NO_REFERENCE, error.message)
    if (failure := without_reference(result.key, crystal, elements)) is not None:
        return failure
    formation = (energy - sum(elements[z] for z in crystal.atomic_numbers.tolist())) / len(crystal)
    found = Hull(phases).query(crystal.reduced_composition, formation)
    return HullPoint(
        key=result.key,
        energy_above_hull=found.energy_above_hull,
        decomposition_energy=found.decomposition_energy,
        formation_energy_per_atom=formation,
        decomposition=found.decomposition,
        level=level.name,
        corrections="MP2020 (added)" if corrected else "none (all of one functional)",
        reference=f"{info.name} {info.digest[:12]}",
        coverage=info.coverage,
        uncertain=uncertain,
    )
