"""The convex hull of formation energies, as one small linear programme per query.

The lowest energy of a composition x (atomic fractions) among mixtures of known phases is
    min  sum_j w_j e_j   subject to  sum_j w_j a_ij = x_i,  w_j >= 0
with the atomic fractions a_ij of phase j, its formation energy e_j (eV/atom), and its share of the atoms
w_j. The elements in their reference states are phases with e = 0, so every composition can be made.
The signed distance to the hull is the decomposition energy of Bartel et al., npj Comput. Mater. 6, 97
(2020), doi:10.1038/s41524-020-00362-y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.elements import SYMBOLS
from ..core.errors import InputError
from .competing import Competing, padded
from .simplex import TOLERANCE, minimise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..core.protocols import Phase
    from .phases import Composition

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ELEMENT_ID = "element"
"""Id of an elemental reference state (0 eV/atom by definition) that the reference has no entry for."""

_ELEMENTS = len(SYMBOLS)
_ROWS = 1024  # queries looked up at once
_NUMBERS = 200_000  # in the matrices of one batch of programmes, so that they stay in the cache


class HullDistance(NamedTuple):
    """A composition and energy against the hull of the known phases.

    decomposition_energy: eV/atom above (positive) or below (negative) that hull.
    decomposition: (formula, material id, fraction of atoms) of the phases it falls into, largest first.
    """

    decomposition_energy: float
    decomposition: tuple[tuple[str, str, float], ...]

    @property
    def energy_above_hull(self) -> float:
        """eV/atom above the hull of the known phases and the crystal itself; never negative."""
        return max(0.0, self.decomposition_energy)


@dataclass(frozen=True, eq=False)
class GroundStates:
    """The hull at n compositions.

    Args:
        energies: (n,) eV/atom, <= 0.
        members: (n, k) which phase: its position in `phases`, or minus the atomic number of an element
            without an entry. fractions: (n, k) of the atoms; 0 where there is no further phase.
    """

    energies: Floats
    members: Ints
    fractions: Floats
    phases: Sequence[Phase]

    def decomposition(self, i: int) -> tuple[tuple[str, str, float], ...]:
        """(formula, material id, fraction of atoms) of the phases of one of them, largest first."""
        parts = [
            (*self._label(member), fraction)
            for member, fraction in zip(
                self.members[i].tolist(), self.fractions[i].tolist(), strict=True
            )
            if fraction > TOLERANCE
        ]
        return tuple(sorted(parts, key=lambda part: (-round(part[2], 9), part[0])))

    def _label(self, member: int) -> tuple[str, str]:
        if member < 0:
            return _formula(((-member, 1),)), ELEMENT_ID
        phase = self.phases[member]
        return _formula(phase.composition), phase.material_id


class Hull:
    """The lower convex hull of phases by formation energy.

    Phases without an energy are left out. Order and repetition of the phases do not matter. Elements
    need no entry. Many compositions at once (`ground_states`) cost a fiftieth of one by one. Safe to
    query from several threads.

    Args:
        phases: known phases, of any number of chemical systems.

    Raises:
        InputError: a formation energy is NaN or infinite; names the phase.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        known = [p for p in phases if p.formation_energy_per_atom is not None]
        energies = np.array([p.formation_energy_per_atom for p in known], dtype=np.float64)
        for i in np.flatnonzero(~np.isfinite(energies)).tolist():
            raise InputError(
                f"phase {known[i].material_id}: formation energy is {energies[i]}, "
                "expected eV/atom or none"
            )
        pure = np.array([len(p.composition) == 1 for p in known], dtype=bool)
        lowest = np.lexsort((np.array([p.material_id for p in known], dtype=str), energies))
        # Never below the elements: a compound at 0 or above, an element above its reference state.
        compounds = lowest[(~pure & (energies < 0))[lowest]]
        elements = lowest[(pure & (energies <= TOLERANCE))[lowest]]
        self._competing = Competing([known[i].composition for i in compounds.tolist()])
        compounds = compounds[self._competing.chosen]
        self._phases = [known[i] for i in compounds.tolist()]
        self._energies = energies[compounds]
        self._element_member = -np.arange(_ELEMENTS)
        self._element_energy = np.zeros(_ELEMENTS)
        for i in elements[::-1].tolist():
            z = known[i].composition[0][0]
            self._element_member[z] = len(self._phases)
            self._element_energy[z] = energies[i]
            self._phases.append(known[i])

    def query(self, composition: Composition, formation_energy_per_atom: float) -> HullDistance:
        """Distance of a crystal to the hull of the known phases.

        Args:
            composition: ((atomic number, count), ...) with positive counts; need not be reduced.
            formation_energy_per_atom: eV/atom, in the scheme of the phases.

        Raises:
            InputError: no atoms, a count that is not positive, or an energy that is not finite.
        """
        if not math.isfinite(formation_energy_per_atom):
            raise InputError(f"formation energy is {formation_energy_per_atom}, expected eV/atom")
        energy, decomposition = self.ground_state(composition)
        return HullDistance(formation_energy_per_atom - energy, decomposition)

    def ground_state(self, composition: Composition) -> tuple[float, tuple[tuple[str, str, float], ...]]:
        """Hull energy (eV/atom, <= 0) at a composition, and the phases that make it.

        Raises:
            InputError: no atoms, or a count that is not positive.
        """
        states = self.ground_states([composition])
        return float(states.energies[0]), states.decomposition(0)

    def ground_states(self, compositions: Sequence[Composition]) -> GroundStates:
        """The hull at many compositions, each as if it were asked for alone.

        Raises:
            InputError: a composition has no atoms, or a count that is not positive.
        """
        numbers, counts = _plain(compositions)
        sizes = (numbers > 0).sum(axis=1)
        states = GroundStates(
            np.zeros(len(sizes)), np.zeros_like(numbers), np.zeros_like(counts), self._phases
        )
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            rows = rows[np.lexsort(numbers[rows].T)]  # of one system together
            for begin in range(0, len(rows), _ROWS):
                block = rows[begin : begin + _ROWS]
                self._solve(numbers[block, :size], counts[block, :size], block, states)
        return states

    def _solve(self, numbers: Ints, counts: Floats, rows: Ints, states: GroundStates) -> None:
        """The ground states of `rows`: (n, k) atomic numbers, rising, and counts."""
        size = numbers.shape[1]
        fractions = counts / counts.sum(axis=1, keepdims=True)
        systems, which = np.unique(numbers, axis=0, return_inverse=True)
        owner, member = self._competing.within(systems)
        begins = owner.searchsorted(np.arange(len(systems) + 1))
        competitors = np.diff(begins)[which]
        order = competitors.argsort(kind="stable")
        for part in _parts(competitors[order], size):
            some = order[part]
            columns, programme = self._programmes(numbers[some], begins, which[some], member)
            basis, weights = minimise(*programme, fractions[some])
            at = np.arange(len(some))[:, None]
            states.energies[rows[some]] = (weights * programme[1][at, basis]).sum(axis=1)
            states.members[rows[some], :size] = columns[at, basis]
            states.fractions[rows[some], :size] = weights

    def _programmes(
        self, numbers: Ints, begins: Ints, which: Ints, member: Ints
    ) -> tuple[Ints, tuple[Floats, Floats]]:
        """Members (n, m), matrices (n, k, m) and energies (n, m): the k elements, then compounds.

        Shorter rows are filled up with the first element.
        """
        n, size = numbers.shape
        lengths = begins[which + 1] - begins[which]
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        row, column = np.nonzero(inside)
        found = member[begins[which][row] + column]
        columns = np.concatenate([numbers, np.tile(numbers[:, :1], inside.shape[1])], axis=1)
        energies = self._element_energy[columns]
        columns = self._element_member[columns]
        columns[row, size + column] = found
        energies[row, size + column] = self._energies[found]
        matrices = np.zeros((n, size, size + inside.shape[1]))
        matrices[:, np.arange(size), np.arange(size)] = 1.0
        matrices[:, 0, size:][~inside] = 1.0
        place = np.zeros((n, _ELEMENTS), dtype=np.int64)
        np.put_along_axis(place, numbers, np.arange(size)[None], axis=1)
        for z, share in zip(
            self._competing.numbers[found].T, self._competing.fractions[found].T, strict=True
        ):
            matrices[row, place[row, z], size + column] += share  # the padding adds 0
        return columns, (matrices, energies)


def _plain(compositions: Sequence[Composition]) -> tuple[Ints, Floats]:
    """Atomic numbers and counts, (n, w) as `padded`, each element once and by rising atomic number."""
    numbers, counts = padded(compositions)
    known = (numbers >= 1) & (numbers < _ELEMENTS)
    rising = (numbers[:, 1:] > numbers[:, :-1]) | (numbers[:, 1:] == 0)
    plain = (known == (counts > 0)).all(axis=1) & rising.all(axis=1) & known[:, :1].any(axis=1)
    if plain.all():
        return numbers, counts
    merged = list(compositions)
    for i in np.flatnonzero(~plain).tolist():
        merged[i] = _merged(compositions[i])
    return padded(merged)


def _merged(composition: Composition) -> Composition:
    counts: dict[int, int] = {}
    for z, n in composition:
        if not (n > 0 and 1 <= z < _ELEMENTS):
            counts.clear()
            break
        counts[z] = counts.get(z, 0) + n
    if not counts:
        raise InputError(f"composition is {composition!r}, expected ((atomic number, count > 0), ...)")
    return tuple(sorted(counts.items()))


def _parts(competitors: Ints, size: int) -> Iterator[slice]:
    """Batches of rows (sorted by number of competitors) whose matrices are small enough."""
    begin, columns = 0, size + competitors
    while begin < len(columns):
        room = np.arange(1, len(columns) - begin + 1) * columns[begin:] * size <= _NUMBERS
        end = begin + max(1, int(room.sum()))
        yield slice(begin, end)
        begin = end


@lru_cache(maxsize=100_000)
def _formula(composition: Composition) -> str:
    from pymatgen.core import Composition as Formula

    return Formula({SYMBOLS[z]: n for z, n in composition}).reduced_formula
