"""Tables of crystals made ready for training: reduced, symmetrised, padded, cached."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from .arrays import load_arrays, save_arrays
from .lattice import CHANNELS
from .rows import (
    NEEDED,
    OCCUPANCIES,
    Entry,
    Row,
    check_columns,
    digest_of,
    entries_of,
    label_columns,
    read_table,
    reduced,
)
from .template import Template, rational, wrapped

__all__ = [
    "PACK_VERSION",
    "Packed",
    "concatenate",
    "digest_of",
    "pack",
    "packed",
    "read_table",
    "reduced",
]

if TYPE_CHECKING:
    import pandas as pd

PACK_VERSION = 1  # part of the cache's name: to be raised when `pack` gives other arrays
_LOG = logging.getLogger("heliodor.generators")
_HELD_OUT = 0.05


@dataclass(frozen=True, eq=False)
class Packed:
    """m crystals of at most N atoms in symmetrised primitive Niggli cells, padded to N.

    Args:
        ids: (m,) text.
        n: (m,) atoms.
        numbers: (m, N) uint8 atomic numbers, 0 in the padding.
        frac: (m, N, 3) float32 fractional coordinates, origin at the space group's.
        channels: (m, 6) float32, `lattice.channels_of`.
        spacegroup, orbit (padding -1), rotation, free, metric, key: the template (`symmetry.Template`)
            as (m,) int16, (m, N) int8, (m, N, 3, 3) int8, (m, N, 3, 3) float32, (m, 6, 6) float32, (m,).
        labels: name to (m,) float32, NaN where not known; the numeric columns of the table.
        digest: SHA-256 (hex) of the table's content.
        skipped: reason to number of rows left out.
    """

    ids: NDArray[np.str_]
    n: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    frac: NDArray[np.float32]
    channels: NDArray[np.float32]
    spacegroup: NDArray[np.int16]
    orbit: NDArray[np.int8]
    rotation: NDArray[np.int8]
    free: NDArray[np.float32]
    metric: NDArray[np.float32]
    key: NDArray[np.str_]
    labels: dict[str, NDArray[np.float32]]
    digest: str
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.n)

    @property
    def max_atoms(self) -> int:
        """N."""
        return int(self.numbers.shape[1])

    @cached_property
    def held_out(self) -> NDArray[np.bool_]:
        """(m,) whether a crystal is kept from training: 5 %, by the SHA-256 of its id."""
        limit = int(_HELD_OUT * 2**32)
        return np.array(
            [int.from_bytes(hashlib.sha256(i.encode()).digest()[:4], "big") < limit for i in self.ids],
            dtype=bool,
        )

    def template(self, i: int) -> Template:
        """The template of crystal `i`."""
        n = int(self.n[i])
        orbit = self.orbit[i, :n].astype(np.int64)
        free = rational(self.free[i, :n].astype(np.float64))
        first = np.unique(orbit, return_index=True)[1]
        home = (self.rotation[i, :n] @ free) @ self.frac[i, :n].astype(np.float64)[first[orbit]][
            ..., None
        ]
        return Template(
            spacegroup=int(self.spacegroup[i]),
            orbit=orbit,
            rotation=self.rotation[i, :n],
            free=free,
            offset=wrapped(rational(wrapped(self.frac[i, :n].astype(np.float64) - home[..., 0]))),
            metric=rational(self.metric[i].astype(np.float64)),
            key=str(self.key[i]),
        )

    def save(self, path: Path) -> None:
        """Write an npz file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for name, values in self.labels.items():
            arrays[f"label:{name}"] = values
        arrays["digest"] = np.array(self.digest)
        arrays["skipped"] = np.array(list(self.skipped), dtype=str)
        arrays["skipped_rows"] = np.array(list(self.skipped.values()), dtype=np.int64)
        save_arrays(path, arrays, "the packed crystals")

    @classmethod
    def load(cls, path: Path) -> Packed:
        """Inverse of `save`.

        Raises:
            InputError: no such file, damaged, or not of this kind.
        """
        arrays = load_arrays(path, (*_ARRAYS, "digest", "skipped", "skipped_rows"), "packed crystals")
        rows = {len(arrays[name]) for name in _ARRAYS}
        if len(rows) != 1 or arrays["numbers"].shape != arrays["orbit"].shape:
            raise InputError(f"{path}: the arrays do not belong together", hint="delete it")
        names = (str(name) for name in arrays["skipped"])
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            labels={k.removeprefix("label:"): v for k, v in arrays.items() if k.startswith("label:")},
            digest=str(arrays["digest"]),
            skipped=dict(zip(names, arrays["skipped_rows"].tolist(), strict=True)),
        )


_ARRAYS = tuple(f.name for f in fields(Packed) if f.name not in {"labels", "digest", "skipped"})


def pack(
    table: pd.DataFrame,
    *,
    max_atoms: int = 20,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Packed:
    """Each crystal of a table in its primitive Niggli cell, symmetrised, with its template.

    Rows that cannot be used are counted by reason in `Packed.skipped`.

    Args:
        table: columns material_id, atomic_numbers (n), frac_coords (3n), lattice (9, angstrom); other
            numeric columns become labels. A column `occupancies` marks disordered crystals.
        max_atoms: larger primitive cells are left out, 1 to 127.
        progress: called with (rows done, rows).
        workers: processes.

    Raises:
        InputError: missing columns, or no usable row.
    """
    check_columns(table, "the table of crystals")
    if not 1 <= max_atoms <= 127:
        raise InputError(f"max_atoms: got {max_atoms}, must be 1 to 127")
    occupancies = next((table[c] for c in OCCUPANCIES if c in table.columns), [None] * len(table))
    rows: list[Row] = list(
        zip(table["atomic_numbers"], table["frac_coords"], table["lattice"], occupancies, strict=True)
    )
    entries = entries_of(rows, max_atoms, workers, progress)
    skipped = dict(Counter(e for e in entries if isinstance(e, str)))
    kept = [i for i, e in enumerate(entries) if not isinstance(e, str)]
    if not kept:
        raise InputError(
            f"none of {len(rows)} crystals can be used: "
            + (", ".join(f"{reason} ({count})" for reason, count in skipped.items()) or "empty table"),
            hint="needed: " + "; ".join(f"{name} ({form})" for name, form in NEEDED.items()),
        )
    if skipped:
        _LOG.info("left out of %d crystals: %s", len(rows), skipped)
    ids = np.array([str(i) for i in table["material_id"].iloc[kept]])
    labels = {}
    for name in label_columns(table):
        values = table[name].iloc[kept].to_numpy(dtype=np.float64, na_value=np.nan)
        labels[name] = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    ready = [e for e in entries if not isinstance(e, str)]
    return _stacked(ready, ids, labels, max_atoms, digest_of(table), skipped)


def _stacked(
    entries: list[Entry],
    ids: NDArray[np.str_],
    labels: dict[str, NDArray[np.float32]],
    max_atoms: int,
    digest: str,
    skipped: dict[str, int],
) -> Packed:
    m = len(entries)
    packed = Packed(
        ids=ids,
        n=np.array([len(e.crystal) for e in entries]),
        numbers=np.zeros((m, max_atoms), np.uint8),
        frac=np.zeros((m, max_atoms, 3), np.float32),
        channels=np.array([e.channels for e in entries], np.float32).reshape(m, CHANNELS),
        spacegroup=np.array([e.template.spacegroup for e in entries], np.int16),
        orbit=np.full((m, max_atoms), -1, np.int8),
        rotation=np.zeros((m, max_atoms, 3, 3), np.int8),
        free=np.zeros((m, max_atoms, 3, 3), np.float32),
        metric=np.array([e.template.metric for e in entries], np.float32),
        key=np.array([e.template.key for e in entries]),
        labels=labels,
        digest=digest,
        skipped=skipped,
    )
    for i, (crystal, template, _) in enumerate(entries):
        n = len(crystal)
        packed.numbers[i, :n] = crystal.atomic_numbers
        packed.frac[i, :n] = crystal.frac_coords
        packed.orbit[i, :n] = template.orbit
        packed.rotation[i, :n] = template.rotation
        packed.free[i, :n] = template.free
    return packed


def packed(
    paths: Path | Sequence[Path],
    *,
    max_atoms: int = 20,
    cache: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """The crystals of one or more Parquet tables, from the cache where it has them.

    Args:
        paths: tables as `read_table` takes them.
        max_atoms: larger primitive cells are left out.
        cache: folder of packed tables; the file's name tells the content of the tables, `max_atoms` and
            `PACK_VERSION`.
        workers: processes.
        progress: called with (rows done, rows).

    Raises:
        InputError: a table is not readable, or no row is usable.
        StorageError: the cache cannot be written.
    """
    import pandas as pd

    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
    table = pd.concat([read_table(p) for p in files], ignore_index=True)
    if cache is None:
        return pack(table, max_atoms=max_atoms, workers=workers, progress=progress)
    path = Path(cache) / f"packed-{digest_of(table)[:20]}-{max_atoms}-v{PACK_VERSION}.npz"
    if path.exists():
        try:
            return Packed.load(path)
        except InputError as error:
            _LOG.warning("packing the table again: %s", error.message)
    fresh = pack(table, max_atoms=max_atoms, workers=workers, progress=progress)
    fresh.save(path)
    return fresh


def concatenate(parts: Sequence[Packed]) -> Packed:
    """One after another, padded to the largest N; labels that a part lacks are NaN there.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("nothing to concatenate")
    width = max(p.max_atoms for p in parts)
    arrays = {}
    for name in _ARRAYS:
        blocks = [getattr(p, name) for p in parts]
        if name in {"numbers", "frac", "orbit", "rotation", "free"}:
            fill = -1 if name == "orbit" else 0
            blocks = [
                np.pad(
                    b, [(0, 0), (0, width - b.shape[1]), *[(0, 0)] * (b.ndim - 2)], constant_values=fill
                )
                for b in blocks
            ]
        arrays[name] = np.concatenate(blocks)
    names = sorted({name for p in parts for name in p.labels})
    nothing = [np.full(len(p), np.nan, np.float32) for p in parts]
    skipped: Counter[str] = Counter()
    for p in parts:
        skipped.update(p.skipped)
    return Packed(
        **arrays,
        labels={
            name: np.concatenate(
                [p.labels.get(name, nan) for p, nan in zip(parts, nothing, strict=True)]
            )
            for name in names
        },
        digest=hashlib.sha256("|".join(p.digest for p in parts).encode()).hexdigest(),
        skipped=dict(skipped),
    )
