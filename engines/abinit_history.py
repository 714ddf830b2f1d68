"""The steps of an ABINIT relaxation, read from its history file (`out_HIST.nc`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.crystal import Crystal
from ..core.records import Frame
from .abinit_variables import HARTREE
from .recipe_parts import vectors

_BOHR = 0.529177210903  # angstrom, CODATA 2018


def history(outdata: Path) -> list[Frame]:
    """All steps, with energies extrapolated to no smearing as in the result; none: a static calculation.

    The history has the entropy S of the electrons, in units of k; -kT S / 2 comes off the free energy
    (M. J. Gillan, J. Phys.: Condens. Matter 1, 689 (1989)), with kT from the last step, whose -TS is in
    `out_GSR.nc`.

    Raises:
        ValueError: numbers that are not finite.
    """
    import netCDF4

    path = outdata / "out_HIST.nc"
    if not path.is_file():
        return []
    with netCDF4.Dataset(outdata / "out_GSR.nc") as file:
        last = float(file["e_entropy"][...])
    with netCDF4.Dataset(path) as file:
        names = ("rprimd", "xred", "etotal", "entropy", "fcart", "strten")
        cells, places, energies, entropies, forces, stresses = (
            np.asarray(file[name][:], dtype=float) for name in names
        )
        numbers = np.asarray(file["znucl"][:], dtype=int)[np.asarray(file["typat"][:], dtype=int) - 1]
    smearing = -last / entropies[-1] if entropies[-1] else 0.0
    return [
        Frame(
            crystal=Crystal(_BOHR * cell, place % 1.0, numbers),
            energy=float(energy + smearing * entropy / 2) * HARTREE,
            forces=vectors(force, HARTREE / _BOHR) or (),
            stress=vectors(stress[_FULL], HARTREE / _BOHR**3) or (),
        )
        for cell, place, energy, entropy, force, stress in zip(
            cells, places, energies, entropies, forces, stresses, strict=True
        )
    ]


_FULL = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # of xx, yy, zz, yz, xz, xy
