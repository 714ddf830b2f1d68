"""The files that a campaign leaves behind: tables, summary, report, exports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.columns import Column
from ..core.errors import StorageError
from ..core.files import partial_of, write_text
from ..report.export import write_cif, write_entries_json, write_extxyz
from ..report.html import write_report
from ..validators.polymorphs import Polymorph
from .columns import columns_of
from .consensus import consensus_summary
from .context import Context
from .continuous import continuous
from .polymorphs import COLUMNS as POLYMORPH_COLUMNS
from .polymorphs import finalists_among
from .protocol import Counted, count_by_protocol
from .report_data import export_rows, report_data
from .table import Record, count, row
from .verdicts import verdicts


def write_outputs(context: Context, found: Sequence[Record], ended: str | None = None) -> dict[str, Any]:
    """Write everything into the campaign's folder; returns the summary.

    Args:
        found: all records of the campaign.
        ended: why the campaign ended; None: as the last run said.
    """
    ended = ended or _said_before(context.folder)
    folder = context.folder
    summary = {
        "name": context.campaign.name,
        "ended": ended,
        **count(found).summary(),
        "continuous": continuous(found, context.scorers, context.campaign.seed),
        "reference": f"{context.reference.info.name} ({context.reference.info.digest[:12]})",
        "relaxer": context.relaxer.model if context.relaxer else "none",
        "settings": context.campaign.science_digest(),
    }
    if opinions := consensus_summary(found):
        summary["potentials"] = opinions
    counted = count_by_protocol(context, found)
    _write_protocol(counted, folder)
    if counted is not None:
        summary["protocol"] = counted.summary()
    by_dft = context.campaign.runs_dft or any(r.verify is not None for r in found)
    columns = columns_of(context.scorers, [r.scores for r in found], by_dft=by_dft)
    write_table_of(found, columns, folder)
    if judged := verdicts(found):
        summary["verdicts"] = judged
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    polymorphs = finalists_among(context, found)
    write_polymorphs(polymorphs, folder)
    data = report_data(context, found, ended, polymorphs, counted, summary)
    write_report(data, folder / "report.html")
    best = [r for r in found if r.sun(context.campaign.select.max_energy_above_hull)]
    write_exports(best, folder / "sun")
    return summary


def _write_protocol(counted: Counted | None, folder: Path) -> None:
    path = folder / "protocol.json"
    if counted is None:
        path.unlink(missing_ok=True)  # of a run with another protocol
    else:
        write_text(path, json.dumps(counted.summary(), indent=2) + "\n")


def write_table_of(found: Sequence[Record], columns: Sequence[Column], folder: Path) -> None:
    """`crystals.parquet`, `.csv` and `.json`: a row per proposal; `columns.json` says what they hold."""
    _write([row(r) for r in found], columns, folder / "crystals", (".parquet", ".csv", ".json"))
    _describe(columns, folder / "columns.json")


def write_polymorphs(rows: Sequence[Polymorph], folder: Path) -> None:
    """`polymorphs.parquet` and `.csv`: the finalists among all crystals of their compositions."""
    _write([asdict(r) for r in rows], POLYMORPH_COLUMNS, folder / "polymorphs", (".parquet", ".csv"))
    _describe(POLYMORPH_COLUMNS, folder / "polymorphs_columns.json")


def _write(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], stem: Path, suffixes: Sequence[str]
) -> None:
    """A table, each file whole or not at all."""
    import pandas as pd

    # Nullable types, so that "not judged" is not mistaken for "no".
    types = {column.name: column.dtype for column in columns}
    table = pd.DataFrame(rows, columns=list(types)).astype(types)

    def to_json(path: Path, *, index: bool) -> None:
        table.to_json(path, orient="records", indent=1, index=index, double_precision=15)

    writers: dict[str, Callable[..., None]] = {
        ".parquet": table.to_parquet,
        ".csv": table.to_csv,
        ".json": to_json,
    }
    for suffix in suffixes:
        path = stem.with_suffix(suffix)
        partial = partial_of(path)
        try:
            writers[suffix](partial, index=False)
            partial.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _describe(columns: Sequence[Column], path: Path) -> None:
    write_text(path, json.dumps([asdict(c) for c in columns], indent=1) + "\n")


def write_exports(found: Sequence[Record], folder: Path) -> None:
    """CIF, extxyz and pymatgen JSON of the crystals."""
    rows = export_rows(found)
    write_cif(rows, folder / "cif")
    write_extxyz(rows, folder / "crystals.extxyz")
    write_entries_json([r for r in rows if r.energy is not None], folder / "entries.json")


def _said_before(folder: Path) -> str:
    try:
        return str(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError):
        return "not ended yet"
