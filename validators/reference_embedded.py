"""The table of Materials Project phases that ships with Heliodor, and how it is made.

It holds facts (id, formula, space group, energies) and fingerprints, never structures: whether a crystal
is known is judged by `fingerprint.species_fingerprint`, with the error rates given there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib import resources
from multiprocessing import get_context
from typing import TYPE_CHECKING

from ..core.elements import ATOMIC_NUMBERS, SYMBOLS
from ..core.errors import InputError, StorageError
from ..core.protocols import Phase, ReferenceInfo
from .fingerprint import pack_fingerprint, species_fingerprint
from .fingerprint_novelty import FingerprintNovelty
from .packed_phases import PackedPhases
from .phases import Phases
from .table_parquet import open_parquet
from .tables import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from ..core.crystal import Crystal
    from ..core.records import Verdict
    from .phases import Composition

log = logging.getLogger("heliodor.validators")

ATTRIBUTION = (
    "Materials Project (A. Jain et al., APL Mater. 1, 011002 (2013), CC BY 4.0), by way of MP-20 "
    "(T. Xie et al., CDVAE, ICLR 2022) and MPTS-52 (S. Baird, T. Sparks, 2022; R. Jiao et al., 2023)"
)
COVERAGE = (
    "{n:,} phases, nearly all experimentally known; the hull is a subset of the Materials Project's: "
    "energies above it are lower bounds"
)

_BLOCK = 200


class EmbeddedReference:
    """The embedded table as a reference. Its phases have no crystals; `match` goes by fingerprints.

    Args:
        path: another table made by `build_reference`; by default the one in the package.

    Raises:
        InputError: not such a table. StorageError: the package's own table is missing.
    """

    def __init__(self, path: Path | None = None) -> None:
        name, content = _read(path)
        table = open_parquet(path or _default(), content)
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if "coverage" not in metadata or "fingerprint" not in table.column_names:
            raise InputError(f"{name}: no table of fingerprints", hint="make one with build_reference")
        phases = _phases(table)
        self._phases = Phases(phases)
        self._fingerprints: list[bytes | None] = table.column("fingerprint").to_pylist()
        self.known = PackedPhases(self._phases, self._fingerprints)
        self.info = ReferenceInfo(
            name=name,
            digest=hashlib.sha256(content).hexdigest(),
            n_phases=len(phases),
            coverage=metadata["coverage"],
            attribution=metadata["attribution"],
            date=metadata["date"],
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`."""
        return self._phases.entries(elements)

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition."""
        return self._phases.like(composition)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty by fingerprint: one verdict per crystal."""
        return self._novelty.check(batch)

    @cached_property
    def _novelty(self) -> FingerprintNovelty:
        known = [
            (p.material_id, p.composition, f)
            for p, f in zip(self._phases.all, self._fingerprints, strict=True)
            if f is not None
        ]
        ids, compositions, packed = zip(*known, strict=True)
        return FingerprintNovelty(ids, compositions, packed)


def is_fingerprint_table(path: Path) -> bool:
    """Whether a file is a table that `build_reference` wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "fingerprint" in pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid):  # not there, or no Parquet: whoever reads it says so
        return False


def build_reference(
    table_path: Path,
    out_path: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ReferenceInfo:
    """Make a table of facts and fingerprints from a table of structures.

    Args:
        table_path: Materials Project structures, as `tables.read_table` takes them.
        out_path: the Parquet file to write (replaced at once, when complete).
        workers: processes for the fingerprints (about 5 ms a crystal).
        progress: called with (done, total).

    Raises:
        InputError: the table cannot be used. StorageError: `out_path` cannot be written.
    """
    import pyarrow as pa

    source = read_table(table_path)
    above = _energies_above_hull(table_path)
    crystals = [p.crystal for p in source.phases if p.crystal is not None]
    packed = _fingerprints(crystals, workers, progress)
    table = pa.table(
        {
            "material_id": pa.array([p.material_id for p in source.phases], pa.string()),
            "formula": pa.array([_formula(p.composition) for p in source.phases], pa.string()),
            "spacegroup": pa.array([p.spacegroup for p in source.phases], pa.uint8()),
            "formation_energy_per_atom": pa.array(
                [p.formation_energy_per_atom for p in source.phases], pa.float32()
            ),
            "e_above_hull": pa.array([above.get(p.material_id) for p in source.phases], pa.float32()),
            "fingerprint": pa.array(packed, pa.binary()),
        }
    )
    lost = packed.count(None)
    coverage = COVERAGE.format(n=len(packed)) + (f"; {lost} without fingerprint" if lost else "")
    metadata = {
        "coverage": coverage,
        "attribution": ATTRIBUTION,
        "date": datetime.now(UTC).date().isoformat(),
        "source_sha256": source.digest,
    }
    _write(table.replace_schema_metadata(metadata), out_path)
    return EmbeddedReference(out_path).info


def _energies_above_hull(path: Path) -> dict[str, float | None]:
    """Energies above the full hull of the source (eV/atom) by id, where the table has them."""
    if path.suffix != ".parquet":
        return {}
    table = open_parquet(path, path.read_bytes())
    if "e_above_hull" not in table.column_names:
        return {}
    ids, values = (table.column(name).to_pylist() for name in ("material_id", "e_above_hull"))
    return dict(zip(map(str, ids), values, strict=True))


def _fingerprints(
    crystals: Sequence[Crystal], workers: int, progress: Callable[[int, int], None] | None
) -> list[bytes | None]:
    blocks = [crystals[i : i + _BLOCK] for i in range(0, len(crystals), _BLOCK)]
    packed: list[bytes | None] = []
    with ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn")) as pool:
        for block in pool.map(_pack_block, blocks):
            packed.extend(block)
            if progress is not None:
                progress(len(packed), len(crystals))
    return packed


def _pack_block(crystals: Sequence[Crystal]) -> list[bytes | None]:
    return [_pack(crystal) for crystal in crystals]


def _pack(crystal: Crystal) -> bytes | None:
    try:
        return pack_fingerprint(species_fingerprint(crystal))
    except Exception:  # of any kind, from geometry libraries on absurd cells; counted in the coverage
        log.warning("no fingerprint of %r", crystal, exc_info=True)
        return None


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(table, part, compression="zstd", compression_level=19, use_dictionary=False)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _default() -> Path:
    from pathlib import Path

    return Path(str(resources.files(__package__).joinpath("data/embedded.parquet")))


def _read(path: Path | None) -> tuple[str, bytes]:
    """Name and content of the table."""
    if path is None:
        try:
            return "embedded Materials Project", _default().read_bytes()
        except OSError as error:
            raise StorageError(
                f"the embedded table is missing ({error})", hint="install heliodor again"
            ) from error
    try:
        return f"table {path.name}", path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _phases(table: pa.Table) -> list[Phase]:
    names = ("material_id", "formula", "formation_energy_per_atom", "spacegroup")
    columns = (table.column(name).to_pylist() for name in names)
    return [
        Phase(material_id, tuple(map(_token, formula.split())), energy, spacegroup)
        for material_id, formula, energy, spacegroup in zip(*columns, strict=True)
    ]


def _formula(composition: Composition) -> str:
    """A composition as text with every count written, for example "Li1 O4 P1 Fe1"."""
    return " ".join(f"{SYMBOLS[z]}{n}" for z, n in composition)


@cache
def _token(text: str) -> tuple[int, int]:
    symbol = text.rstrip("0123456789")
    return ATOMIC_NUMBERS[symbol], int(text[len(symbol) :])
