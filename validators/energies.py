"""The one place where energies of different origin are made comparable.

The common scheme is the Materials Project's GGA/GGA+U hull: PBE or PBE+U energies with the corrections
of MP2020 (A. Wang et al., Sci. Rep. 11, 15496 (2021), doi:10.1038/s41598-021-94550-5), as formation
energies in eV/atom against the elements in their MP reference states. A potential either learned
energies that carry these corrections already, or raw ones to which they must be added: doing neither or
both is wrong by up to 0.9 eV/atom for oxides with +U. So every potential is listed here, or refused.

A potential of another functional (r2SCAN) cannot come to that scheme: its energies may only be compared
with its own (`self_consistent`).
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from ..core.convert import to_structure
from ..core.elements import ATOMIC_NUMBERS
from ..core.errors import InputError
from ..core.levels import Hull
from ..core.mp2020 import anions_of, mp2020
from ..core.records import Failure, Reason
from ..core.schemes import Corrections, declared

if TYPE_CHECKING:
    from pymatgen.core import Composition

    from ..core.crystal import Crystal

log = logging.getLogger("heliodor.validators")


@dataclass(frozen=True)
class Scheme:
    """How the energies of a potential come to the scheme of the Materials Project, if they can.

    Args:
        model: as in `core.records.Relaxed.model`.
        adds_mp2020: the potential gives raw energies, so MP2020 is added; False: they carry it.
        corrections: for `HullPoint.corrections`.
        mean_error: mean absolute error left, eV/atom: formation energies of 350 Materials Project
            crystals at their DFT geometry, single points. None: not comparable.
        comparable: False: another functional; only the potential's own energies may stand beside it.
    """

    model: str
    adds_mp2020: bool
    corrections: str
    mean_error: float | None = None
    comparable: bool = True


SCHEMES: Mapping[str, Scheme] = {
    s.model: s
    for s in (
        Scheme(
            "chgnet-0.3.0", adds_mp2020=False, corrections="MP2020 (in the potential)", mean_error=0.021
        ),
        Scheme("sevennet-0", adds_mp2020=True, corrections="MP2020 (added)", mean_error=0.011),
        Scheme("sevennet-mf-0-pbe", adds_mp2020=True, corrections="MP2020 (added)", mean_error=0.018),
        Scheme("sevennet-mf-0-r2scan", adds_mp2020=False, corrections="none (r2SCAN)", comparable=False),
    )
}
"""Potentials whose energies have a known scheme."""

_DECLARED: Mapping[Corrections, str] = {
    "included": "MP2020 (in the potential, as declared)",
    "mp2020": "MP2020 (added, as declared)",
    "own": "none (own scheme)",
}


@dataclass(frozen=True)
class FormationEnergy:
    """Formation energy on the scheme of its references.

    Args:
        value: eV/atom.
        corrections: how it was made comparable.
        uncertain: the correction had to be guessed in a case where the guess is known to fail.
    """

    value: float
    corrections: str
    uncertain: bool


@dataclass(frozen=True)
class Correction:
    """MP2020 correction of a cell: energy in eV, and whether it is known to be unreliable."""

    energy: float
    uncertain: bool


def scheme_of(model: str) -> Scheme:
    """How to treat the energies of a potential: a listed one, or one whose model name says it.

    Raises:
        InputError: the potential is not listed; lists those that are.
    """
    if (kind := declared(model)) is not None:
        return Scheme(model, kind == "mp2020", _DECLARED[kind], comparable=kind != "own")
    try:
        return SCHEMES[model]
    except KeyError:
        raise InputError(
            f"model: got {model!r}; whether its energies carry the MP2020 corrections is not known, so "
            f"they cannot stand on the Materials Project's hull; known: {', '.join(sorted(SCHEMES))}",
            hint="use a listed potential, or a relaxer of kind 'none' to skip the hull",
        ) from None


def require_comparable(model: str, hull: Hull = "GGA_GGA+U") -> None:
    """Refuse a potential whose energies cannot stand on a hull.

    Raises:
        InputError: another functional, or the potential is not listed. No potential's energies are on
            the Materials Project's R2SCAN scheme: those that learned r2SCAN are on one of their own.
    """
    if hull != "GGA_GGA+U":
        raise InputError(
            f"model: {model} cannot be compared with energies of the {hull} hull",
            hint="give the reference 'thermo_type: GGA_GGA+U', or 'energies: own'",
        )
    if not scheme_of(model).comparable:
        raise InputError(
            f"model: {model} is of another functional than the Materials Project's GGA/GGA+U hull; "
            "its energies can only be compared with its own",
            hint="give the reference 'energies: own' (kinds file and mp): known phases computed with it",
        )


@cache
def elemental_energies() -> Mapping[int, float]:
    """Energy of each element in its MP reference state, eV/atom, by atomic number (PBE, 89 elements)."""
    text = resources.files(__package__).joinpath("data/mp_elemental_energies.json").read_text("utf-8")
    return {ATOMIC_NUMBERS[s]: float(e) for s, e in json.loads(text)["energies"].items()}


def without_reference(key: str, crystal: Crystal, references: Mapping[int, float]) -> Failure | None:
    """A failure that names the elements of a crystal without a reference energy, if there are any."""
    unknown = [s for s in crystal.elements if ATOMIC_NUMBERS[s] not in references]
    if not unknown:
        return None
    detail = f"there is no elemental reference for {', '.join(unknown)}"
    return Failure(key, Reason.NO_REFERENCE, detail)


def formation_energy(
    model: str, crystal: Crystal, energy: float, references: Mapping[int, float] | None = None
) -> FormationEnergy | Failure:
    """Formation energy of a crystal from a potential's energy.

    Args:
        model: the potential, one of `SCHEMES`.
        crystal: the crystal at which the energy was computed.
        energy: eV per cell, as the potential gives it.
        references: energy of each element, eV/atom, by atomic number, on the potential's scheme; None:
            the Materials Project's.

    Returns:
        The formation energy, or a failure: an energy that is not finite, an element without a reference,
        a correction that cannot be worked out.

    Raises:
        InputError: the potential is not listed, or not comparable and no references are given.
    """
    scheme = scheme_of(model)
    if references is None:
        require_comparable(model)
        references = elemental_energies()
    if not math.isfinite(energy):
        return Failure(crystal.digest, Reason.ENERGY, f"the energy is {energy}")
    if (failure := without_reference(crystal.digest, crystal, references)) is not None:
        return failure
    correction = Correction(0.0, uncertain=False)
    if scheme.adds_mp2020:
        try:
            correction = mp2020_correction(crystal)
        except (
            Exception
        ) as error:  # pymatgen raises many types for odd crystals; one must not stop a batch
            log.debug("MP2020 correction of %s failed", crystal, exc_info=True)
            detail = f"MP2020: {type(error).__name__}: {str(error)[:200]}"
            return Failure(crystal.digest, Reason.CORRECTION, detail)
    total = energy + correction.energy - sum(references[z] for z in crystal.atomic_numbers.tolist())
    return FormationEnergy(total / len(crystal), scheme.corrections, correction.uncertain)


def mp2020_correction(crystal: Crystal) -> Correction:
    """MP2020 correction of a raw energy, as if computed with the Materials Project's settings.

    Those are PBE, with +U on V, Cr, Mn, Fe, Co, Ni, Mo, W in compounds whose most electronegative
    element is O or F. Which elements are anions, and when that is uncertain: `core.mp2020.anions_of`.

    Raises:
        Exception: pymatgen cannot place the crystal; `formation_energy` turns it into a failure.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = to_structure(crystal)
    if len(structure.composition) == 1:
        return Correction(0.0, uncertain=False)
    hubbards = _hubbards(structure.composition)
    anions = anions_of(crystal)
    entry = ComputedStructureEntry(
        structure,
        0.0,
        parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards},
        data=anions.as_data(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a failed guess is in the result
        energy = sum(adjustment.value for adjustment in mp2020().get_adjustments(entry))
    return Correction(float(energy), anions.uncertain)


def _hubbards(composition: Composition) -> dict[str, float]:
    """The U values (eV) that the Materials Project would have used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity
        # sorted, not max: where a noble gas has none, this must agree with pymatgen's choice
        most_electronegative = sorted(composition, key=lambda e: e.X)[-1].symbol  # noqa: FURB192
    settings = mp2020().u_settings.get(most_electronegative, {})
    return {e.symbol: float(settings[e.symbol]) for e in composition if e.symbol in settings}
