"""Any ASE calculator as a potential: found by entry point or by module, checked, made in the workers.

The way in for what has no adapter of its own here (MACE, ORB, MatterSim, ...): a calculator has its
own neighbour lists and evaluates one crystal at a time, so it is slower than the potentials with one.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from ..core.choices.relaxers import AseChoice
from ..core.convert import to_atoms
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS
from ..core.errors import InputError
from ..core.schemes import declare
from .neighbors import Neighbors
from .potentials import Evaluation

GROUP = "heliodor.calculators"
_NEEDED = ("energy", "forces", "stress")


def find_factory(name: str) -> Callable[..., Any]:
    """What makes the calculator: an entry point of `heliodor.calculators`, or "module:factory".

    Raises:
        InputError: there is no such entry point, the module cannot be imported or lacks the factory, or
            it is a class of calculators that know no stress.
    """
    factory = _imported(*name.split(":", 1)) if ":" in name else _entry_point(name)
    if not callable(factory):
        raise InputError(f"relaxer.calculator: got {name!r}, which is a {type(factory).__name__}")
    if inspect.isclass(factory):
        _refuse_without_stress(name, getattr(factory, "implemented_properties", ()))
    made: Callable[..., Any] = factory
    return made


def _imported(module: str, attribute: str) -> Any:
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except AttributeError as error:
        raise InputError(f"relaxer.calculator: got '{module}:{attribute}', but {error}") from error
    except Exception as error:  # importing runs the module: anything may come out
        raise InputError(
            f"relaxer.calculator: module {module!r} cannot be imported: {error}",
            hint="install its package into this environment",
        ) from error


def _entry_point(name: str) -> Any:
    known = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in known:
        raise InputError(
            f"relaxer.calculator: got {name!r}; entry points of {GROUP}: "
            f"{', '.join(sorted(known)) or 'none is installed'}",
            hint="or write module:factory, such as ase.calculators.emt:EMT",
        )
    try:
        return known[name].load()
    except Exception as error:
        raise InputError(
            f"relaxer.calculator: entry point {name!r} cannot be imported: {error}"
        ) from error


def _refuse_without_stress(name: str, implemented: Sequence[str]) -> None:
    lacking = [p for p in _NEEDED if implemented and p not in implemented]
    if lacking:
        raise InputError(
            f"relaxer.calculator: {name!r} does not compute {' and '.join(lacking)}, which a relaxation "
            "of atoms and cell needs",
            hint="use a calculator with energy, forces and stress",
        )


@dataclass(frozen=True)
class CalculatorInfo:
    """Facts about a calculator, as the settings give them. See `PotentialInfo`.

    Raises:
        InputError: the calculator is not there.
    """

    choice: AseChoice

    def __post_init__(self) -> None:
        find_factory(self.choice.calculator)

    @property
    def model(self) -> str:
        """Name for the records; it says how the energies compare."""
        return declare(self.choice.model, self.choice.corrections)

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers; all where the settings do not say."""
        known = self.choice.elements
        return frozenset(range(1, 119) if known is None else (ATOMIC_NUMBERS[s] for s in known))

    @property
    def energies(self) -> tuple[float, float]:
        """Range of energies, eV/atom."""
        return self.choice.energies

    def provenance(self) -> dict[str, str]:
        """Where the calculator comes from, and what it is made with."""
        factory = find_factory(self.choice.calculator)
        package = str(getattr(factory, "__module__", "")).partition(".")[0]
        names = metadata.packages_distributions().get(package, [])
        return {
            "model": self.model,
            "calculator": self.choice.calculator,
            "options": json.dumps(self.choice.options, sort_keys=True, default=str),
            "package": ", ".join(f"{n} {metadata.version(n)}" for n in dict.fromkeys(names)),
        }


class CalculatorPotential:
    """A calculator behind the `Potential` protocol, one crystal after another.

    Raises:
        InputError: it is not there, cannot be made with these options, or lacks the stress.
    """

    def __init__(self, choice: AseChoice) -> None:
        factory = find_factory(choice.calculator)
        try:
            self._calculator = factory(**choice.options)
        except Exception as error:
            raise InputError(
                f"relaxer.calculator: {choice.calculator!r} could not be made with options "
                f"{choice.options}: {type(error).__name__}: {error}"
            ) from error
        _refuse_without_stress(
            choice.calculator, getattr(self._calculator, "implemented_properties", ())
        )
        self.cutoff = choice.cutoff

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """See `Potential`."""
        return [self._single(crystal) for crystal, _ in batch]

    def _single(self, crystal: Crystal) -> Evaluation:
        atoms = to_atoms(crystal)
        atoms.calc = self._calculator
        energy = float(atoms.get_potential_energy())
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        return Evaluation(energy, forces, np.array(atoms.get_stress(voigt=False), dtype=np.float64))
