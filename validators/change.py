"""How far a relaxation moved a crystal: the less, the nearer to a minimum the proposal was."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..core.columns import Column, Value
from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.records import Judged

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

_log = logging.getLogger("heliodor.validators")

_TOLERANCE = 0.5  # of lengths and sites; with 10 degrees, far looser than what makes crystals the same


class Change:
    """RMSD and volume change by relaxation; null where nothing was relaxed.

    The RMSD is the matcher's root mean square distance of paired sites after the best common shift, at
    0.5 / 0.5 / 10 degrees and without rescaling of the volume, times the cube root of the volume per
    atom of the crystal with the mean cell parameters: as MatterGen reports it (Zeni et al., Nature 639,
    624 (2025)). A pair that the matcher cannot lay over one another has moved too far to tell.
    """

    name = "change"
    columns = (
        Column(
            "rmsd_from_relaxation",
            "float64",
            "root mean square displacement of the sites by relaxation",
            "angstrom",
            "pymatgen StructureMatcher 0.5/0.5/10, as MatterGen counts it",
            "null where nothing was relaxed, or it moved too far to pair sites; in a cell that is "
            "not primitive within 0.25 angstrom, displacements are averaged over the primitive cells",
        ),
        Column(
            "volume_change",
            "float64",
            "relative change of the volume by relaxation",
            limits="null where nothing was relaxed",
        ),
    )

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        return [self._one(item) for item in batch]

    def _one(self, item: Judged) -> dict[str, Value]:
        if item.relaxed is None:
            return {}
        before, after = item.proposed, item.relaxed.crystal
        return {
            "rmsd_from_relaxation": self.rmsd(before, after),
            "volume_change": after.volume / before.volume - 1,
        }

    def rmsd(self, before: Crystal, after: Crystal) -> float | None:
        """Root mean square displacement in angstrom; None where the sites cannot be paired."""
        try:
            found = self._matcher.get_rms_dist(to_structure(after), to_structure(before))
        except Exception as error:  # of any kind, from geometry libraries on absurd cells
            _log.debug("no RMSD of %s: %r", before.digest, error)
            return None
        return None if found is None else float(found[0]) * spacing(before, after)

    @cached_property
    def _matcher(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        # Supercells: a relaxation may find a smaller primitive cell.
        return StructureMatcher(_TOLERANCE, _TOLERANCE, 10, scale=False, attempt_supercell=True)


def spacing(before: Crystal, after: Crystal) -> float:
    """(Volume per atom)^(1/3) in angstrom of the crystal with the mean lengths and angles."""
    from pymatgen.core import Lattice

    a, b = Lattice(before.lattice).parameters, Lattice(after.lattice).parameters
    mean = Lattice.from_parameters(*((x + y) / 2 for x, y in zip(a, b, strict=True)))
    return float((mean.volume / len(before)) ** (1 / 3))
