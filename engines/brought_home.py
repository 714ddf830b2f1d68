"""Calculations that ran elsewhere: folders copied to a cluster, run there, and copied back.

What is in a folder is read once, put beside it as `result.json`, and found there ever after. A folder
that is unfinished, truncated, of another level or of another crystal says so, and gives no number; it is
read anew each time, for tomorrow it may be complete.
"""

from __future__ import annotations

from pathlib import Path

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.lock import is_worked_in
from ..core.records import DftResult, DftTicket, Failure, Reason
from .calculation import made_result
from .calculation_folder import manifest_of
from .dft_results import crystal_of, read_result, write_result
from .recipe import FolderReader, Parsed, Recipe


def brought_home(ticket: DftTicket, recipe: Recipe) -> DftResult | Failure | None:
    """What a calculation came to where it ran; None where nothing has come back yet.

    Either `heliodor.engines.calculate` ran there and left its result, or the program ran by hand, by
    jobflow or by a queue, and the recipe reads its files.
    """
    folder = Path(ticket.path)
    ended = read_result(folder, ticket.input_digest)
    record = manifest_of(folder)
    if isinstance(ended, DftResult) or record is None or is_worked_in(folder):
        return ended
    found = recipe.parse_folder(folder) if isinstance(recipe, FolderReader) else None
    if found is None:
        return ended
    if not isinstance(found, Parsed):
        return ended or Failure(ticket.key, found.reason, found.detail)
    if not _same(found.crystal, crystal_of(record["crystal"])):
        return Failure(ticket.key, Reason.DFT_FAILED, _foreign(found, folder))
    result = made_result(found, record, folder)
    write_result(folder, result)
    return result


def _same(found: Crystal, asked: Crystal) -> bool:
    """Whether DFT's crystal is the one that was asked for, relaxed: by pymatgen's matcher.

    It does not look at the volume.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    if found.reduced_composition != asked.reduced_composition:
        return False
    return bool(StructureMatcher().fit(to_structure(found), to_structure(asked)))


def _foreign(found: Parsed, folder: Path) -> str:
    return (
        f"{folder}: its {found.crystal.formula} is not the crystal that was asked for; another"
        " calculation's files, or it relaxed into another structure (`python -m"
        " heliodor.engines.calculate FOLDER` on the cluster takes that, for it follows each step)"
    )
