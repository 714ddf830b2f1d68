"""The calculations of a campaign that have ended with a result."""

from __future__ import annotations

from pathlib import Path

from ..core.records import DftResult
from .calculation_folder import manifest_of
from .dft_results import read_result, read_shared


def finished_results(folder: Path, shared: Path | None = None) -> list[DftResult]:
    """Results of the calculations in `folder`, one per content of inputs, by name of their folders.

    Candidates and the phases they compete with, whether or not a verdict came of them. Folders without a
    result, or with one that cannot be read, are left out.

    Args:
        shared: results of all campaigns of this machine, by the digest of their inputs; what another
            campaign computed has no result in `folder`.
    """
    found: dict[str, DftResult] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = manifest_of(place)
        if record is None or record["input_digest"] in found:
            continue
        digest = record["input_digest"]
        result = read_result(place, digest)
        if result is None and shared is not None:
            result = read_shared(shared, record.get("key", ""), digest)
        if isinstance(result, DftResult):
            found[digest] = result
    return list(found.values())
