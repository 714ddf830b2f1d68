"""The list of all calculations of a campaign, for whoever submits them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import StorageError
from ..core.files import write_text
from ..core.records import DftTicket
from .calculation_folder import MANIFEST, manifest_of

_FROM_RECORD = ("formula", "n_atoms", "maker", "n_jobs", "settings", "notes")
_COLUMNS = (
    "formula", "folder", "key", "maker", "n_jobs", "n_atoms", "run_type", "hubbard_u",
    "potcar_symbols", "flow_uuid", "input_digest", "notes",
)  # fmt: skip

README = """\
DFT calculations of a Heliodor campaign
=======================================

manifest.csv lists the calculations. Each has a folder:

  flow.json      the atomate2 Flow: json.load(file, cls=monty.json.MontyDecoder)
  manifest.json  level of theory, settings, versions and checksums
  abinit/, vasp/ the inputs of its first calculation, to look at, or to run by hand. For VASP,
                 POTCAR.spec names the potentials; VASP's own files are not included.

One calculation, here or in a job of a cluster's queue (it needs the program and Heliodor, no network):

  python -m heliodor.engines.calculate FOLDER

It writes result.json or failure.json into the folder; jobs.sqlite holds the jobs' documents. Run again,
it goes on where it stopped. `heliodor verify` runs all that are left and judges the crystals; where they
run elsewhere (`run: false`), it judges those whose folders have come back. Folders in which VASP ran by
hand, anywhere below them, are read as well: vasprun.xml, OUTCAR and CONTCAR are needed. For a maker with
a static calculation at its end, that is the one whose energy counts (NSW = 0).

With jobflow alone, on a machine with atomate2 and the program (for VASP: a licence, PMG_VASP_PSP_DIR in
~/.config/.pmgrc.yaml and VASP_CMD in ~/.atomate2.yaml):

  import json
  from monty.json import MontyDecoder
  from jobflow import run_locally

  with open("FOLDER/flow.json") as file:
      flow = json.load(file, cls=MontyDecoder)
  run_locally(flow, create_folders=True, ensure_success=True)

Without ensure_success=True a failed run raises nothing. With jobflow-remote, to a cluster:

  from jobflow_remote import submit_flow
  submit_flow(flow, worker="WORKER", project="PROJECT")

Each job carries the crystal's key in metadata["heliodor"]. Energies of VASP's MPGGA makers may be put
on the Materials Project's GGA_GGA+U hull after MaterialsProject2020Compatibility, applied to the new
entries only; energies of ABINIT and GPAW never.
"""


def write_manifest(folder: Path, tickets: Sequence[DftTicket]) -> Path:
    """List all tickets in `folder/manifest.csv` and `.json`, with a README on how to run them.

    Paths in it are relative to `folder`, so that it can be copied to a cluster as a whole. A folder
    that was moved away is listed with what the ticket knows. Returns the path of the CSV file.

    Raises:
        StorageError: the folder cannot be written.
    """
    table = io.StringIO()
    try:
        rows = [_row(folder, ticket) for ticket in tickets]
    except OSError as error:
        raise StorageError(f"cannot read the calculations in {folder}: {error}") from error
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    what = "the list of calculations"
    write_text(folder / "README.txt", README, what)
    write_text(folder / MANIFEST, json.dumps(rows, indent=1) + "\n", what)
    write_text(folder / "manifest.csv", table.getvalue(), what)
    return folder / "manifest.csv"


def _row(folder: Path, ticket: DftTicket) -> dict[str, Any]:
    path = Path(ticket.path)
    record = manifest_of(folder / path.name) or manifest_of(path) or {}
    return {
        "key": ticket.key,
        "folder": path.name,
        "flow_uuid": ticket.flow_uuid,
        "input_digest": ticket.input_digest,
        **{name: record.get(name) for name in _FROM_RECORD},
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    settings = row["settings"] or {}
    flat = {**row, **settings}
    flat["hubbard_u"] = " ".join(f"{s}={u:g}" for s, u in settings.get("hubbard_u", {}).items())
    flat["potcar_symbols"] = " ".join(settings.get("potcar_symbols", []))
    flat["notes"] = " ".join(row["notes"] or [])
    return {name: flat.get(name) for name in _COLUMNS}
