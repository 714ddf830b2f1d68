"""Can the elements be had, and handled? Supply, abundance and hazards as columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ..core.columns import Column, Value
from ..core.elements import SYMBOLS
from ..core.records import Judged
from .chemistry import by_composition
from .oxidation import assign
from .phases import Composition

RADIOACTIVE = frozenset({43, 61, *range(84, 119)})
"""Atomic numbers of the elements without a stable isotope. Bismuth counts as stable: 2e19 years
(de Marcillac et al., Nature 422, 876 (2003))."""

_HHI = "Gaultois et al., Chem. Mater. 25, 2911 (2013); values as SMACT ships them"
_HHI_LIMITS = (
    "as of 2011; above 2500 is held to be concentrated; null where the paper has no value: H, Tc, some "
    "noble gases and from Po on"
)
_CLP = "group entries of Regulation (EC) 1272/2008, Annex VI, Table 3"


class Supply:
    """Market concentration, abundance and hazards of the elements; 0.02 ms a crystal."""

    name = "supply"
    columns = (
        Column(
            "hhi_production",
            "float64",
            "Herfindahl-Hirschman index of the producing countries, mean over the mass; 0 to 10000",
            "",
            _HHI,
            _HHI_LIMITS,
        ),
        Column(
            "hhi_reserve",
            "float64",
            "the same of the countries that hold the reserves",
            "",
            _HHI,
            _HHI_LIMITS,
        ),
        Column("scarcest_element", "string", "its element that is rarest in the Earth's crust"),
        Column(
            "crustal_abundance",
            "float64",
            "abundance of that element in the Earth's crust",
            "mg/kg",
            "CRC Handbook, 92nd edition (2011), as SMACT ships it",
            "null, as the element is, where an element has no value: Ru, Tc, Pm, At, Rn, Fr, from Np on",
        ),
        Column(
            "restricted",
            "boolean",
            "has an element that the EU restricts in electrical equipment: Cd, Hg, Pb, Cr(VI)",
            "",
            "Directive 2011/65/EU (RoHS), Annex II",
            "exemptions exist; Cr(VI) by `oxidation_states`",
        ),
        Column(
            "toxic",
            "boolean",
            "has an element whose compounds as a group are classed as toxic when swallowed or "
            "breathed in, as carcinogenic or harmful to the unborn: As, Be, Cr(VI), Hg, Pb, Se, Tl, U",
            "",
            _CLP,
            "a class for labels, no measurement of this crystal; compounds that the annex lists one "
            "by one (of Cd, Co, Ni, Te, V ...) are not told, nor merely harmful groups (Ba, Sb)",
        ),
        Column(
            "radioactive",
            "boolean",
            "has an element without a stable isotope: Tc, Pm, and from Po on",
            "",
            "Bi counts as stable (Nature 422, 876 (2003))",
        ),
    )

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return by_composition(batch, supply)


def supply(composition: Composition) -> dict[str, Value]:
    """The columns of a composition."""
    scarcest = _scarcest(composition)
    return {
        "hhi_production": _by_mass(composition, "hhi_production"),
        "hhi_reserve": _by_mass(composition, "hhi_reserve"),
        "scarcest_element": scarcest[1] if scarcest else None,
        "crustal_abundance": scarcest[0] if scarcest else None,
        "restricted": _listed(composition, "restricted"),
        "toxic": _listed(composition, "toxic"),
        "radioactive": any(z in RADIOACTIVE for z, _ in composition),
    }


@dataclass(frozen=True)
class _Element:
    """Mass in u, indices, abundance in mg/kg."""

    mass: float
    hhi_production: float | None
    hhi_reserve: float | None
    abundance: float | None


@cache
def _element(z: int) -> _Element:
    from smact import Element

    if z > 103:  # SMACT ends there
        return _Element(0.0, None, None, None)
    found = Element(SYMBOLS[z])
    return _Element(
        float(found.mass),
        found.HHI_p,
        found.HHI_r,
        found.crustal_abundance,
    )


def _by_mass(composition: Composition, name: str) -> float | None:
    """Mean of a value over the mass of a composition, as the paper weighs it."""
    total = weight = 0.0
    for z, count in composition:
        element = _element(z)
        value = getattr(element, name)
        if value is None:
            return None
        total += value * element.mass * count
        weight += element.mass * count
    return total / weight


def _scarcest(composition: Composition) -> tuple[float, str] | None:
    """Abundance (mg/kg) and symbol of the rarest element."""
    found = []
    for z, _ in composition:
        abundance = _element(z).abundance
        if abundance is None:
            return None
        found.append((float(abundance), SYMBOLS[z]))
    return min(found)


def _listed(composition: Composition, kind: str) -> bool:
    """Whether an element, in the oxidation state that the list names, is listed."""
    listed = _hazards()[kind]
    present = {SYMBOLS[z] for z, _ in composition} & listed.keys()
    for symbol in present:
        state = listed[symbol]
        if state is None:
            return True
        found = assign(composition)
        if found is not None and (symbol, state) in {(s, q) for s, q, _ in found.states}:
            return True
    return False


@cache
def _hazards() -> dict[str, dict[str, int | None]]:
    """By list: its elements, each with the oxidation state that is meant, or null for all."""
    text = resources.files(__package__).joinpath("data/hazards.json").read_text("utf-8")
    lists = json.loads(text)
    return {kind: {entry["element"]: entry.get("state") for entry in lists[kind]} for kind in lists}
