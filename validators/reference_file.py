"""The user's own structures as a reference."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..core.protocols import Phase, ReferenceInfo
from .novelty import StructureNovelty
from .store_build import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..core.crystal import Crystal
    from ..core.records import Verdict
    from .matching import MatcherSettings
    from .phases import Composition


class FileReference:
    """Structures with energies from a file (`tables.StructureFile`); novelty by the matcher.

    Formation energies must be on the Materials Project's GGA/GGA+U scheme with MP2020 corrections.
    Parquet carries them; for JSON of ComputedStructureEntries, `entries.phases_from_entries` says how
    they are derived, and `info.coverage` says which way was taken.

    The structures are reduced once per content of the file and then read memory-mapped (`PhaseStore`).

    Args:
        path: the table. settings: tolerances of the matcher.
        cache: folder of stores; None: a temporary one, which goes with the reference.
        threads: that build the store, and judge a batch; nothing depends on their number.

    Raises:
        InputError: the file cannot be used; says why. StorageError: the store cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: MatcherSettings | None = None,
        cache: Path | None = None,
        threads: int = 1,
    ) -> None:
        if cache is None:
            self._temporary = TemporaryDirectory(prefix="heliodor-")
            cache = Path(self._temporary.name)
        self.known = open_store(path, cache, threads)
        self._novelty = StructureNovelty(self.known, settings, threads)
        self.info = ReferenceInfo(
            name=f"file {path.name}",
            digest=self.known.info.digest,
            n_phases=len(self.known),
            coverage=self.known.info.coverage,
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`; no crystals."""
        return self.known.entries(elements)

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition, with their crystals."""
        return self.known.like(composition)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty by structure: one verdict per crystal."""
        return self._novelty.check(batch)
