"""Space groups, and CIF files that say how their symmetry was found.

The cell, its operations and its atoms come from one spglib analysis (A. Togo et al., Sci. Technol.
Adv. Mater. Meth. 4, 2384822 (2024)). Analysing the refined cell a second time, as pymatgen's
CifWriter does, finds another group for about one in ten crystals whose distortion is near the
tolerance, and the file then holds another crystal.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.convert import from_structure, to_structure
from ..core.crystal import Crystal
from ..core.elements import SYMBOLS
from ..core.errors import InputError


def symmetry(crystal: Crystal, symprec: float = 0.01) -> tuple[int, str] | None:
    """(number, Hermann-Mauguin symbol) of the space group within `symprec` angstrom, by spglib.

    None where spglib finds no answer (overlapping atoms, a cell that is not finite or flat).

    Raises:
        InputError: `symprec` is not positive.
    """
    dataset = _dataset(crystal, symprec)
    return None if dataset is None else (int(dataset.number), str(dataset.international))


def cif_text(crystal: Crystal, symprec: float, comments: Sequence[str] = ()) -> str:
    """The crystal as CIF: idealised conventional cell, operations, and one atom of each orbit.

    A comment gives the space group and the tolerance. Where no symmetry is found, or the file would
    not read back as the same crystal, the cell is written as it is in P1, and the comment says that
    this is no finding. `comments` follow, one line each, in the characters that CIF allows.

    Raises:
        InputError: `symprec` is not positive.
    """
    from pymatgen.io.cif import CifWriter

    dataset = _dataset(crystal, symprec)
    text = None if dataset is None else _symmetrised(dataset, crystal.formula, symprec)
    if dataset is not None and text is not None and _reads_back(text, crystal):
        found = f"{dataset.international} ({dataset.number})"
        note = f"symmetry: space group {found}, by spglib within {symprec:g} angstrom"
    else:
        note = f"symmetry: ANALYSIS FAILED within {symprec:g} angstrom; P1 below is no finding"
        text = str(CifWriter(to_structure(crystal))).partition("\n")[2]
    head = ["written by Heliodor", note, *comments]
    return "\n".join([*map(_comment, head), text])


def check_symprec(symprec: float) -> None:
    """Refuse a tolerance that is none.

    Raises:
        InputError: `symprec` is not positive.
    """
    if not 0 < symprec < np.inf:
        raise InputError(
            f"symprec: got {symprec!r}; a tolerance in angstrom above 0, usually 0.01 or 0.1"
        )


def _dataset(crystal: Crystal, symprec: float) -> Any:
    import spglib

    check_symprec(symprec)
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        return None  # spglib 2.8 ends the process for these
    if crystal.volume < 1e-3:
        return None
    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    with _quiet():
        try:
            return spglib.get_symmetry_dataset(cell, symprec=symprec)
        except spglib.error.SpglibError:  # its new error handling; the old one returns None
            return None


def _symmetrised(dataset: Any, formula: str, symprec: float) -> str | None:
    """Data block of the standardised cell; None if its atoms do not obey the group's operations."""
    import spglib
    from pymatgen.core import Composition, Lattice
    from pymatgen.core.operations import SymmOp
    from pymatgen.io.cif import CifBlock

    lattice = Lattice(dataset.std_lattice)
    group: Any = spglib.get_symmetry_from_database(dataset.hall_number)
    rotations, translations = group["rotations"], group["translations"]
    orbits = _orbits(dataset, rotations, translations, symprec)
    if orbits is None:
        return None
    operations = [
        SymmOp.from_rotation_and_translation(r, t).as_xyz_str()
        for r, t in zip(rotations, translations, strict=True)
    ]
    symbols = [SYMBOLS[z] for z, _, _ in orbits]
    atoms = Counter(SYMBOLS[z] for z in np.asarray(dataset.std_types).tolist())
    data: dict[str, Any] = {
        "_symmetry_space_group_name_H-M": dataset.international,
        "_symmetry_Int_Tables_number": int(dataset.number),
        **{f"_cell_length_{n}": f"{v:.8f}" for n, v in zip("abc", lattice.abc, strict=True)},
        **{
            f"_cell_angle_{n}": f"{v:.8f}"
            for n, v in zip(("alpha", "beta", "gamma"), lattice.angles, strict=True)
        },
        "_cell_volume": f"{lattice.volume:.8f}",
        "_chemical_formula_structural": formula,
        "_chemical_formula_sum": Composition(atoms).formula,
        "_symmetry_equiv_pos_site_id": list(range(1, len(operations) + 1)),
        "_symmetry_equiv_pos_as_xyz": operations,
        "_atom_site_type_symbol": symbols,
        "_atom_site_label": [f"{s}{i}" for i, s in enumerate(symbols, 1)],
        "_atom_site_symmetry_multiplicity": [count for _, count, _ in orbits],
        **{
            f"_atom_site_fract_{axis}": [f"{position[k]:.10f}" for _, _, position in orbits]
            for k, axis in enumerate("xyz")
        },
        "_atom_site_occupancy": [1] * len(orbits),
    }
    sites = [name for name in data if name.startswith("_atom_site_")]
    loops = [["_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz"], sites]
    return f"{CifBlock(data, loops, formula)}\n"


def _orbits(
    dataset: Any, rotations: NDArray[np.int64], translations: NDArray[np.float64], symprec: float
) -> list[tuple[int, int, NDArray[np.float64]]] | None:
    """(atomic number, multiplicity, position) of each orbit of the standardised cell.

    The position is the mean over the operations that leave it in its place: spglib leaves some sites
    as far off as the tolerance. None if an operation leads to where no such atom is.
    """
    positions, numbers = np.asarray(dataset.std_positions), np.asarray(dataset.std_types)
    orbits = []
    free = np.ones(len(numbers), dtype=bool)
    while free.any():
        seed = int(np.argmax(free))
        apart = (rotations @ positions[seed] + translations)[:, None, :] - positions[None, :, :]
        apart -= np.round(apart)
        near = np.linalg.norm(apart @ dataset.std_lattice, axis=-1) < max(symprec, 1e-3)
        near &= numbers == numbers[seed]
        orbit = near.any(axis=0)
        if not near.any(axis=1).all() or not free[orbit].all():
            return None
        free[orbit] = False
        position = positions[seed] + apart[near[:, seed], seed].mean(axis=0)
        orbits.append((int(numbers[seed]), int(orbit.sum()), position % 1))
    return orbits


def _reads_back(text: str, crystal: Crystal) -> bool:
    """Whether a reader finds the same composition and density in the file."""
    from pymatgen.core import Structure

    with _quiet():
        try:
            again = from_structure(Structure.from_str(text, fmt="cif"))
        except ValueError:
            return False
    ratio = (again.volume / len(again)) / (crystal.volume / len(crystal))
    return again.reduced_composition == crystal.reduced_composition and abs(ratio - 1) < 0.02


def _comment(text: str) -> str:
    return "# " + " ".join(text.split()).encode("ascii", "backslashreplace").decode()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of spglib and pymatgen that no user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
