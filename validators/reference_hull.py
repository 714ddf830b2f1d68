"""Corrected DFT energies on the Materials Project's GGA/GGA+U hull."""

from __future__ import annotations

from ..core.elements import SYMBOLS
from ..core.errors import InputError, ReferenceUnavailableError
from ..core.protocols import Reference
from ..core.records import DftResult, Failure, HullPoint, Reason
from .energies import elemental_energies
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
    numbers = crystal.atomic_numbers.tolist()
    if unknown := sorted({SYMBOLS[z] for z in numbers if z not in elements}):
        detail = f"there is no elemental reference for {', '.join(unknown)}"
        return Failure(result.key, Reason.NO_REFERENCE, detail)
    try:
        phases = reference.entries(crystal.elements)
    except ReferenceUnavailableError as error:
        return Failure(result.key, Reason.NO_REFERENCE, error.message)
    formation = (energy - sum(elements[z] for z in numbers)) / len(numbers)
    states = Hull(phases).ground_states([crystal.reduced_composition])
    distance = formation - float(states.energies[0])
    return HullPoint(
        key=result.key,
        energy_above_hull=max(0.0, distance),
        decomposition_energy=distance,
        formation_energy_per_atom=formation,
        decomposition=states.decomposition(0),
        level=level.name,
        corrections="MP2020 (added)",
        reference=f"{info.name} {info.digest[:12]}",
        coverage=info.coverage,
        uncertain=uncertain,
    )
