"""VASP's output files, written by us: VASP's own may not be passed on.

They hold what pymatgen's readers need, in VASP's formats, with values that a test chooses. What they
cannot show: how a version of VASP fills fields that are not here (projected DOS, memory statistics).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar


def _tag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{name}">{"T" if value else "F"}</i>'
    if isinstance(value, int):
        return f'<i type="int" name="{name}">{value}</i>'
    if isinstance(value, float):
        return f'<i name="{name}">{value:.8f}</i>'
    if isinstance(value, str):
        return f'<i type="string" name="{name}">{value}</i>'
    kind = ' type="int"' if name == "LDAUL" else ""
    return f'<v{kind} name="{name}">{" ".join(map(str, value))}</v>'


def _rows(name: str, rows: Any) -> str:
    lines = "".join("<v> " + " ".join(f"{x:.8f}" for x in row) + " </v>\n" for row in rows)
    return f'<varray name="{name}">\n{lines}</varray>\n'


def _structure(structure: Structure, name: str = "") -> str:
    label = f' name="{name}"' if name else ""
    crystal = f"<crystal>{_rows('basis', structure.lattice.matrix)}</crystal>"
    return f"<structure{label}>{crystal}{_rows('positions', structure.frac_coords)}</structure>\n"


def _energy(energy: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>" + "".join(f'<i name="{n}">{energy:.8f}</i>' for n in names) + "</energy>"


def write_outputs(
    folder: Path,
    structure: Structure,
    titles: list[str],
    incar: Incar,
    kpoints: Kpoints | None,
    energy: float = -10.0,
    electronic: tuple[int, ...] = (12,),
    forces: Any = None,
    stress: Any = None,
    gap: float = 2.0,
    moment: float = 0.0,
    divisions: tuple[int, int, int] = (6, 6, 6),
    gga: str = "--",
    only: tuple[str, ...] = ("vasprun.xml", "OUTCAR", "CONTCAR"),
) -> Path:
    """A calculation whose ionic steps took `electronic` steps each. `stress` in kbar."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = [site.specie.symbol for site in structure]
    kinds = list(dict.fromkeys(symbols))
    forces = np.zeros((len(structure), 3)) if forces is None else forces
    stress = np.zeros((3, 3)) if stress is None else stress
    given = {name: value for name, value in incar.items() if name != "MAGMOM"}
    parameters = {"NELM": 60, "NSW": 0, "IBRION": -1, "ISPIN": 1, "LORBIT": 0, "ALGO": "Normal"}
    parameters |= {"GGA": incar.get("GGA", gga), "LASPH": bool(incar.get("LASPH"))}
    parameters |= {n: incar[n] for n in ("NELM", "NSW", "IBRION", "ISPIN") if n in incar}
    parameters |= {"ENMAX": float(incar["ENCUT"]), "LDAU": bool(incar.get("LDAU")), "NELECT": 12.0}
    parameters |= {"MAGMOM": incar.get("MAGMOM", [0.0] * len(structure))}
    grid = kpoints.kpts[0] if kpoints is not None else divisions
    steps = [
        "<calculation>"
        + f"<scstep>{_energy(energy)}</scstep>" * n
        + _structure(structure)
        + _rows("forces", forces)
        + _rows("stress", stress)
        + _energy(energy)
        + "</calculation>\n"
        for n in electronic
    ]
    eigenvalues = (
        "<eigenvalues><array><set><set comment='spin 1'><set comment='kpoint 1'>"
        f"<r> 0.0 1.0 </r><r> {gap:.4f} 0.0 </r></set></set></set></array></eigenvalues>"
        f"<dos><i name='efermi'> {gap / 2:.4f} </i><total><array><set><set comment='spin 1'>"
        f"<r> -1.0 0.0 0.0 </r><r> 0.0 1.0 12.0 </r><r> {gap + 1:.4f} 0.0 12.0 </r>"
        "</set></set></array></total></dos>"
    )
    steps[-1] = steps[-1].replace("</calculation>", eigenvalues + "</calculation>")
    atoms = "".join(f"<rc><c>{s}</c><c>{kinds.index(s) + 1}</c></rc>" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(k)}</c><c>{k}</c><c>1.0</c><c>6.0</c><c>{t}</c></rc>"
        for k, t in zip(kinds, titles, strict=True)
    )
    files = {
        "vasprun.xml": '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>'
        + _tag("program", "vasp")
        + _tag("version", "6.4.2")
        + "</generator>\n<incar>"
        + "\n".join(_tag(n, v) for n, v in given.items())
        + f'</incar>\n<kpoints><generation param="Gamma">{_tag("divisions", grid)}'.replace(
            '<v name="divisions">', '<v type="int" name="divisions">'
        )
        + f"{_tag('usershift', [0.0, 0.0, 0.0])}</generation>"
        + _rows("kpointlist", [[0, 0, 0]])
        + _rows("weights", [[1.0]])
        + "</kpoints>\n<parameters>"
        + "\n".join(_tag(n, v) for n, v in parameters.items())
        + f'</parameters>\n<atominfo><array name="atoms"><set>{atoms}</set></array>'
        + f'<array name="atomtypes"><set>{types}</set></array></atominfo>\n'
        + _structure(structure, "initialpos")
        + "".join(steps)
        + _structure(structure, "finalpos")
        + "</modeling>\n",
        "OUTCAR": " running on    4 total cores\n number of bands    NBANDS=     24\n"
        " total plane-waves  NPLWV =   4096\n   IBRION =     -1    ionic relax\n"
        f" number of electron      12.0000000 magnetization     {moment:.7f}\n"
        f"  free  energy   TOTEN  =      {energy:.8f} eV\n"
        f"  energy  without entropy=      {energy:.8f}  energy(sigma->0) =      {energy:.8f}\n"
        "  E-fermi :   1.0000     XC(G=0):  -1.0000     alpha+bet : -1.0000\n"
        "    total drift:      0.000000      0.000000      0.000000\n"
        "                         Elapsed time (sec):       42.000\n",
        "CONTCAR": str(Poscar(structure)),
    }
    for name in only:
        (folder / name).write_text(files[name], encoding="utf-8")
    return folder
