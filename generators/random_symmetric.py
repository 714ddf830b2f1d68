"""Symmetric random crystals: random Wyckoff positions in random space groups, by PyXtal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import __version__
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS
from ..core.errors import InputError, missing_extra
from ..core.records import Candidate, Conditions, Failure, Origin, Reason
from .compositions import Compositions, Counts
from .volume import cell_volume

_LOG = logging.getLogger("heliodor.generators")

_DRAWS = 200  # compositions and space groups per item until they go together
_TRIES = 5  # compositions and groups per item that are built
_CELLS = 2  # cell shapes per try, each with PyXtal's own ten sets of coordinates
_DISTANCE_FACTOR = 1.2  # PyXtal's limit is half the sum of covalent radii; this makes it 0.6
_VOLUME_RANGE = (0.95, 1.25)  # of the expected volume


class RandomGenerator:
    """Random crystals with symmetry (S. Fredericks et al., Comput. Phys. Commun. 261, 107810 (2021)).

    An item draws a composition, a space group that it can have, a cell near the volume that the
    elements take in known crystals, and Wyckoff positions until no atoms are too close. Item i depends
    on the seed and i alone. The number of tries is bounded; an item that gives nothing is a failure.

    Args:
        spacegroups: numbers to draw from, 1 to 230; empty means all.
        charge_balanced: only compositions that oxidation states can balance.
    """

    name = "random"

    def __init__(self, spacegroups: tuple[int, ...] = (), charge_balanced: bool = True) -> None:
        wrong = [g for g in spacegroups if not 1 <= g <= 230]
        if wrong:
            raise InputError(f"spacegroups: {wrong} are no space groups", hint="numbers from 1 to 230")
        self.spacegroups = tuple(spacegroups)
        self.charge_balanced = charge_balanced

    def generate(
        self, n: int, *, seed: int, conditions: Conditions, start: int = 0
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1`; the stream has no end.

        Raises:
            InputError: no composition or none of the space groups can serve the conditions.
            MissingError: PyXtal is not installed.
        """
        _require_pyxtal()
        compositions = Compositions(conditions, charge_balanced=self.charge_balanced)
        groups = self._groups_for(compositions)
        return (self._item(i, seed, compositions, groups) for i in range(start, start + n))

    def _groups_for(self, compositions: Compositions) -> Sequence[int]:
        if not self.spacegroups:
            return range(1, 231)
        some = compositions.listed(_DRAWS, np.random.default_rng(0))
        groups = [g for g in self.spacegroups if any(_compatible(g, _amounts(c)) for c in some)]
        if not groups:
            raise InputError(
                f"spacegroups: none of {list(self.spacegroups)} fits a composition of "
                f"{'-'.join(compositions.elements)} within the largest cell",
                hint="their Wyckoff positions need more atoms: raise max_atoms or give other groups",
            )
        if len(groups) < len(self.spacegroups):
            _LOG.info("space groups left out: %s", sorted(set(self.spacegroups) - set(groups)))
        return groups

    def _item(
        self, i: int, seed: int, compositions: Compositions, groups: Sequence[int]
    ) -> Candidate | Failure:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
        tries = 0
        detail = f"no composition fitted a space group in {_DRAWS} draws"
        for _ in range(_DRAWS):
            cell, group = compositions.draw(rng), int(rng.choice(groups))
            if not cell or not _compatible(group, _amounts(cell)):
                continue
            crystal = _build(cell, group, rng)
            formula = " ".join(f"{s}{n}" for s, n in cell)
            source = f"space group {group}, {formula}"
            if crystal is not None:
                return Candidate(crystal, Origin(self.name, __version__, seed, i, source=source))
            tries += 1
            detail = f"atoms too close in {tries} tries, last {source}"
            if tries == _TRIES:
                break
        origin = Origin(self.name, __version__, seed, i)
        return Failure("", Reason.GENERATION, detail, origin)


def _amounts(cell: Counts) -> tuple[int, ...]:
    return tuple(n for _, n in cell)


def _require_pyxtal() -> None:
    with _quiet():
        try:
            import pyxtal  # noqa: F401
        except ImportError as error:
            raise missing_extra("pyxtal", "random") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyXtal prints and warns while it tries."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=230)
def _group(number: int) -> Any:
    from pyxtal.symmetry import Group

    with _quiet():
        return Group(number)


@lru_cache(maxsize=100_000)
def _compatible(number: int, amounts: tuple[int, ...]) -> bool:
    """Whether the group's Wyckoff positions can hold so many atoms per primitive cell."""
    group = _group(number)
    with _quiet():
        return bool(group.check_compatible([n * group.cellsize() for n in amounts])[0])


@lru_cache(maxsize=1)
def _tolerances() -> Any:
    from pyxtal.tolerance import Tol_matrix

    return Tol_matrix(prototype="atomic", factor=_DISTANCE_FACTOR)


def _build(cell: Counts, number: int, rng: np.random.Generator) -> Crystal | None:
    """The primitive cell of one random crystal, or None where PyXtal finds no room."""
    from pyxtal.crystal import random_crystal
    from pyxtal.lattice import Lattice
    from pyxtal.msg import Comp_CompatibilityError, VolumeError

    group = _group(number)
    counts = dict(cell)
    volume = cell_volume(counts) * group.cellsize() * rng.uniform(*_VOLUME_RANGE)
    with _quiet():
        try:
            lattice = Lattice(group.lattice_type, volume, unique_axis="c", random_state=rng)
            lattice.reset_matrix = _limited(lattice.reset_matrix, _CELLS)
            made = random_crystal(
                3,
                group,
                list(counts),
                list(counts.values()),
                lattice=lattice,
                conventional=False,
                tm=_tolerances(),
                random_state=rng,
            )
        except (Comp_CompatibilityError, VolumeError, ValueError, RuntimeError):
            return None
    if not made.valid:
        return None
    numbers = [ATOMIC_NUMBERS[s.specie] for s in made.atom_sites for _ in s.coords]
    frac_coords = np.concatenate([s.coords for s in made.atom_sites])
    return _primitive(made.lattice.matrix, frac_coords, np.array(numbers))


def _limited(reset: Callable[[], None], most: int) -> Callable[[], None]:
    """End PyXtal's search, which has no limit of its own that can be set, after so many cells."""
    left = iter(range(most))

    def step() -> None:
        if next(left, None) is None:
            raise RuntimeError("no room in the cells tried")
        reset()

    return step


def _primitive(lattice: Any, frac_coords: Any, numbers: Any) -> Crystal:
    import spglib

    cell = (lattice, frac_coords, numbers)
    with _quiet():
        reduced = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True)
    return Crystal(*(cell if reduced is None else reduced))
