"""The DFT codes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.choices import dft
from ..core.errors import InputError
from .recipe import Recipe


def recipe_of(name: str, options: Mapping[str, Any]) -> Recipe:
    """The recipe that made a calculation, from what its manifest says.

    Raises:
        InputError: no such recipe, or options that it does not know.
        MissingError: what it needs is not installed.
    """
    known = {"abinit": _abinit, "gpaw": _gpaw, "mlip": _mlip, "vasp": _vasp}
    if name not in known:
        raise InputError(f"no DFT engine {name!r}", hint=f"there are {', '.join(known)}")
    try:
        return known[name](**options)
    except TypeError as error:
        raise InputError(f"the DFT engine {name!r} does not know these options: {error}") from error


def recipe_for(
    choice: dft.AbinitChoice | dft.GpawChoice | dft.MlipDftChoice | dft.VaspChoice,
) -> Recipe:
    """The recipe that a campaign file names.

    Raises:
        InputError, MissingError: it cannot be made as asked.
    """
    shared = set(dft.DftRun.model_fields) | {"kind"}
    return recipe_of(choice.kind, choice.model_dump(exclude=shared))


def _abinit(**options: Any) -> Recipe:
    from .abinit import AbinitRecipe

    return AbinitRecipe(**options)


def _gpaw(**options: Any) -> Recipe:
    from .gpaw import GpawRecipe

    return GpawRecipe(**options)


def _mlip(**options: Any) -> Recipe:
    from .mlip_recipe import MlipRecipe

    return MlipRecipe(**options)


def _vasp(**options: Any) -> Recipe:
    from .vasp_recipe import VaspRecipe

    return VaspRecipe(**options)
