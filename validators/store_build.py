"""Building a store of known phases from a table: in batches, by several processes, in bounded memory."""

from __future__ import annotations

import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..core.crystal import Crystal
from ..core.errors import StorageError
from ..core.protocols import Phase
from .arrays import Arrays, ArrayWriter, open_arrays
from .fingerprint import amd
from .geometry import length_unit
from .matching import prepare
from .store import AMD_LENGTH, FORMAT, PhaseStore, StoreInfo, composition_key, element_mask
from .tables import StructureFile, coverage

log = logging.getLogger("heliodor.validators")

_BATCH = 500
_REPORT = 15.0  # seconds between lines in the log


def open_store(path: Path, cache: Path, workers: int = 1) -> PhaseStore:
    """The store of a table; built first where there is none of its content.

    Args:
        path: as `tables.StructureFile` takes it. cache: folder of stores.
        workers: processes that build. More than one ask of a script that its work stands under
            `if __name__ == "__main__"`.

    Raises:
        InputError: the table cannot be used. StorageError: the store cannot be written.
    """
    file = StructureFile(path)
    folder = cache / "phases" / f"{file.digest[:32]}-{FORMAT}"
    store = _open(folder)
    if store is None:
        begin = time.monotonic()
        log.info("%s: its structures are reduced, once; the result is kept in %s", path.name, folder)
        _build(file, folder, workers)
        store = _open(folder)
        if store is None:
            raise StorageError(
                f"{folder}: written, and then gone or damaged", hint="set HELIODOR_CACHE to a sound disk"
            )
        log.info("%s: %d phases in %.1f s", path.name, len(store), time.monotonic() - begin)
    return store


def _open(folder: Path) -> PhaseStore | None:
    found = open_arrays(folder)
    return PhaseStore(StoreInfo(**found[0]), found[1]) if found else None


def _build(file: StructureFile, folder: Path, workers: int) -> None:
    index, ends = _Index(), _Ends()
    with ArrayWriter(folder) as writer:
        said = time.monotonic()
        for phases, reduced in _reduced_batches(file.phases(), workers):
            writer.append(ends.of({**_facts(phases), **reduced}))
            index.take(phases)
            if time.monotonic() - said > _REPORT:
                log.info("%s: %d phases so far", file.path.name, len(index))
                said = time.monotonic()
        writer.append(ends.of(index.arrays()))
        about = coverage(len(index), index.without_energy(), file.energies, file.skipped)
        writer.publish(asdict(StoreInfo(file.digest, about, file.metadata)))


def _reduced_batches(phases: Iterator[Phase], workers: int) -> Iterator[tuple[list[Phase], Arrays]]:
    """Batches of phases in their order, with the arrays made of their crystals."""
    batches = iter(lambda: list(islice(phases, _BATCH)), [])
    ahead = list(islice(batches, 4))  # a small table is not worth starting processes
    if workers == 1 or len(ahead) < 4:
        for batch in _chain(ahead, batches):
            yield batch, reduce_crystals(_crystals(batch))
        return
    with ExitStack() as stack:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        stack.callback(pool.shutdown, cancel_futures=True)
        pending: deque[tuple[list[Phase], Future[Arrays]]] = deque()
        for batch in _chain(ahead, batches):
            pending.append((batch, pool.submit(reduce_crystals, _crystals(batch))))
            if len(pending) > 2 * workers:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()


def _chain(first: Sequence[list[Phase]], rest: Iterator[list[Phase]]) -> Iterator[list[Phase]]:
    yield from first
    yield from rest


def _crystals(phases: Iterable[Phase]) -> list[Crystal]:
    return [p.crystal for p in phases if p.crystal is not None]


def reduce_crystals(crystals: Sequence[Crystal]) -> Arrays:
    """What the matcher and the index compare, of some crystals; what cannot be made is left empty."""
    lattices = np.zeros((len(crystals), 3, 3))
    vectors = np.full((len(crystals), AMD_LENGTH), np.nan, dtype=np.float32)
    units = np.array([_tried(length_unit, c, np.nan) for c in crystals], dtype=np.float32)
    frac, numbers, counts = [np.empty((0, 3))], [np.empty(0, np.uint8)], []
    for i, crystal in enumerate(crystals):
        vectors[i] = _tried(lambda c: amd(c, AMD_LENGTH, scaled=True), crystal, np.nan)
        reduced = _tried(prepare, crystal, None)
        counts.append(0 if reduced is None else len(reduced))
        if reduced is not None:
            lattices[i] = reduced.lattice
            frac.append(reduced.frac_coords)
            numbers.append(reduced.atomic_numbers)
    return {
        "reduced_lattices": lattices,
        "reduced_frac": np.concatenate(frac),
        "reduced_numbers": np.concatenate(numbers),
        "reduced_atom_counts": np.array(counts, dtype=np.int64),
        "amd": vectors,
        "units": units,
    }


def _tried(make: Callable[[Crystal], Any], crystal: Crystal, otherwise: object) -> Any:
    try:
        return make(crystal)
    except Exception as error:  # of any kind, from geometry libraries on absurd cells
        log.debug("%r: %r", crystal, error)
        return otherwise


def _facts(phases: Sequence[Phase]) -> Arrays:
    """What is stored of phases as they are."""
    ids = [p.material_id.encode() for p in phases]
    crystals = _crystals(phases)
    energies = [p.formation_energy_per_atom for p in phases]
    return {
        "ids": np.frombuffer(b"".join(ids), np.uint8),
        "id_counts": np.array([len(i) for i in ids]),
        "compositions": np.array([pair for p in phases for pair in p.composition], dtype=np.uint32),
        "composition_counts": np.array([len(p.composition) for p in phases]),
        "energies": np.array([np.nan if e is None else e for e in energies]),
        "spacegroups": np.array([p.spacegroup or 0 for p in phases], dtype=np.int16),
        "lattices": np.array([c.lattice for c in crystals]),
        "frac": np.concatenate([c.frac_coords for c in crystals]),
        "numbers": np.concatenate([c.atomic_numbers for c in crystals]).astype(np.uint8),
        "atom_counts": np.array([len(c) for c in crystals]),
    }


class _Ends:
    """Turns counts of rows, batch after batch, into the places where rows end."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    def of(self, arrays: Arrays) -> Arrays:
        """Each "x_counts" becomes "x_ends"; others stay as they are."""
        found = {}
        for name, values in arrays.items():
            kind, _, what = name.rpartition("_")
            if what != "counts":
                found[name] = values
                continue
            begin = self._totals.get(kind, 0)
            found[f"{kind}_ends"] = np.cumsum(values, dtype=np.int64) + begin
            self._totals[kind] = begin + int(values.sum())
        return found


class _Index:
    """Where phases are found by composition and by chemical system: 24 bytes a phase while it grows."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._masks = array("Q")
        self._energy = array("b")

    def __len__(self) -> int:
        return len(self._keys)

    def without_energy(self) -> int:
        """Phases without an energy."""
        return len(self) - sum(self._energy)

    def take(self, phases: Sequence[Phase]) -> None:
        """The next rows."""
        for phase in phases:
            self._keys.append(int(composition_key(phase.composition)))
            self._masks.extend(element_mask(z for z, _ in phase.composition).tolist())
            self._energy.append(phase.formation_energy_per_atom is not None)

    def arrays(self) -> Arrays:
        """The indexes; systems by rising number of elements, and rows rising within each."""
        keys = np.array(self._keys, dtype=np.uint64)
        by_key = np.argsort(keys, kind="stable")
        rows = np.flatnonzero(np.array(self._energy))
        masks = np.array(self._masks, dtype=np.uint64).reshape(-1, 2)[rows]
        systems, inverse = np.unique(masks, axis=0, return_inverse=True)
        order = sorted(range(len(systems)), key=lambda i: _size_and_elements(*systems[i].tolist()))
        rank = np.empty(len(systems), dtype=np.int64)
        rank[order] = np.arange(len(systems))
        ranks = rank[inverse.reshape(-1)]
        return {
            "keys": keys[by_key],
            "rows_by_key": by_key,
            "systems": systems[order],
            "rows_by_system": rows[np.argsort(ranks, kind="stable")],
            "system_counts": np.bincount(ranks, minlength=len(systems)),
        }


def _size_and_elements(low: int, high: int) -> tuple[int, list[int]]:
    bits = low | high << 64
    elements = [z for z in range(1, 119) if bits >> z & 1]
    return len(elements), elements
