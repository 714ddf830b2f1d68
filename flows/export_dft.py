"""`heliodor export-dft`: what a campaign's DFT found, for potentials and generators to learn from."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import write_text
from ..core.levels import Level
from ..core.records import DftResult, Frame, HullPoint
from ..core.settings import load_settings
from ..engines.finished import finished_results
from ..engines.relaxation_path import relaxation_path
from ..report.training_sets import Labelled, write_chgnet, write_sevennet, write_structures
from ..tasks.report_dft import FOLDER
from ..tasks.table import Record, records
from ..validators.level_hull import LevelHull
from .build import reopen

CHGNET, SEVENNET, STRUCTURES = "chgnet.json", "sevennet.extxyz", "structures.parquet"
COMPARED = "potential_against_dft.csv"
_README = """\
What DFT found in a Heliodor campaign, for learning
===================================================

A folder per level of theory (levels.json says what each is). Energies of different levels must never
meet in one training set: total energies of two levels differ by electronvolts per atom. The crystals
are the candidates and the phases that they compete with, each as DFT relaxed it. Their forces are about
zero, so they teach energies, volumes and stresses more than forces. With --steps the files for CHGNet
and SevenNet hold the steps of the relaxations too, whose forces are not zero. They are of the same
functional and potentials, but computed with the relaxation's settings: VASP's relaxations have coarser
k-points than the static calculations, and the plane waves are those of the first cell. Steps of one
crystal bear its name: keep them on one side of a split into training and test.

  chgnet.json               CHGNet: chgnet.data.dataset.StructureJsonData("chgnet.json", converter,
                            targets="efs"). eV/atom, eV/angstrom, kbar with VASP's sign; no moments.
  sevennet.extxyz           SevenNet: load_trainset_path. eV, eV/angstrom, eV/angstrom^3 (ASE's sign).
  structures.parquet        `heliodor train`, or `heliodor finetune --property dft_...`. Energies in
                            eV/atom, volumes in angstrom^3/atom, gaps in eV, moments in Bohr
                            magneton/atom; dft_energy_above_hull is taken against all crystals of the
                            level that were computed, dft_formation_energy_per_atom against its
                            elements.
  potential_against_dft.csv the verdicts: each candidate by the potential and by DFT.

Before fine-tuning on another code or other pseudopotentials than those of the potential, let the
reference energies of the elements be fitted anew (CHGNet: Trainer.train(train_composition_model=True);
SevenNet: shift: elemwise_reference_energies). CHGNet 0.3.0 was trained on energies with the MP2020
corrections; no correction is in these files. A level whose functional is called "learned" is a potential
in DFT's place: nothing to learn from.
"""


@dataclass(frozen=True)
class LevelSet:
    """What was written of one level.

    Args:
        crystals: in the table of structures. with_forces: in CHGNet's and SevenNet's files.
        steps: of relaxations, beside them in the same files.
        verdicts: rows of the comparison.
    """

    folder: str
    level: Level
    crystals: int
    with_forces: int
    steps: int
    verdicts: int

    def as_dict(self) -> dict[str, Any]:
        """For levels.json and `--json`."""
        return {**asdict(self), "level": self.level.as_dict()}


def export_dft(folder: Path, out: Path, *, steps: bool = False) -> list[LevelSet]:
    """Write the training sets of all levels of a campaign.

    Args:
        folder: of the campaign. steps: with the steps of the relaxations, where they are at hand.

    Raises:
        InputError: no campaign there, or no calculation with a result. StorageError: no room in `out`.
    """
    settings = load_settings()
    ledger, _ = reopen(folder, settings)
    results = finished_results(folder / FOLDER, settings.cache / FOLDER)
    if not results:
        raise InputError(
            f"no calculation in {folder / FOLDER} has a result",
            hint=f"heliodor verify {folder} runs them",
        )
    verified = [r for r in records(ledger) if r.verify and "verdict" in r.verify.data]
    by_level: dict[str, list[DftResult]] = {}
    for result in results:
        by_level.setdefault(result.level.digest, []).append(result)
    paths = {r.input_digest: _path(folder / FOLDER, r) for r in results} if steps else {}
    written = [_write(group, verified, paths, out) for group in by_level.values()]
    listed = [found.as_dict() for found in written]
    write_text(out / "levels.json", json.dumps(listed, indent=1) + "\n")
    write_text(out / "README.txt", _README)
    return written


def _path(folder: Path, result: DftResult) -> list[Frame]:
    """The steps of a result's relaxations: here, or where another campaign computed it."""
    there = Path(result.path)
    here = relaxation_path(folder / there.name, result.input_digest)
    return here or relaxation_path(there, result.input_digest)


def _write(
    results: Sequence[DftResult],
    verified: Sequence[Record],
    paths: Mapping[str, Sequence[Frame]],
    out: Path,
) -> LevelSet:
    level = results[0].level
    name = re.sub(r"[^A-Za-z0-9.+]+", "-", f"{level.functional}-{level.code}-{level.digest[:8]}")
    place = out / name
    rows = _labelled(level, results, paths)
    write_chgnet(rows, place / CHGNET)
    with_forces = write_sevennet(rows, place / SEVENNET)
    crystals = write_structures(rows, place / STRUCTURES)
    lines = [_line(r) for r in verified if r.verify and r.verify.data["level"]["digest"] == level.digest]
    write_text(place / COMPARED, _csv(lines))
    steps = sum(len(row.path) for row in rows if row.whole)
    return LevelSet(name, level, crystals, with_forces, steps, len(lines))


def _labelled(
    level: Level, results: Sequence[DftResult], paths: Mapping[str, Sequence[Frame]]
) -> list[Labelled]:
    """The results with names and the numbers of the table; a Materials Project hull is not ours."""
    hull = None
    if level.hull == "own":
        hull = LevelHull(level, [(_name(r), r) for r in results])
    return [
        Labelled(_name(r), r, dict(_labels(r, hull)), paths.get(r.input_digest, ())) for r in results
    ]


def _name(result: DftResult) -> str:
    return f"{result.crystal.formula}-{result.key[:12]}"


def _labels(result: DftResult, hull: LevelHull | None) -> Iterator[tuple[str, float | None]]:
    n = len(result.crystal)
    judged = hull.judge(result) if hull else None
    point = judged if isinstance(judged, HullPoint) else None  # an element was not computed
    moment = result.magnetization
    yield "dft_energy_per_atom", result.energy_per_atom
    yield "dft_formation_energy_per_atom", point.formation_energy_per_atom if point else None
    yield "dft_energy_above_hull", point.energy_above_hull if point else None
    yield "dft_volume_per_atom", result.crystal.volume / n
    yield "dft_band_gap", result.band_gap
    yield "dft_magnetization_per_atom", None if moment is None else moment / n


def _line(record: Record) -> dict[str, Any]:
    """A verdict: the potential and DFT side by side."""
    assert record.verify is not None
    data: Mapping[str, Any] = record.verify.data
    hull, result, compared = data["hull"], data["result"], data["compared"]
    return {
        "slot": record.slot,
        "formula": record.crystal.formula if record.crystal else "",
        "verdict": data["verdict"],
        "potential": compared["model"],
        "level": hull["level"],
        "energy_above_hull_potential": compared["energy_above_hull"],
        "energy_above_hull_dft": hull["energy_above_hull"],
        "decomposition_energy_potential": hull["decomposition_energy"]
        + compared["energy_above_hull_difference"],
        "decomposition_energy_dft": hull["decomposition_energy"],
        "formation_energy_per_atom_potential": compared["formation_energy_per_atom"],
        "formation_energy_per_atom_dft": hull["formation_energy_per_atom"],
        "volume_per_atom_potential": compared["volume_per_atom"],
        "volume_per_atom_dft": result["volume_per_atom"],
        "rmsd": compared["rmsd"],
        "input_digest": result["input_digest"],
    }


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
