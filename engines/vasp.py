"""DFT by VASP: a folder per crystal with an atomate2 Flow and the inputs of its first calculation."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.crystal import Crystal
from ..core.errors import StorageError
from ..core.records import DftTicket, Failure, Reason
from .flow_speed import cached_schema_access
from .vasp_inputs import MpMaker, VaspInputs

logger = logging.getLogger("heliodor.engines")

_MANIFEST = "manifest.json"
_PACKAGES = ("atomate2", "jobflow", "pymatgen")
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}")
_STALE_SECONDS = 3600  # an unfinished folder this old belongs to a process that died

_README = """\
DFT calculations of a Heliodor campaign
=======================================

manifest.csv lists the calculations. Each has a folder:

  flow.json      the atomate2 Flow: json.load(file, cls=monty.json.MontyDecoder)
  vasp/          INCAR, KPOINTS, POSCAR and POTCAR.spec of its first calculation, to look at, or to
                 run by hand. POTCAR.spec names the potentials; VASP's own files are not included.
  manifest.json  settings, versions and checksums

You need atomate2, a VASP licence, PMG_VASP_PSP_DIR in ~/.config/.pmgrc.yaml and VASP_CMD in
~/.atomate2.yaml. Then, on the machine where VASP is:

  import json
  from monty.json import MontyDecoder
  from jobflow import run_locally

  with open("FOLDER/flow.json") as file:
      flow = json.load(file, cls=MontyDecoder)
  run_locally(flow, create_folders=True, ensure_success=True)

Without ensure_success=True a failed run raises nothing. With jobflow-remote, to a cluster:

  from jobflow_remote import submit_flow
  submit_flow(flow, worker="WORKER", project="PROJECT")

Each job carries the crystal's key in metadata["heliodor"]. Energies may be put on the Materials
Project's GGA_GGA+U hull after MaterialsProject2020Compatibility, applied to the new entries only.
"""


class VaspEngine:
    """Prepares VASP calculations with the Materials Project's settings.

    Args:
        maker: atomate2 Maker: MPGGADoubleRelaxStaticMaker (relax, relax, static), MPGGARelaxMaker or
            MPGGAStaticMaker.

    Raises:
        InputError: another maker. MissingError: atomate2 is not installed.
    """

    name = "vasp"

    def __init__(self, maker: str = "MPGGADoubleRelaxStaticMaker") -> None:
        self._maker = MpMaker(maker)

    def prepare(self, batch: Sequence[Crystal], folder: Path) -> list[DftTicket | Failure]:
        """One folder per crystal, `folder/LiFePO4-<12 digits of its key>`; a ticket or failure for each.

        Idempotent by content: a crystal that is there with the same inputs is not written again and
        keeps its Flow's uuid; another maker's calculation of it is left alone and stands beside. A
        folder appears complete or not at all; one that does not agree with its own checksums is
        moved aside (`<name>.incomplete-...`) and made again.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            with cached_schema_access():
                return [self._prepare(crystal, folder) for crystal in batch]
        except OSError as error:
            raise StorageError(f"cannot write DFT inputs under {folder}: {error}") from error

    def _prepare(self, crystal: Crystal, folder: Path) -> DftTicket | Failure:
        try:
            inputs = self._maker.inputs(crystal)
            target, done = _place(folder, crystal, inputs.digest)
            texts, record = ({}, done) if done else self._calculation(crystal, inputs)
        except OSError:
            raise
        except Exception as error:  # pymatgen and atomate2 raise many types for odd cells
            detail = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            logger.debug("no DFT input for %r", crystal, exc_info=True)
            return Failure(crystal.digest, Reason.DFT_INPUT, detail)
        if not done:
            record = _write(target, texts, record)
        return DftTicket(
            crystal.digest, self.name, str(target), record["input_digest"], record["flow_uuid"]
        )

    def _calculation(
        self, crystal: Crystal, inputs: VaspInputs
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Texts of the files, and the manifest."""
        from monty.json import MontyEncoder

        flow = self._maker.flow(crystal, inputs.digest)
        jobs = [job.name for job, _ in flow.iterflow()]
        texts = {f"vasp/{name}": text for name, text in inputs.files.items()}
        texts["flow.json"] = json.dumps(flow, cls=MontyEncoder)
        record = {
            "key": crystal.digest,
            "formula": crystal.formula,
            "n_atoms": len(crystal),
            "engine": self.name,
            "maker": self._maker.name,
            "input_digest": inputs.digest,
            "flow_uuid": flow.uuid,
            "n_jobs": len(jobs),
            "jobs": jobs,
            "settings": inputs.settings,
            "notes": list(inputs.notes),
            "files": {name: _sha256(text.encode()) for name, text in texts.items()},
            "versions": {package: metadata.version(package) for package in _PACKAGES},
        }
        return texts, record

    def write_manifest(self, tickets: Sequence[DftTicket], folder: Path) -> Path:
        """List all calculations in `folder/manifest.csv`; see the function `write_manifest`."""
        return write_manifest(folder, tickets)


def write_manifest(folder: Path, tickets: Sequence[DftTicket]) -> Path:
    """List all tickets in `folder/manifest.csv` and `.json`, with a README on how to submit them.

    Paths in it are relative to `folder`, so that it can be copied to a cluster as a whole. A folder
    that was moved away is listed with what the ticket knows. Returns the path of the CSV file.

    Raises:
        StorageError: the folder cannot be written.
    """
    table = io.StringIO()
    try:
        rows = [_row(folder, ticket) for ticket in tickets]
        writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "README.txt", _README)
        _replace(folder / _MANIFEST, json.dumps(rows, indent=1) + "\n")
        _replace(folder / "manifest.csv", table.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write the list of calculations in {folder}: {error}") from error
    return folder / "manifest.csv"


_FROM_RECORD = ("formula", "n_atoms", "maker", "n_jobs", "settings", "notes")
_COLUMNS = (
    "formula", "folder", "key", "maker", "n_jobs", "n_atoms", "run_type", "hubbard_u",
    "potcar_symbols", "flow_uuid", "input_digest", "notes",
)  # fmt: skip


def _row(folder: Path, ticket: DftTicket) -> dict[str, Any]:
    path = Path(ticket.path)
    record = _manifest(folder / path.name) or _manifest(path) or {}
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


def _place(folder: Path, crystal: Crystal, digest: str) -> tuple[Path, dict[str, Any] | None]:
    """Where the calculation belongs, and its manifest if it is there already."""
    name = f"{crystal.formula}-{crystal.digest[:12]}"
    target = folder / name
    done = _complete(target)
    if done and done["input_digest"] != digest:  # other settings: stand beside, overwrite nothing
        target = folder / f"{name}-{digest[:8]}"
        done = _complete(target)
    return target, done


def _complete(target: Path) -> dict[str, Any] | None:
    """The folder's manifest, if all files that it names are there and are what it says."""
    record = _manifest(target)
    if record is None:
        return None
    for name, sha256 in record["files"].items():
        path = target / name
        if not path.is_file() or _sha256(path.read_bytes()) != sha256:
            return None
    return record


def _manifest(target: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and {"files", "input_digest", "flow_uuid"} <= record.keys()
    return record if whole else None


def _write(target: Path, texts: Mapping[str, str], record: dict[str, Any]) -> dict[str, Any]:
    """Write the folder beside its place and rename it; returns the manifest that is there then."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name, text in texts.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (partial / _MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
            other = _complete(target)
            if other and other["input_digest"] == record["input_digest"]:
                return other  # another process was first
            aside = target.with_name(f"{target.name}.incomplete-{uuid.uuid4().hex[:8]}")
            logger.warning("%s is incomplete or was changed; moved to %s", target, aside.name)
            target.rename(aside)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _sweep(folder: Path) -> None:
    """Remove the unfinished folders of processes that died."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # its process may be alive after all
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
