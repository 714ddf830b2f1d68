"""Building a store of known phases from a table: in batches, by several threads, in bounded memory."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from ..core.errors import StorageError
from ..core.packed import Packed, pack
from ..core.protocols import Phase
from .arrays import Arrays, ArrayWriter, open_arrays
from .geometry import computable
from .pool import Pool
from .store import AMD_LENGTH, FORMAT, PhaseStore, StoreInfo, composition_key, element_mask
from .tables import StructureFile, coverage

log = logging.getLogger("heliodor.validators")

_BATCH = 5000  # phases in memory
_THIN = -1  # `kernels.algebra.THIN`: what has no geometry is compared with nothing
_REPORT = 15.0  # seconds between lines in the log


def open_store(path: Path, cache: Path, threads: int = 1) -> PhaseStore:
    """The store of a table; built first where there is none of its content.

    Args:
        path: as `tables.StructureFile` takes it. cache: folder of stores.
        threads: that build. Nothing depends on their number.

    Raises:
        InputError: the table cannot be used. StorageError: the store cannot be written.
    """
    file = StructureFile(path)
    folder = cache / "phases" / f"{file.digest[:32]}-{FORMAT}"
    store = _open(folder)
    if store is None:
        begin = time.monotonic()
        log.info("%s: its structures are reduced, once; the result is kept in %s", path.name, folder)
        _build(file, folder, threads)
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


def _build(file: StructureFile, folder: Path, threads: int) -> None:
    index, ends, atoms = _Index(), _Ends(), 0
    with ArrayWriter(folder) as writer:
        said = time.monotonic()
        phases = file.phases()
        for batch in iter(lambda: list(islice(phases, _BATCH)), []):
            packed = pack([p.crystal for p in batch if p.crystal is not None])
            facts = _facts(batch, packed)
            facts["starts"] += atoms
            atoms += len(packed.frac_coords)
            writer.append(ends.of(facts))
            writer.append(reduce_crystals(packed, len(index), threads))
            index.take(batch)
            if time.monotonic() - said > _REPORT:
                log.info("%s: %d phases so far", file.path.name, len(index))
                said = time.monotonic()
        writer.append(ends.of(index.arrays()))
        about = coverage(len(index), index.without_energy(), file.energies, file.skipped)
        writer.publish(asdict(StoreInfo(file.digest, about, file.metadata)))


def reduce_crystals(packed: Packed, first: int, threads: int) -> Arrays:
    """What the kernels compare (`kernels.batch`), of some crystals; what cannot be reduced is flagged.

    Args:
        first: number of the first crystal's row. threads: nothing depends on their number.
    """
    fit = np.array(computable(packed))
    atoms = np.repeat(fit, packed.sizes)
    found: Arrays = {
        "reduced_lattices": packed.lattices.copy(),
        "reduced_sizes": packed.sizes.astype(np.int32),
        "states": np.full(len(fit), _THIN, np.int8),
        "reduced_frac": packed.frac_coords.copy(),
        "reduced_numbers": packed.atomic_numbers.astype(np.uint8),
        "vector_rows": np.full(len(fit), _THIN, np.int32),
        "amd": np.full((len(fit), AMD_LENGTH), np.nan, np.float32),
        "units": np.full(len(fit), np.nan, np.float32),
    }
    if not fit.any():
        return found
    pool = Pool(threads)
    slots = pool.append(
        Packed(
            packed.lattices[fit],
            packed.sizes[fit],
            packed.frac_coords[atoms],
            packed.atomic_numbers[atoms],
        )
    )
    pool.reduce(slots)
    pool.vectorise(slots)
    n, m = len(slots), int(atoms.sum())
    found["reduced_lattices"][fit] = pool.lattices[:n]
    found["reduced_sizes"][fit] = pool.sizes[:n]
    found["states"][fit] = pool.states[:n]
    found["reduced_frac"][atoms] = pool.frac[:m]
    found["reduced_numbers"][atoms] = pool.numbers[:m]
    rows = pool.rows[:n]
    known = np.flatnonzero(fit)[rows >= 0]
    found["amd"][known] = pool.vectors[rows[rows >= 0]]
    found["vector_rows"][known] = first + known
    volumes = np.abs(np.linalg.det(packed.lattices[fit])) / packed.sizes[fit]
    found["units"][fit] = np.cbrt(volumes)
    return found


def _facts(phases: Sequence[Phase], packed: Packed) -> Arrays:
    """What is stored of phases as they are."""
    ids = [p.material_id.encode() for p in phases]
    energies = [p.formation_energy_per_atom for p in phases]
    return {
        "ids": np.frombuffer(b"".join(ids), np.uint8),
        "id_counts": np.array([len(i) for i in ids]),
        "compositions": np.array([pair for p in phases for pair in p.composition], dtype=np.uint32),
        "composition_counts": np.array([len(p.composition) for p in phases]),
        "energies": np.array([np.nan if e is None else e for e in energies]),
        "spacegroups": np.array([p.spacegroup or 0 for p in phases], dtype=np.int16),
        "lattices": packed.lattices,
        "frac": packed.frac_coords,
        "numbers": packed.atomic_numbers.astype(np.uint8),
        "sizes": packed.sizes.astype(np.int32),
        "starts": packed.ends - packed.sizes,
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
