"""From total energies (ComputedStructureEntry) to phases with formation energies.

Two things may go wrong without a word and are refused here: energies of another level than GGA/GGA+U,
and energies without the MP2020 corrections that the hull's other phases and the candidates carry.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.convert import ConversionError, from_structure
from ..core.elements import SYMBOLS
from ..core.errors import InputError
from ..core.protocols import Phase
from ..core.records import Reason
from .energies import elemental_energies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from ..core.crystal import Crystal

log = logging.getLogger("heliodor.validators")

FORMATION = "formation_energy_per_atom"
_GGA = ("GGA", "GGA+U")
_CORRECTED = ("O", "F")  # MP2020 corrects every compound of these, whatever the oxidation states

Item = tuple[str, "ComputedStructureEntry", "Crystal"]


def phases_from_entries(
    path: Path, documents: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Phase, ...], str, dict[str, int]]:
    """Phases, the origin of their formation energies in words, and the rows left out by reason.

    In this order: `data["formation_energy_per_atom"]` where every entry has it; else from the
    (corrected) energies against the elements in the file, where each element has an entry of its own;
    else against the Materials Project's elements, where every entry declares run type GGA or GGA+U.

    Raises:
        InputError: a document is no entry; another run type; compounds without MP2020 corrections; an
            element without a reference.
    """
    items, skipped = _read(path, documents)
    entries = [entry for _, entry, _ in items]
    if all(FORMATION in entry.data for entry in entries):
        values, origin = [_given(path, entry) for entry in entries], "as given in the file"
    else:
        _require_scheme(path, entries)
        references, origin = _references(path, entries)
        values = [_formation(entry, references) for entry in entries]
    phases = tuple(
        Phase(material_id, crystal.reduced_composition, value, None, crystal)
        for (material_id, _, crystal), value in zip(items, values, strict=True)
    )
    return phases, origin, skipped


def elemental_minima(entries: Iterable[ComputedStructureEntry]) -> dict[str, float]:
    """The lowest energy of each element among the entries of pure elements, eV/atom."""
    minima: dict[str, float] = {}
    for entry in entries:
        if len(entry.composition) == 1:
            symbol = entry.composition.elements[0].symbol
            minima[symbol] = min(entry.energy_per_atom, minima.get(symbol, np.inf))
    return minima


def formation_from_elements(entry: ComputedStructureEntry, references: Mapping[str, float]) -> float:
    """Formation energy in eV/atom from an entry's corrected energy.

    Raises:
        KeyError: an element has no reference.
    """
    amounts = entry.composition.get_el_amt_dict()
    reference = sum(references[symbol] * n for symbol, n in amounts.items())
    return float((entry.energy - reference) / entry.composition.num_atoms)


def _read(path: Path, documents: Sequence[Mapping[str, Any]]) -> tuple[list[Item], dict[str, int]]:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    items: list[Item] = []
    skipped: Counter[str] = Counter()
    for i, document in enumerate(documents):
        try:
            entry = ComputedStructureEntry.from_dict(dict(document))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: item {i} is no ComputedStructureEntry ({type(error).__name__}: {error})",
                hint="write the file with json.dump([entry.as_dict() for entry in entries], file)",
            ) from error
        try:
            crystal = from_structure(entry.structure)
        except ConversionError as error:
            disordered = error.reason is Reason.DISORDERED
            skipped["partial occupancies" if disordered else "no crystal can be made of them"] += 1
            log.debug("%s: item %d: %s", path.name, i, error)
            continue
        material_id = entry.data.get("material_id") or entry.entry_id or f"item-{i}"
        items.append((str(material_id), entry, crystal))
    return items, dict(skipped)


def _given(path: Path, entry: ComputedStructureEntry) -> float | None:
    value = entry.data[FORMATION]
    if value is None or np.isnan(value):
        return None
    if not np.isfinite(value):
        raise InputError(f"{path}: {entry.entry_id}: {FORMATION} is {value}")
    return float(value)


def _require_scheme(path: Path, entries: Sequence[ComputedStructureEntry]) -> None:
    """Refuse energies of another level, and compounds without their corrections."""
    declared = {entry.parameters.get("run_type") for entry in entries} - {None}
    foreign = sorted(str(r) for r in declared - set(_GGA))
    if foreign:
        raise InputError(
            f"{path}: run_type {', '.join(foreign)}; energies of this level cannot be compared with the "
            f"potentials' (GGA/GGA+U); allowed: {', '.join(_GGA)}",
            hint=f"or give each entry data['{FORMATION}'] on the GGA/GGA+U scheme",
        )
    compounds = [
        e for e in entries if len(e.composition) > 1 and any(s in e.composition for s in _CORRECTED)
    ]
    bare = [e for e in compounds if not e.energy_adjustments]
    if bare:
        raise InputError(
            f"{path}: {len(bare)} of {len(compounds)} oxides and fluorides carry no MP2020 corrections, "
            f"the first is {bare[0].entry_id or bare[0].reduced_formula}",
            hint="run MaterialsProject2020Compatibility().process_entries(entries), then write the file",
        )


def _references(path: Path, entries: Sequence[ComputedStructureEntry]) -> tuple[dict[str, float], str]:
    """Elemental references in eV/atom for all entries, and their origin; never of two origins."""
    own = elemental_minima(entries)
    needed = {e.symbol for entry in entries for e in entry.composition}
    lacking = sorted(needed - set(own))
    if not lacking:
        return own, "from total energies, against the elements in the file"
    undeclared = sum(entry.parameters.get("run_type") not in _GGA for entry in entries)
    if undeclared:
        raise InputError(
            f"{path}: no entry of the pure element for {', '.join(lacking)}, and {undeclared} entries "
            "do not declare run_type GGA or GGA+U, so the Materials Project's elements cannot stand in",
            hint=f"add the elements, or parameters['run_type'], or data['{FORMATION}'] to each entry",
        )
    references = {SYMBOLS[z]: energy for z, energy in elemental_energies().items()}
    unknown = sorted(needed - set(references))
    if unknown:
        raise InputError(f"{path}: no elemental reference for {', '.join(unknown)}")
    return references, "from total energies (GGA/GGA+U), against the Materials Project's elements"


def _formation(entry: ComputedStructureEntry, references: Mapping[str, float]) -> float | None:
    value = formation_from_elements(entry, references)
    return value if np.isfinite(value) else None
