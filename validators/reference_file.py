"""The user's own structures as a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.protocols import Phase, ReferenceInfo
from .novelty import StructureNovelty
from .phases import Phases
from .tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ..core.crystal import Crystal
    from ..core.records import Verdict
    from .matching import MatcherSettings
    from .phases import Composition


class FileReference:
    """Structures with energies from a file (`tables.read_table`); novelty by the matcher.

    Formation energies must be on the Materials Project's GGA/GGA+U scheme with MP2020 corrections.
    Parquet carries them; for JSON of ComputedStructureEntries, `entries.phases_from_entries` says how
    they are derived, and `info.coverage` says which way was taken.

    Args:
        path: the table. settings: tolerances of the matcher.

    Raises:
        InputError: the file cannot be used; says why.
    """

    def __init__(self, path: Path, settings: MatcherSettings | None = None) -> None:
        table = read_table(path)
        self._phases = Phases(table.phases)
        self._novelty = StructureNovelty(_structures(table.phases), settings)
        self.info = ReferenceInfo(
            name=f"file {path.name}",
            digest=table.digest,
            n_phases=len(table.phases),
            coverage=table.coverage,
        )

    def entries(self, elements: Iterable[str]) -> Sequence[Phase]:
        """Phases with a formation energy whose elements are a subset of `elements`."""
        return self._phases.entries(elements)

    def like(self, composition: Composition) -> Sequence[Phase]:
        """Phases of that reduced composition."""
        return self._phases.like(composition)

    def match(self, batch: Sequence[Crystal]) -> list[Verdict]:
        """Novelty by structure: one verdict per crystal."""
        return self._novelty.check(batch)


def _structures(phases: Iterable[Phase]) -> list[tuple[str, Crystal]]:
    return [(p.material_id, p.crystal) for p in phases if p.crystal is not None]
