"""Lattice decoration: known structure types with other elements in their roles."""

from __future__ import annotations

import hashlib
import math
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..core.crystal import Crystal
from ..core.elements import ATOMIC_NUMBERS, SYMBOLS
from ..core.errors import InputError
from ..core.records import Candidate, Conditions, Failure, Origin
from .charge import charge_balanced as is_balanced
from .ordering import can_derive, ordered_derivatives
from .prototypes import Prototype, load_prototypes, same_fingerprint
from .similarity import log_substitution
from .volume import atomic_volumes, cell_volume, require_volumes

_WINDOW = 10_000  # decorations ranked against each other; keeps the start quick for large element sets
_BLOCK = 8  # prototypes whose ordered derivatives are ranked against each other
_MIN_DISTANCE_RATIO = 0.55  # of the sum of covalent radii; 99.9 % of the Materials Project is above


@dataclass(frozen=True)
class _Decoration:
    """A prototype and the atomic number of each of its roles."""

    prototype: Prototype
    numbers: tuple[int, ...]

    def counts(self) -> dict[str, int]:
        return {SYMBOLS[z]: n for z, n in zip(self.numbers, self.prototype.counts, strict=True)}

    def crystal(self) -> Crystal:
        prototype = self.prototype
        volume = abs(np.linalg.det(prototype.lattice))
        scale = (cell_volume(self.counts()) / volume) ** (1 / 3)
        numbers = np.array(self.numbers, dtype=np.int64)[prototype.roles]
        return Crystal(prototype.lattice * scale, prototype.frac_coords, numbers)

    def describe(self) -> str:
        roles = zip(self.prototype.parents, self.numbers, strict=True)
        return f"{self.prototype.name}: " + ", ".join(f"{SYMBOLS[a]}->{SYMBOLS[b]}" for a, b in roles)


class _Enumeration:
    """A stream that remembers what it gave, so that any position can be asked for again."""

    def __init__(self, stream: Iterator[_Decoration]) -> None:
        self._stream = stream
        self._found: list[_Decoration] = []
        self._lock = threading.Lock()

    def get(self, i: int) -> _Decoration | None:
        with self._lock:
            while len(self._found) <= i:
                item = next(self._stream, None)
                if item is None:
                    return None
                self._found.append(item)
            return self._found[i]


class SubstitutionGenerator:
    """Puts the asked elements into the roles of known structure types.

    First every prototype as it is, one element for each of its species; then ordered derivatives, in
    which two elements share a role. Likely substitutions come first: decorations are drawn without
    replacement with weights of Hautier's probabilities (Gumbel's top-k trick). The seed changes the
    order, not what there is, and no crystal is given twice. Cells are scaled to the volume that the
    elements take in known crystals (`volume.cell_volume`).

    Args:
        prototypes: "aflow", or a Parquet or JSON file of structures.
        charge_balanced: leave out compositions that no oxidation states balance.
    """

    name = "substitution"

    def __init__(self, prototypes: str = "aflow", charge_balanced: bool = True) -> None:
        self.prototypes = prototypes
        self.charge_balanced = charge_balanced
        self._library: list[Prototype] | None = None
        self._latest: tuple[tuple[int, Conditions], _Enumeration] | None = None

    @cached_property
    def provenance(self) -> dict[str, str]:
        """SHA-256 of the file of prototypes, where they come from one."""
        path = Path(self.prototypes).expanduser()
        if self.prototypes == "aflow" or not path.is_file():
            return {}
        return {"inputs": hashlib.sha256(path.read_bytes()).hexdigest()}

    def generate(
        self, n: int, *, seed: int, conditions: Conditions, start: int = 0
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1`; ends early when every decoration was given.

        Raises:
            InputError: an element without a known volume, a composition that cannot be balanced, no such
                file of prototypes, or no prototype that serves the conditions.
        """
        enumeration = self._enumeration(seed, conditions)
        return self._items(enumeration, range(start, start + n), seed)

    def _items(
        self, enumeration: _Enumeration, positions: range, seed: int
    ) -> Iterator[Candidate | Failure]:
        for i in positions:
            decoration = enumeration.get(i)
            if decoration is None:
                return
            origin = Origin(self.name, __version__, seed, i, source=decoration.describe())
            yield Candidate(decoration.crystal(), origin)

    def _enumeration(self, seed: int, conditions: Conditions) -> _Enumeration:
        key = (seed, conditions)
        latest = self._latest
        if latest is not None and latest[0] == key:
            return latest[1]
        search = _Search(self._load(), conditions, charge_balanced=self.charge_balanced)
        enumeration = _Enumeration(search.run(np.random.default_rng(seed)))
        if enumeration.get(0) is None:
            raise InputError(
                f"no prototype of {self.prototypes!r} serves elements {'-'.join(search.elements)} "
                f"with at most {conditions.max_atoms} atoms"
                + (" in charge balance" if self.charge_balanced else ""),
                hint="allow subsystems, more atoms or charge_balanced: false, or give other prototypes",
            )
        self._latest = (key, enumeration)
        return enumeration

    def _load(self) -> list[Prototype]:
        if self._library is None:
            self._library = load_prototypes(self.prototypes)
        return self._library


class _Search:
    """All decorations under given conditions, likeliest first, none twice."""

    def __init__(
        self, library: Sequence[Prototype], conditions: Conditions, *, charge_balanced: bool
    ) -> None:
        self.composition = dict(conditions.composition)
        self.elements = tuple(sorted(self.composition)) or conditions.elements or tuple(atomic_volumes())
        self.max_atoms = conditions.max_atoms
        self.charge_balanced = charge_balanced
        self._check(conditions)
        all_needed = bool(self.composition) or (bool(conditions.elements) and conditions.require_all)
        self.roles = range(len(self.elements) if all_needed else 1, len(self.elements) + 1)
        self.library = [p for p in library if len(p.roles) <= conditions.max_atoms]
        self.given: dict[tuple[tuple[int, int], ...], list[NDArray[np.float64]]] = {}

    def _check(self, conditions: Conditions) -> None:
        require_volumes(self.elements)
        present, asked = set(self.composition), set(conditions.elements)
        if present and asked and not (present == asked if conditions.require_all else present <= asked):
            raise InputError(
                f"composition {self.composition} and elements {'-'.join(conditions.elements)} disagree"
            )
        if present and self.charge_balanced and not is_balanced(self.composition):
            raise InputError(
                f"composition: no oxidation states balance {self.composition}",
                hint="set charge_balanced: false to propose it all the same",
            )

    def run(self, rng: np.random.Generator) -> Iterator[_Decoration]:
        yield from self._distinct(self._decorations(self.library, rng))
        yield from self._distinct(self._derived(rng))

    def _derived(self, rng: np.random.Generator) -> Iterator[_Decoration]:
        """Decorations of ordered derivatives, of the most fitting prototypes first."""
        for splits in (1, 2):
            parents = [p for p in self.library if len(p.parents) + splits in self.roles]
            if self.composition and splits == 1:
                wanted = sorted(self.composition.values())
                parents = [p for p in parents if can_derive(p, wanted)]
            fits = np.array([3 * self._fit(p) for p in parents]) + rng.gumbel(size=len(parents))
            order = np.argsort(-fits, kind="stable")
            for at in range(0, len(order), _BLOCK):
                block = [parents[i] for i in order[at : at + _BLOCK]]
                for _ in range(splits - 1):
                    block = [d for p in block for d in ordered_derivatives(p, self.max_atoms)[:_BLOCK]]
                block = [d for p in block for d in ordered_derivatives(p, self.max_atoms)]
                yield from self._decorations(block, rng)

    def _fit(self, prototype: Prototype) -> float:
        """The best that the elements can do in the prototype's roles."""
        allowed = [ATOMIC_NUMBERS[s] for s in self.elements]
        return float(log_substitution()[np.ix_(allowed, prototype.parents)].max(axis=0).mean())

    def _decorations(
        self, prototypes: Sequence[Prototype], rng: np.random.Generator
    ) -> Iterator[_Decoration]:
        """Every admitted decoration, window by window, likeliest first within a window."""
        usable = [p for p in prototypes if len(p.parents) in self.roles]
        ends = list(
            accumulate((math.perm(len(self.elements), len(p.parents)) for p in usable), initial=0)
        )
        for window in _windows(ends[-1], rng):
            scored: list[tuple[float, int, _Decoration]] = []
            for index, noise in zip(window, rng.gumbel(size=len(window)), strict=True):
                at = bisect_right(ends, index) - 1
                decoration = self._decode(usable[at], index - ends[at])
                if self._admits(decoration):
                    scored.append((-_log_probability(decoration) - noise, index, decoration))
            scored.sort(key=lambda item: item[:2])
            yield from (decoration for _, _, decoration in scored)

    def _decode(self, prototype: Prototype, index: int) -> _Decoration:
        """The index-th injective assignment of elements to roles."""
        left = [ATOMIC_NUMBERS[s] for s in self.elements]
        numbers = []
        for _ in prototype.parents:
            index, at = divmod(index, len(left))
            numbers.append(left.pop(at))
        return _Decoration(prototype, tuple(numbers))

    def _admits(self, decoration: _Decoration) -> bool:
        counts = decoration.counts()
        if self.composition:
            factor = math.gcd(*counts.values())
            if {s: n // factor for s, n in counts.items()} != self.composition:
                return False
        return not self.charge_balanced or is_balanced(counts)

    def _distinct(self, decorations: Iterator[_Decoration]) -> Iterator[_Decoration]:
        """Leave out what was given before (a symmetric swap of roles, a prototype listed twice, ...)."""
        for decoration in decorations:
            if _too_close(decoration):
                continue
            counts = decoration.counts()
            factor = math.gcd(*counts.values())
            order = np.argsort(decoration.numbers)
            composition = tuple(
                (decoration.numbers[i], decoration.prototype.counts[i] // factor) for i in order
            )
            mark = decoration.prototype.fingerprint[np.ix_(order, order)]
            known = self.given.setdefault(composition, [])
            if not any(same_fingerprint(mark, other) for other in known):
                known.append(mark)
                yield decoration


def _windows(total: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """The numbers below `total` in blocks, scattered by an affine permutation (nothing is stored)."""
    if not total:
        return
    step = int(rng.integers(total // 3, total) if total > 3 else 1)
    while math.gcd(step, total) != 1:
        step += 1
    shift = int(rng.integers(total))
    for at in range(0, total, _WINDOW):
        yield [(step * i + shift) % total for i in range(at, min(at + _WINDOW, total))]


def _log_probability(decoration: _Decoration) -> float:
    """Logarithm of the product of Hautier's p(new | old), as of three roles whatever their number."""
    pairs = zip(decoration.numbers, decoration.prototype.parents, strict=True)
    table = log_substitution()
    return 3 * sum(float(table[new, old]) for new, old in pairs) / len(decoration.numbers)


def _too_close(decoration: _Decoration) -> bool:
    """Whether two atoms come closer than any validity check allows."""
    from ase.data import covalent_radii

    unit = (cell_volume(decoration.counts()) / len(decoration.prototype.roles)) ** (1 / 3)
    radii = covalent_radii[list(decoration.numbers)]
    limit = _MIN_DISTANCE_RATIO * (radii[:, None] + radii[None, :])
    return bool((decoration.prototype.shortest * unit < limit).any())
