"""What kind of energies a potential of the user's own gives: said in its model name.

Every record of an energy carries the model name, so that the kind is never lost or assumed, whoever
reads the record later.
"""

from __future__ import annotations

from typing import Literal

Corrections = Literal["included", "mp2020", "own"]

_MARKS: dict[Corrections, str] = {
    "included": " [with MP2020]",  # energies carry the corrections of the Materials Project
    "mp2020": " [without MP2020]",  # raw PBE energies with its settings: they must be added
    "own": " [own scheme]",  # comparable with its own energies only
}


def declare(model: str, corrections: Corrections) -> str:
    """The model name for records, for example "mace-mp-0 [without MP2020]"."""
    return model + _MARKS[corrections]


def declared(model: str) -> Corrections | None:
    """What a model name says; None where it says nothing: a potential that Heliodor knows itself."""
    return next((kind for kind, mark in _MARKS.items() if model.endswith(mark)), None)
