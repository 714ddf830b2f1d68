"""Results of DFT as what learns from them takes it: CHGNet, SevenNet, and a table of structures.

All results of one file are of one level of theory; who calls sees to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.convert import to_atoms, to_structure
from ..core.errors import StorageError
from ..core.files import partial_of, write_text
from ..core.records import DftResult, Frame

KBAR = 1602.1766208
"""In one eV/angstrom^3."""


@dataclass(frozen=True)
class Labelled:
    """A crystal with what DFT says of it.

    Args:
        name: a different one for each crystal of a file.
        labels: further numbers by column, for the table of structures; None: not known.
        path: steps of its relaxation, for potentials.
    """

    name: str
    result: DftResult
    labels: Mapping[str, float | None] = field(default_factory=dict)
    path: Sequence[Frame] = ()

    @property
    def whole(self) -> bool:
        """Whether it has the forces and the stress that potentials are trained on."""
        return bool(self.frames)

    @property
    def frames(self) -> list[Frame]:
        """What potentials are trained on: the crystal at rest, then the steps on its way there."""
        found = self.result
        if found.forces is None or found.stress is None:
            return []
        return [Frame(found.crystal, found.energy, found.forces, found.stress), *self.path]


def write_chgnet(rows: Sequence[Labelled], path: Path) -> int:
    """JSON as `chgnet.data.dataset.StructureJsonData` reads it; returns how many crystals it holds.

    Energies in eV/atom, forces in eV/angstrom; stresses in kbar with VASP's sign, which CHGNet turns
    into GPa with ASE's sign (times -0.1). No magnetic moments of sites. Rows without forces or stress
    are left out: CHGNet would put another crystal in their place without a word. The steps of a crystal
    stand under its name, for CHGNet splits by name: none is tested on what it was trained on.

    Raises:
        StorageError: it cannot be written.
    """
    content = {
        row.name: {f"{row.name}-{i}": _for_chgnet(frame) for i, frame in enumerate(row.frames)}
        for row in rows
        if row.whole
    }
    write_text(path, json.dumps(content) + "\n", "the training set")
    return len(content)


def _for_chgnet(frame: Frame) -> dict[str, Any]:
    return {
        "structure": to_structure(frame.crystal).as_dict(),
        "energy_per_atom": frame.energy_per_atom,
        "force": [list(vector) for vector in frame.forces],
        "stress": (-KBAR * np.array(frame.stress)).tolist(),
        "magmom": None,
    }


def write_sevennet(rows: Sequence[Labelled], path: Path) -> int:
    """Extended XYZ with energy (eV), forces (eV/angstrom) and stress (eV/angstrom^3, ASE's sign).

    SevenNet takes such files as `load_trainset_path`. Rows without forces are left out: SevenNet refuses
    them. Returns how many crystals it holds; steps of one crystal bear its name.

    Raises:
        StorageError: it cannot be written.
    """
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for row in rows:
        for frame in row.frames:
            atoms = to_atoms(frame.crystal)
            atoms.calc = SinglePointCalculator(
                atoms, energy=frame.energy, forces=np.array(frame.forces), stress=_voigt(frame)
            )
            atoms.info |= {"name": row.name, "dft_level": row.result.level.digest}
            images.append(atoms)
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("")
        if images:
            ase.io.write(partial, images, format="extxyz")
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write the training set {path}: {error}") from error
    return sum(row.whole for row in rows)


def _voigt(frame: Frame) -> Any:
    """(6,) xx, yy, zz, yz, xz, xy: ASE's order."""
    from ase.stress import full_3x3_to_voigt_6_stress

    return full_3x3_to_voigt_6_stress(np.array(frame.stress))


def write_structures(rows: Sequence[Labelled], path: Path) -> int:
    """Parquet as `heliodor train` and `finetune` take it: a row per crystal, its numbers as labels.

    Returns how many crystals it holds.

    Raises:
        StorageError: it cannot be written.
    """
    import pandas as pd

    names = dict.fromkeys(name for row in rows for name in row.labels)
    table = pd.DataFrame([_row(row) for row in rows]).astype(dict.fromkeys(names, "float64"))
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(partial, index=False)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write the table of structures {path}: {error}") from error
    return len(table)


def _row(row: Labelled) -> dict[str, Any]:
    crystal = row.result.crystal
    return {
        "material_id": row.name,
        "formula": crystal.formula,
        "n_atoms": len(crystal),
        "atomic_numbers": crystal.atomic_numbers,
        "frac_coords": crystal.frac_coords.ravel(),
        "lattice": crystal.lattice.ravel(),
        "dft_level_digest": row.result.level.digest,
        **row.labels,
    }
