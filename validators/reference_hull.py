"""Corrected DFT energies on the Materials Project's GGA/GGA+U hull."""

from __future__ import annotations

from ..core.errors import InputError, ReferenceUnavailableError
from ..core.protocols import Reference
from ..core.records import DftResult, Failure, HullPoint, Reason
from .energies import elemental_energies, without_reference
from .hull import Hull


def on_reference(
    reference: Reference, result: DftResult, energy: float, *, uncertain: bool
) -> HullPoint | Failure:
    """A DFT result against the hull of a reference; a failure where an element has no reference.

    Args:
        energy: eV of the cell with the corrections of MP2020. uncertain: they are known to be
            unreliable for this crystal.

    Raises:
        InputError: the energy is of a level that the reference's hull does not take.
    """
    info, level, crystal = reference.info, result.level, result.crystal
    if level.hull != "GGA_GGA+U" or info.hull != level.hull:
        raise InputError(
            f"{crystal.formula}: its energy is of {level.name}, hull {level.hull}; "
            f"'{info.name}' is a hull of {info.hull}",
            hint="only energies of one level can be compared",
        )
    elements = elemental_energies()
    if (failure := without_reference(result.key, crystal, elements)) is not None:
        return failure
    try:
        phases = reference.entries(crystal.elements)
    except ReferenceUnavailableError as error:
        return Failure(result.key, Reason.NO_REFERENCE, error.message)
    formation = (energy - sum(elements[z] for z in crystal.atomic_numbers.tolist())) / len(crystal)
    found = Hull(phases).query(crystal.reduced_composition, formation)
    return HullPoint(
        key=result.key,
        energy_above_hull=found.energy_above_hull,
        decomposition_energy=found.decomposition_energy,
        formation_energy_per_atom=formation,
        decomposition=found.decomposition,
        level=level.name,
        corrections="MP2020 (added)",
        reference=f"{info.name} {info.digest[:12]}",
        coverage=info.coverage,
        uncertain=uncertain,
    )
