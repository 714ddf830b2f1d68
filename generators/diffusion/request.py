"""What may be asked of the model beyond elements, formula and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...core.errors import InputError

if TYPE_CHECKING:
    from ...core.crystal import Crystal
    from .planar import Held

CRYSTAL_SYSTEMS = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked for beyond `Conditions`.

    Args:
        symmetric: make crystals within the space groups of known ones (false: no symmetry imposed;
            where a formula is asked for, half of them).
        spacegroups: numbers; crystal_system: a name of `CRYSTAL_SYSTEMS`. Either implies `symmetric`.
        min_atoms: smallest cell. n_elements: exact number of different elements.
        charge_balanced: where elements are asked for, keep to what oxidation states can balance.
        targets: property -> value, or (low, high) to draw from.
        planar: a planar lattice to hold (see `planar.hold`).
        start: crystals to explore around; level: how far, in (0, 1]; keep_types: keep their elements.
    """

    symmetric: bool = True
    spacegroups: tuple[int, ...] = ()
    crystal_system: str | None = None
    min_atoms: int = 1
    n_elements: int | None = None
    charge_balanced: bool = True
    targets: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    planar: Held | None = None
    start: tuple[Crystal, ...] = ()
    level: float = 0.5
    keep_types: bool = False

    def groups(self) -> frozenset[int]:
        """Space groups asked for; empty: any.

        Raises:
            InputError: no such group or system, or both given and disjoint.
        """
        wrong = [g for g in self.spacegroups if not 1 <= g <= 230]
        if wrong:
            raise InputError(f"spacegroups: {wrong} are no space groups", hint="numbers from 1 to 230")
        groups = frozenset(self.spacegroups)
        if self.crystal_system is None:
            return groups
        if self.crystal_system not in CRYSTAL_SYSTEMS:
            raise InputError(
                f"crystal_system: '{self.crystal_system}'; known: {', '.join(CRYSTAL_SYSTEMS)}"
            )
        low, high = CRYSTAL_SYSTEMS[self.crystal_system]
        system = frozenset(range(low, high + 1))
        if groups and not groups & system:
            raise InputError(f"spacegroups {sorted(groups)} are not {self.crystal_system}")
        return groups & system if groups else system


def parse_targets(
    properties: Mapping[str, float | Sequence[float]],
) -> dict[str, float | tuple[float, float]]:
    """Targets as values or (low, high) ranges.

    Raises:
        InputError: a range that is not two rising numbers.
    """
    targets: dict[str, float | tuple[float, float]] = {}
    for name, value in properties.items():
        if isinstance(value, (int, float)):
            targets[name] = float(value)
            continue
        if len(value) != 2 or not value[0] < value[1]:
            raise InputError(f"properties.{name}: got {list(value)}; a number, or [low, high]")
        targets[name] = (float(value[0]), float(value[1]))
    return targets
