"""Ordered crystals from partly occupied sites: the order of lowest electrostatic energy.

The smallest supercell in which every occupancy is a whole number of atoms; in it, pymatgen's
OrderDisorderedStructureTransformation (S. P. Ong et al., Comput. Mater. Sci. 68, 314 (2013)) finds the
order of lowest Ewald energy with oxidation states guessed from the composition. Where none can be
guessed (alloys), the energies are all the same and the order is one of many: it says so.

An ordered crystal stands for a disordered phase only as one of its configurations: it has no entropy of
mixing, and another order may lie lower.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import TYPE_CHECKING

from ..core.convert import ConversionError, from_structure
from ..core.crystal import Crystal
from ..core.records import Reason

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_ATOMS = 64
"""In the supercell."""
MAX_MIXED_SITES = 16
"""In the supercell: at most 12,870 orders of two kinds."""
MAX_SPECIES = 6
_MAX_CELLS = 8
_TOLERANCE = 0.02  # of an occupancy, as files round them


def order_structure(structure: Structure) -> tuple[Crystal, str]:
    """The ordered crystal, and how it was made, in words.

    Raises:
        ConversionError: DISORDERED, beyond the limits above, or no order was found.
    """
    formula = structure.composition.reduced_formula
    if len(structure.composition) > MAX_SPECIES:
        raise _refused(formula, f"more than {MAX_SPECIES} elements")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bare = structure.copy().remove_oxidation_states()
            cells = _supercell(bare, formula)
            large = bare.make_supercell(cells, in_place=False)
            _whole(large)
            charged = _charge(large)
            ordered = _lowest(large, charged=charged)
        except ConversionError:
            raise
        except Exception as error:  # of any kind, from pymatgen on odd occupancies
            raise _refused(formula, f"{type(error).__name__}: {error}") from error
    times = "x".join(map(str, cells))
    how = "lowest Ewald energy" if charged else "no charges: one order of many"
    return from_structure(ordered), f"ordered, {times} cells, {how}"


def _supercell(structure: Structure, formula: str) -> tuple[int, int, int]:
    """The smallest multiple of the cell that makes occupancies whole; of these the most compact."""
    counts = _amounts(structure)
    mixed = sum(not site.is_ordered for site in structure)
    for n in range(1, _MAX_CELLS + 1):
        if any(abs(n * a - round(n * a)) > n * _TOLERANCE * k for a, k in counts):
            continue
        if n * mixed > MAX_MIXED_SITES or n * len(structure) > MAX_ATOMS:
            break
        each = range(1, n + 1)
        shapes = [(a, b, c) for a, b, c in product(each, each, each) if a * b * c == n]
        lengths = structure.lattice.abc
        return min(shapes, key=lambda s: max(m * x for m, x in zip(s, lengths, strict=True)))
    raise _refused(
        formula,
        f"its occupancies need more than {_MAX_CELLS} cells, {MAX_MIXED_SITES} mixed sites or "
        f"{MAX_ATOMS} atoms to order",
    )


def _amounts(structure: Structure) -> list[tuple[float, int]]:
    """(atoms of a species over all sites of one kind, number of those sites)."""
    kinds: dict[object, int] = {}
    for site in structure:
        if not site.is_ordered:
            kinds[site.species] = kinds.get(site.species, 0) + 1
    found = []
    for species, k in kinds.items():
        found += [(k * amount, k) for amount in species.values()]  # type: ignore[attr-defined]
        found.append((k * sum(species.values()), k))  # type: ignore[attr-defined]
    return found


def _whole(structure: Structure) -> None:
    """Occupancies at exactly the fractions that make whole atoms."""
    kinds: dict[object, list[int]] = {}
    for i, site in enumerate(structure):
        if not site.is_ordered:
            kinds.setdefault(site.species, []).append(i)
    for species, sites in kinds.items():
        k = len(sites)
        exact = {s: round(k * x) / k for s, x in species.items()}  # type: ignore[attr-defined]
        for i in sites:
            structure[i] = {s: x for s, x in exact.items() if x > 0}


def _charge(structure: Structure) -> bool:
    """Add guessed oxidation states; whether there are any other than zero."""
    from pymatgen.core import Composition

    amounts = {s: round(n) for s, n in structure.composition.get_el_amt_dict().items()}
    guesses = Composition(amounts).oxi_state_guesses(max_sites=-1)
    if not guesses or not any(guesses[0].values()):
        return False
    structure.add_oxidation_state_by_element(guesses[0])
    return True


def _lowest(structure: Structure, *, charged: bool) -> Structure:
    from pymatgen.transformations.standard_transformations import OrderDisorderedStructureTransformation

    transform = OrderDisorderedStructureTransformation(no_oxi_states=not charged)
    ordered = transform.apply_transformation(structure, return_ranked_list=False)
    if isinstance(ordered, list):  # not without a ranked list, but pymatgen's types allow it
        raise TypeError("a list of structures")
    return ordered.remove_oxidation_states().get_sorted_structure()


def _refused(formula: str, why: str) -> ConversionError:
    return ConversionError(Reason.DISORDERED, f"partial occupancies in {formula}; not ordered: {why}")
