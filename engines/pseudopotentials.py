"""Pseudopotentials: what a file says it is, and which ones a chemical system is computed with.

ABINIT takes norm-conserving pseudopotentials or PAW datasets, never both in one run, so a chemical
system has one family throughout. The functional is read from the file's content, never from its name:
the same name exists with LDA.

Formats: the header of ABINIT's own files (docs.abinit.org/developers/psp8_info; the third line holds
pspcod and pspxc), and PAW-XML (esl.cecam.org/Paw-xml). PSML is not read: Debian's ABINIT lacks its
library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.elements import SYMBOLS
from ..core.errors import InputError

Family = Literal["norm-conserving", "PAW"]

_FAMILIES: tuple[Family, ...] = ("norm-conserving", "PAW")  # the first that has all elements is taken
_HEAD = 20_000  # characters: the header stands at the beginning, and PAW-XML files are large
_PBE_CODES = {11: "PBE", -101130: "PBE", -130101: "PBE"}  # ABINIT's ixc; libxc's 101 with 130
_XC_NAMES = {
    **dict.fromkeys(range(1, 11), "LDA"),
    **dict.fromkeys((-1012, -1009, -7, -20), "LDA"),
    14: "revPBE",
    15: "RPBE",
    23: "Wu-Cohen",
    -116133: "PBEsol",
    **_PBE_CODES,
}
_NORM_CONSERVING, _PAW_TEXT = (1, 2, 3, 4, 5, 6, 8, 10), (7,)  # pspcod


@dataclass(frozen=True)
class Header:
    """What a pseudopotential file says of itself.

    Args:
        element: its symbol. valence: electrons.
        functional: "PBE", or what it is instead, for a person.
    """

    element: str
    family: Family
    functional: str
    valence: float


def read_header(path: Path) -> Header:
    """Read the header of a pseudopotential.

    Raises:
        ValueError: not a pseudopotential in a format that is read. OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_HEAD)
    return _paw_xml(text) if re.search(r"<paw_(dataset|setup)\b", text) else _abinit(text)


def _paw_xml(text: str) -> Header:
    functional = re.search(r"<xc_functional\b[^>]*>", text)
    atom = re.search(r"<atom\b[^>]*>", text)
    if functional is None or atom is None:
        raise ValueError("a PAW-XML file without its functional or its atom")
    element, valence = _attribute(atom[0], "symbol"), _attribute(atom[0], "valence")
    kind, name = _attribute(functional[0], "type"), _attribute(functional[0], "name")
    if element not in SYMBOLS[1:]:
        raise ValueError(f"a PAW-XML file of no element ({element!r})")
    pbe = (kind, name) in {("GGA", "PBE"), ("GGA", "XC_GGA_X_PBE+XC_GGA_C_PBE")}
    return Header(element, "PAW", "PBE" if pbe else f"{kind} {name}", float(valence))


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}\s*=\s*"([^"]*)"', tag)
    return found[1].strip() if found else ""


def _abinit(text: str) -> Header:
    try:
        _, atom, codes = text.splitlines()[:3]
        number, valence = (float(word.lower().replace("d", "e")) for word in atom.split()[:2])
        pspcod, pspxc = (int(word) for word in codes.split()[:2])
    except ValueError as error:
        raise ValueError("not a pseudopotential that ABINIT reads") from error
    if not 1 <= number <= 118 or number != int(number):
        raise ValueError(f"a pseudopotential of no element (atomic number {number:g})")
    if pspcod not in (*_NORM_CONSERVING, *_PAW_TEXT):
        raise ValueError(f"a pseudopotential in a format that is not read (pspcod {pspcod})")
    family: Family = "PAW" if pspcod in _PAW_TEXT else "norm-conserving"
    name = _XC_NAMES.get(pspxc, "another functional")
    functional = name if name == "PBE" else f"{name}, pspxc {pspxc}"
    return Header(SYMBOLS[int(number)], family, functional, valence)


@dataclass(frozen=True)
class Pseudopotential:
    """A PBE pseudopotential or PAW dataset.

    Args:
        name: of the file in its set, for people.
        path: the file. sha256: its digest; two files of one name may differ.
        valence: electrons.
        cutoff: plane-wave cutoff in hartree at which energy differences are converged to 5 meV/atom.
        measured: the cutoff comes from a convergence test of this very file; else a careful default.
    """

    element: str
    family: Family
    name: str
    path: Path
    sha256: str
    valence: float
    cutoff: float
    measured: bool


@dataclass(frozen=True)
class PseudopotentialSet:
    """A named set.

    Args:
        name: for people, for example "abinit-data".
        found: family -> element -> pseudopotential; PBE only.
        refused: element -> why the file that there is cannot be taken.
    """

    name: str
    found: Mapping[Family, Mapping[str, Pseudopotential]]
    refused: Mapping[str, str]

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements that keep this chemical system from being computed, and why."""
        wanted = sorted(set(elements))
        missing = {
            e: self.refused.get(e, f"no PBE pseudopotential in {self.name}")
            for e in wanted
            if not any(e in members for members in self.found.values())
        }
        if missing or self._family(wanted) is not None:
            return missing
        best = max(_FAMILIES, key=lambda family: sum(e in self._members(family) for e in wanted))
        apart = [e for e in wanted if e not in self._members(best)]
        others = ", ".join(e for e in wanted if e not in apart)
        why = f"{self.name} has no {best} one, but only such for {others}; ABINIT does not mix families"
        return dict.fromkeys(apart, why)

    def choose(self, elements: Sequence[str]) -> dict[str, Pseudopotential]:
        """One pseudopotential per element, all of one family.

        Raises:
            InputError: an element cannot be computed; names it, and why.
        """
        wanted = sorted(set(elements))
        family = self._family(wanted)
        if family is None:
            lacking = self.unsupported(wanted)
            raise InputError(
                "cannot compute " + "; ".join(f"{e}: {why}" for e, why in lacking.items()),
                hint="pip install 'heliodor[gpaw-data]' (PAW sets of 83 elements), or name a folder of"
                " PBE pseudopotentials in dft.pseudopotentials",
            )
        return {e: self._members(family)[e] for e in wanted}

    def _family(self, elements: Sequence[str]) -> Family | None:
        return next((f for f in _FAMILIES if set(elements) <= set(self._members(f))), None)

    def _members(self, family: Family) -> Mapping[str, Pseudopotential]:
        return self.found.get(family, {})
