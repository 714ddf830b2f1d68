"""From what is asked for to the plan of each crystal: obeyed by construction, refused if impossible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...core.elements import ATOMIC_NUMBERS, SYMBOLS
from ...core.errors import InputError
from ..charge import charge_balanced
from .codes import N_ELEMENTS
from .plan import Fixed, Plan, Start
from .request import Request
from .symmetry import Template, p1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.records import Conditions
    from .planar import Held
    from .symmetry import TemplateLibrary

_FREE_SHARE = 0.5  # of the tries at a formula: made without symmetry
_BALANCED_ELEMENTS = 5  # with more there are too many compositions to go through, and some balances
_LARGEST_CHOICE = 20_000  # arrangements of a composition on a template that are counted


class Planner:
    """Draws plans for one request; everything impossible is refused when it is made.

    Args:
        conditions: elements, composition and largest cell.
        request: the rest.
        library: templates to draw from. seen: (119,) elements that the model knows.
        max_atoms: largest cell of the model.
        draw: a property's value for one crystal, by name; None where no property is asked for.

    Raises:
        InputError: an element the model has never seen, too many atoms, a space group or composition
            that no template can hold, a planar lattice without room.
    """

    def __init__(
        self,
        conditions: Conditions,
        request: Request,
        library: TemplateLibrary,
        seen: NDArray[np.bool_],
        max_atoms: int,
        draw: Callable[[str, np.random.Generator], float] | None = None,
    ) -> None:
        self.conditions, self.request, self.library = conditions, request, library
        self.draw = draw
        self.largest = min(conditions.max_atoms, max_atoms)
        if request.min_atoms > max_atoms:
            raise InputError(
                f"min_atoms is {request.min_atoms}: the model makes at most {max_atoms} atoms"
            )
        if request.min_atoms > self.largest:
            raise InputError(f"min_atoms {request.min_atoms} is above max_atoms {self.largest}")
        self.allowed = self._allowed(seen)
        self.required = self._required()
        self.counts = {ATOMIC_NUMBERS[s]: n for s, n in conditions.composition}
        self._check_counts()
        self.weights = self._template_weights()
        self.size_weights = self._size_weights()
        self._check_possible()

    # --- what is asked for ---

    def _allowed(self, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        asked = self.conditions.elements or tuple(s for s, _ in self.conditions.composition)
        if not asked:
            return seen.copy()
        numbers = [ATOMIC_NUMBERS[s] for s in asked]
        unknown = [SYMBOLS[z] for z in numbers if not seen[z]]
        if unknown:
            raise InputError(
                f"elements: the model has never seen {', '.join(unknown)}",
                hint="train one on crystals that hold them: heliodor train",
            )
        allowed = np.zeros(N_ELEMENTS + 1, bool)
        allowed[numbers] = True
        return allowed

    def _required(self) -> tuple[int, ...]:
        c, request = self.conditions, self.request
        required = tuple(ATOMIC_NUMBERS[s] for s in c.elements) if c.require_all else ()
        if request.planar is not None and not self.allowed[request.planar.atomic_number]:
            held = SYMBOLS[request.planar.atomic_number]
            raise InputError(f"planar: {held} is not among the elements asked for")
        k = request.n_elements
        if k is not None:
            if k < 1 or k > int(self.allowed.sum()) or k < len(required):
                raise InputError(
                    f"n_elements: {k} does not go with the elements asked for "
                    f"({len(required)} required, {int(self.allowed.sum())} allowed)"
                )
            if k > self.largest:
                raise InputError(f"n_elements: {k} elements need more than {self.largest} atoms")
        if len(required) > self.largest:
            raise InputError(f"{len(required)} elements need more than {self.largest} atoms")
        return required

    def _check_counts(self) -> None:
        if not self.counts:
            return
        unit = sum(self.counts.values())
        fits = [m for m in range(unit, self.largest + 1, unit) if m >= self.request.min_atoms]
        if not fits:
            raise InputError(
                f"formula: {_formula(self.conditions)} has {unit} atoms, and no multiple lies between "
                f"{self.request.min_atoms} and {self.largest}",
                hint="the model makes cells of at most 20 atoms",
            )

    # --- what can be made ---

    @property
    def balanced(self) -> bool:
        """Whether compositions must be in charge balance: where elements, but no formula, are given."""
        return self.request.charge_balanced and bool(self.conditions.elements) and not self.counts

    def _can_balance(self, sizes: tuple[int, ...]) -> bool:
        """Whether the required elements fit on orbits of these sizes in charge balance."""
        if not (self.balanced and 0 < len(self.required) <= _BALANCED_ELEMENTS):
            return True
        names = [SYMBOLS[z] for z in self.required]
        return any(
            charge_balanced(dict(zip(names, counts, strict=True)))
            for counts in compositions(sizes, len(names))
        )

    @property
    def symmetric(self) -> bool:
        """Whether crystals are made within a template."""
        asked = self.request.symmetric or bool(self.request.groups())
        return asked and self.request.planar is None and not self.request.start

    def _template_weights(self) -> NDArray[np.float64]:
        """How often each template is drawn: as often as known crystals have it, if it can serve."""
        library, request = self.library, self.request
        weights = library.counts.astype(float)
        fits = (library.n_atoms >= request.min_atoms) & (library.n_atoms <= self.largest)
        fits &= library.n_orbits >= max(len(self.required), request.n_elements or 1)
        groups = request.groups()
        if groups:
            fits &= np.isin(library.spacegroup, sorted(groups))
        if self.counts:
            unit = sum(self.counts.values())
            fits &= library.n_atoms % unit == 0
            for i in np.flatnonzero(fits):
                per = tuple(n * int(library.n_atoms[i]) // unit for n in self.counts.values())
                fits[i] = bool(arrangements(library.sizes[i], per))
            # The common templates are rigid ones, and one try tells all of them: look further.
            weights = np.sqrt(weights)
        balance = {s: self._can_balance(s) for s in {library.sizes[i] for i in np.flatnonzero(fits)}}
        fits &= np.array([balance.get(s, False) for s in library.sizes])
        total: NDArray[np.float64] = np.where(fits, weights, 0.0)
        return total / total.sum() if total.sum() else total

    def _size_weights(self) -> NDArray[np.float64]:
        """How often a cell of so many atoms is drawn where no symmetry is imposed."""
        library, request = self.library, self.request
        sizes = np.bincount(library.n_atoms, library.counts, minlength=self.largest + 1)[
            : self.largest + 1
        ]
        n = np.arange(len(sizes))
        least = max(request.min_atoms, len(self.required), request.n_elements or 1)
        if request.planar is not None:
            others = {z for z in self.required if z != request.planar.atomic_number}
            least = max(least, request.planar.n_sites + max(1, len(others)))
        fits = n >= max(least, 1)
        if self.counts:
            unit = sum(self.counts.values())
            fits &= n % unit == 0
            if request.planar is not None:
                held = self.counts[request.planar.atomic_number]
                fits &= n // unit * held >= request.planar.n_sites
            sizes = sizes + 1  # a formula may need a size that is rare
        elif request.planar is None:
            fits &= np.array([self._can_balance((1,) * k) if f else False for k, f in enumerate(fits)])
        weights: NDArray[np.float64] = np.where(fits, sizes, 0.0)
        return weights / weights.sum() if weights.sum() else weights

    def _check_possible(self) -> None:
        request = self.request
        if request.start:
            self._check_start()
            return
        if request.planar is not None and not self.size_weights.sum():
            raise InputError(
                f"planar: {request.planar.n_sites} held sites do not fit with what else is asked for "
                f"into cells of at most {self.largest} atoms"
            )
        if request.planar is not None and request.groups():
            raise InputError("planar and spacegroups cannot be asked for together")
        groups = request.groups()
        if groups and not self.weights.sum():
            what = " of ".join(
                part
                for part in (
                    f"space group {', '.join(map(str, request.spacegroups))}"
                    if request.spacegroups
                    else f"the {request.crystal_system} system",
                    _formula(self.conditions) or "-".join(self.conditions.elements),
                )
                if part
            )
            raise InputError(
                f"no known arrangement of Wyckoff positions for {what} with "
                f"{request.min_atoms} to {self.largest} atoms in the primitive cell",
                hint="allow more atoms, other groups, or leave the space group open",
            )
        if not (self.weights.sum() or self.size_weights.sum()):
            balance = " in charge balance" if self.balanced else ""
            raise InputError(
                f"nothing of at most {self.largest} atoms{balance} meets what is asked for",
                hint="allow more atoms, or charge_balanced: false" if balance else None,
            )

    def _check_start(self) -> None:
        request = self.request
        if not 0 < request.level <= 1:
            raise InputError(f"start: level is {request.level}; between 0 (the crystal itself) and 1")
        if request.planar is not None or request.groups():
            raise InputError("start cannot be combined with planar or spacegroups")
        for crystal in request.start:
            if len(crystal) > self.largest:
                raise InputError(
                    f"start: {crystal.formula} has {len(crystal)} atoms, at most {self.largest}"
                )
            unknown = [
                s for s in crystal.elements if request.keep_types and not self.allowed[ATOMIC_NUMBERS[s]]
            ]
            if unknown:
                raise InputError(
                    f"start: {crystal.formula} holds {', '.join(unknown)}, not allowed here"
                )

    # --- plans ---

    def plan(self, rng: np.random.Generator) -> Plan:
        """One plan; the same generator state gives the same plan."""
        targets = {name: self.draw(name, rng) for name in self.request.targets} if self.draw else {}
        k = self.request.n_elements
        if self.request.start:
            return self._around(rng, targets)
        if self.request.planar is not None:
            return self._planar(rng, self.request.planar, targets)
        template, numbers = self._template(rng)
        rules = self.allowed, self.required, k, self.balanced
        return Plan(template, *rules, numbers, targets=targets)

    def _template(self, rng: np.random.Generator) -> tuple[Template, NDArray[np.int64] | None]:
        # Of a formula the right template is a guess. Of 200 held-out formulas 20 tries found 62 % within
        # templates, 68.5 % without, and 68.5 % half and half, then at a lower RMSD than without
        # (benchmarks/results/diffusion_prediction.txt).
        guess = bool(self.counts) and not self.request.groups() and bool(self.size_weights.sum())
        if self.symmetric and self.weights.sum() and not (guess and rng.random() < _FREE_SHARE):
            template = self.library[int(rng.choice(len(self.weights), p=self.weights))]
            if not self.counts:
                return template, None
            unit = sum(self.counts.values())
            per = tuple(n * len(template) // unit for n in self.counts.values())
            return template, self._arranged(template, per, rng)
        n = int(rng.choice(len(self.size_weights), p=self.size_weights))
        return p1(n), self._listed(n)

    def _listed(self, n: int) -> NDArray[np.int64] | None:
        """Atoms are interchangeable without symmetry: the composition in any order."""
        if not self.counts:
            return None
        unit = sum(self.counts.values())
        return np.repeat(list(self.counts), [m * n // unit for m in self.counts.values()])

    def _arranged(
        self, template: Template, per: tuple[int, ...], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        order = np.argsort(template.sizes, kind="stable")
        sizes = tuple(int(s) for s in template.sizes[order])
        ways = arrangements(sizes, per)
        way = ways[int(rng.integers(len(ways)))]
        # Orbits of one size are told apart by their place: shuffle which of them takes which element.
        kinds = np.array(way)
        for size in set(sizes):
            where = np.flatnonzero(np.array(sizes) == size)
            kinds[where] = rng.permutation(kinds[where])
        element = np.empty(len(sizes), np.int64)
        element[order] = np.array(list(self.counts))[kinds]
        return element[template.orbit]

    def _planar(self, rng: np.random.Generator, held: Held, targets: Mapping[str, float]) -> Plan:
        n = int(rng.choice(len(self.size_weights), p=self.size_weights))
        numbers = self._listed(n)
        if numbers is not None:  # the held sites first
            numbers = numbers[np.argsort(numbers != held.atomic_number, kind="stable")]
        scale = n ** (1 / 3)
        channels = np.full(6, np.nan)
        channels[0], channels[1] = np.log(held.cell[0] / scale), np.log(held.cell[1] / scale)
        channels[3] = held.cell[2]
        species = np.full(held.n_sites, held.atomic_number)
        fixed = Fixed(held.frac, species, channels)
        return Plan(
            p1(n),
            self.allowed,
            self.required,
            self.request.n_elements,
            numbers=numbers,
            fixed=fixed,
            targets=targets,
        )

    def _around(self, rng: np.random.Generator, targets: Mapping[str, float]) -> Plan:
        from .lattice import channels_of
        from .rows import reduced

        crystal = self.request.start[int(rng.integers(len(self.request.start)))]
        crystal = reduced(crystal)
        numbers = np.asarray(crystal.atomic_numbers)
        start = Start(
            np.asarray(crystal.frac_coords),
            numbers,
            channels_of(crystal.lattice, len(crystal)),
            self.request.level,
        )
        kept = numbers if self.request.keep_types else None
        required = () if self.request.keep_types else self.required
        return Plan(p1(len(numbers)), self.allowed, required, numbers=kept, start=start, targets=targets)


@lru_cache(maxsize=10_000)
def compositions(sizes: tuple[int, ...], elements: int) -> frozenset[tuple[int, ...]]:
    """Atoms of each element, at least one, over all ways to give orbits of these sizes to elements."""
    found = {(0,) * elements}
    for size in sizes:
        found = {(*c[:k], c[k] + size, *c[k + 1 :]) for c in found for k in range(elements)}
    return frozenset(c for c in found if min(c) > 0)


def _formula(conditions: Conditions) -> str:
    """The formula asked for as people write it; empty where none is."""
    if not conditions.composition:
        return ""
    from pymatgen.core import Composition

    return Composition(dict(conditions.composition)).reduced_formula


@lru_cache(maxsize=100_000)
def arrangements(sizes: tuple[int, ...], per: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Ways to give each orbit an element so that the counts come out; up to orbits of equal size.

    Args:
        sizes: (m,) atoms of each orbit, sorted. per: atoms of each element.

    Returns:
        For each way the element's index of each orbit, at most `_LARGEST_CHOICE` ways.
    """
    if sum(sizes) != sum(per):
        return ()
    found: list[tuple[int, ...]] = []

    def go(k: int, left: tuple[int, ...], so_far: tuple[int, ...]) -> None:
        if len(found) >= _LARGEST_CHOICE:
            return
        if k < 0:
            found.append(so_far)
            return
        # Among orbits of one size the element's index may not fall: each way is met once.
        lowest = so_far[0] if so_far and sizes[k] == sizes[k + 1] else len(left) - 1
        for element in range(lowest + 1):
            if left[element] >= sizes[k]:
                rest = (*left[:element], left[element] - sizes[k], *left[element + 1 :])
                go(k - 1, rest, (element, *so_far))

    go(len(sizes) - 1, per, ())
    return tuple(found)
