"""VASP inputs and atomate2 Flows with the settings of the Materials Project.

The `MPGGA*` makers give energies for its GGA/GGA+U hull: PBE and PBE+U with the MPRelaxSet of
A. Jain et al., Comput. Mater. Sci. 50, 2295 (2011); U values by oxide and fluoride. The MP24 maker gives
energies for its r2SCAN hull: a pre-relaxation with PBEsol, then r2SCAN (R. Kingsbury et al., Phys. Rev.
Mater. 6, 013801 (2022), with the input sets of 2024). Moments start high-spin and ferromagnetic, as in
those sets; other magnetic orderings are not tried. No VASP licence, POTCAR file or configuration of
pymatgen is needed: potentials are named by symbol only.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.errors import InputError, missing_extra
from ..core.levels import Hull
from .recipe_parts import require_cell

if TYPE_CHECKING:
    from jobflow.core.flow import Flow


@dataclass(frozen=True)
class MakerKind:
    """One of atomate2's makers of the Materials Project.

    Args:
        module: where it is.
        first, last: where it keeps the input sets of its first and its last calculation.
        functional, hull: as in `core.levels.Level`.
        static: its last calculation is a static one.
    """

    module: str
    first: str
    last: str
    functional: str
    hull: Hull
    static: bool = True


_FLOWS, _JOBS = "atomate2.vasp.flows.mp", "atomate2.vasp.jobs.mp"
_SET = "input_set_generator"
_FIRST, _STATIC = f"relax_maker.relax_maker1.{_SET}", f"static_maker.{_SET}"
_PBE = "PBE/PBE+U"

MAKERS: Mapping[str, MakerKind] = {
    "MPGGADoubleRelaxStaticMaker": MakerKind(_FLOWS, _FIRST, _STATIC, _PBE, "GGA_GGA+U"),
    "MPGGARelaxMaker": MakerKind(_JOBS, _SET, _SET, _PBE, "GGA_GGA+U", static=False),
    "MPGGAStaticMaker": MakerKind(_JOBS, _SET, _SET, _PBE, "GGA_GGA+U"),
    "MP24DoubleRelaxStaticMaker": MakerKind(_FLOWS, _FIRST, _STATIC, "r2SCAN", "R2SCAN"),
}
"""Makers whose energies may stand on a hull of the Materials Project."""


@dataclass(frozen=True)
class VaspInputs:
    """The inputs of a first calculation.

    Args:
        files: file name -> text: INCAR, KPOINTS, POSCAR, POTCAR.spec (one symbol per species).
        settings: potentials, +U (eV), initial moments (Bohr magneton), cutoff (eV), for a person.
        notes: what pymatgen warns of for these inputs.
        digest: SHA-256 over crystal (whatever the order of its atoms), maker and settings.
    """

    files: dict[str, str]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    digest: str


class MpMaker:
    """One of atomate2's makers of the Materials Project, by name.

    Raises:
        InputError: another name. MissingError: atomate2 is not installed.
    """

    def __init__(self, name: str) -> None:
        if name not in MAKERS:
            raise InputError(
                f"dft.maker: got {name!r}; known: {', '.join(MAKERS)}",
                hint="other makers do not give energies for a hull of the Materials Project",
            )
        self.name = name
        self.kind = MAKERS[name]
        if find_spec("atomate2") is None:
            raise missing_extra("atomate2", "vasp")

    @cached_property
    def _class(self) -> Any:
        """Imported when it is first needed: that takes seconds, and most runs write no inputs."""
        return getattr(importlib.import_module(self.kind.module), self.name)

    def first_set(self) -> Any:
        """Generator of the first inputs; a new one, for it keeps the structure it was asked for."""
        return operator.attrgetter(self.kind.first)(self._maker())

    def last_set(self) -> Any:
        """Generator of the last inputs, whose calculation gives the energy."""
        return operator.attrgetter(self.kind.last)(self._maker())

    def _maker(self) -> Any:
        made = self._class()
        if hasattr(made, "clean_files"):
            # The last job must be the one with the energy. Its relaxations' WAVECAR files stay.
            made.clean_files = None
        return made

    def inputs(self, crystal: Crystal) -> VaspInputs:
        """Inputs of the first calculation, for the cell as it is (never symmetrised or reduced).

        pymatgen sorts the sites by electronegativity, and inverts a left-handed cell, which VASP
        refuses.

        Raises:
            ValueError: a cell that is not finite or flat, or an element that the set has no
                potential for. pymatgen would write a POTCAR symbol that nobody has computed with.
        """
        from pymatgen.io.vasp.sets import BadInputSetWarning

        require_cell(crystal)
        generator = self.first_set()
        unknown = [s for s in crystal.elements if s not in generator.config_dict["POTCAR"]]
        if unknown:
            raise ValueError(f"no potential for {', '.join(unknown)} in the Materials Project's set")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = generator.get_input_set(to_structure(crystal), potcar_spec=True)
        notes = {
            " ".join(str(w.message).split())
            for w in caught
            if issubclass(w.category, BadInputSetWarning)
        }
        # MP24 has no KPOINTS file: KSPACING in the INCAR stands for it.
        files = {name: str(part).rstrip("\n") + "\n" for name, part in made.items() if part is not None}
        # Not the POSCAR: the crystal's key stands for it, and does not depend on the order of atoms.
        parts = {name: text for name, text in files.items() if name != "POSCAR"}
        parts |= {"maker": self.name, "key": crystal.digest}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        settings = _settings(made, generator, self.kind)
        return VaspInputs(files, settings, tuple(sorted(notes)), digest)

    def make(self, crystal: Crystal) -> Flow:
        """The jobflow Flow as atomate2 makes it; its last job gives the energy."""
        from jobflow.core.flow import Flow

        made = self._maker().make(to_structure(crystal))
        return made if isinstance(made, Flow) else Flow([made], output=made.output, name=made.name)


def _settings(made: Any, generator: Any, kind: MakerKind) -> dict[str, Any]:
    """What decides whether the energy may go on the hull."""
    incar, poscar = made["INCAR"], made["POSCAR"]
    species = poscar.site_symbols
    hubbard = dict(zip(species, incar.get("LDAUU", []), strict=False)) if incar.get("LDAU") else {}
    hubbard = {s: float(u) for s, u in hubbard.items() if u}
    sites = [site.specie.symbol for site in poscar.structure]
    plain = "GGA" if kind.hull == "GGA_GGA+U" else "R2SCAN"
    return {
        "run_type": f"{plain}+U" if hubbard else plain,
        "potcar_functional": generator.user_potcar_functional,
        "potcar_symbols": str(made["POTCAR.spec"]).split(),
        "hubbard_u": hubbard,
        "initial_moments": dict(zip(sites, map(float, incar.get("MAGMOM", [])), strict=False)),
        "encut": float(incar["ENCUT"]),
        **_kpoints(made),
    }


def _kpoints(made: Any) -> dict[str, Any]:
    if (written := made["KPOINTS"]) is not None:
        return {"kpoints": [list(map(int, grid)) for grid in written.kpts]}
    return {"kspacing": float(made["INCAR"]["KSPACING"])}
