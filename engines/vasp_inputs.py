"""VASP inputs and atomate2 Flows with the settings of the Materials Project's GGA/GGA+U hull.

Only the `MPGGA*` makers give energies for that hull: PBE and PBE+U with the MPRelaxSet of
A. Jain et al., Comput. Mater. Sci. 50, 2295 (2011); U values by oxide and fluoride. No VASP licence,
POTCAR file or pymatgen configuration is needed: potentials are named by symbol only.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import logging
import operator
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.convert import to_structure
from ..core.crystal import Crystal
from ..core.errors import InputError, missing_extra

logger = logging.getLogger("heliodor.engines")

# maker -> (module, where the maker keeps the input set of its first calculation)
_MAKERS = {
    "MPGGADoubleRelaxStaticMaker": (
        "atomate2.vasp.flows.mp",
        "relax_maker.relax_maker1.input_set_generator",
    ),
    "MPGGARelaxMaker": ("atomate2.vasp.jobs.mp", "input_set_generator"),
    "MPGGAStaticMaker": ("atomate2.vasp.jobs.mp", "input_set_generator"),
}


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
    """One of atomate2's `MPGGA*` makers, by name.

    Raises:
        InputError: another name. MissingError: atomate2 is not installed.
    """

    def __init__(self, name: str) -> None:
        if name not in _MAKERS:
            raise InputError(
                f"dft.maker: got {name!r}; known: {', '.join(_MAKERS)}",
                hint="other makers do not give energies for the GGA/GGA+U hull",
            )
        module, first_set = _MAKERS[name]
        try:
            self._class = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise missing_extra("atomate2", "vasp") from error
        self._first_set = operator.attrgetter(first_set)
        self.name = name

    def inputs(self, crystal: Crystal) -> VaspInputs:
        """Inputs of the first calculation, for the cell as it is (never symmetrised or reduced).

        pymatgen sorts the sites by electronegativity, and inverts a left-handed cell, which VASP
        refuses.

        Raises:
            ValueError: a cell that is not finite or flat, or an element that the set has no
                potential for. pymatgen would write a POTCAR symbol that nobody has computed with.
        """
        from pymatgen.io.vasp.sets import BadInputSetWarning

        if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
            raise ValueError("lattice or coordinates are not finite")
        if crystal.volume < 1e-3:
            raise ValueError(f"the cell is flat: its volume is {crystal.volume:.3g} cubic angstrom")
        # A new maker each time: the generator keeps the structure that it was last asked for.
        generator = self._first_set(self._class())
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
        files = {name: str(made[name]).rstrip("\n") + "\n" for name in made}
        # Not the POSCAR: the crystal's key stands for it, and does not depend on the order of atoms.
        parts = {name: text for name, text in files.items() if name != "POSCAR"}
        parts |= {"maker": self.name, "key": crystal.digest}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return VaspInputs(files, _settings(made, generator), tuple(sorted(notes)), digest)

    def flow(self, crystal: Crystal, input_digest: str) -> Any:
        """The jobflow Flow; key, formula and digest are in the metadata of each job and its results."""
        from jobflow.core.flow import Flow

        made = self._class().make(to_structure(crystal))
        flow = made if isinstance(made, Flow) else Flow([made], output=made.output, name=made.name)
        flow.name = f"{crystal.formula} {flow.name}"
        origin = {"key": crystal.digest, "formula": crystal.formula, "input_digest": input_digest}
        flow.update_metadata({"heliodor": origin}, dynamic=False)
        return flow


def _settings(made: Any, generator: Any) -> dict[str, Any]:
    """What decides whether the energy may go on the hull."""
    incar, poscar = made["INCAR"], made["POSCAR"]
    species = poscar.site_symbols
    hubbard = dict(zip(species, incar.get("LDAUU", []), strict=False)) if incar.get("LDAU") else {}
    hubbard = {s: float(u) for s, u in hubbard.items() if u}
    sites = [site.specie.symbol for site in poscar.structure]
    return {
        "run_type": "GGA+U" if hubbard else "GGA",
        "potcar_functional": generator.user_potcar_functional,
        "potcar_symbols": str(made["POTCAR.spec"]).split(),
        "hubbard_u": hubbard,
        "initial_moments": dict(zip(sites, map(float, incar.get("MAGMOM", [])), strict=False)),
        "encut": float(incar["ENCUT"]),
        "kpoints": [list(map(int, grid)) for grid in made["KPOINTS"].kpts],
    }


_patching = threading.RLock()


@contextmanager
def cached_schema_access() -> Iterator[None]:
    """Make many Flows 40 times faster, by remembering what jobflow works out anew at each access.

    `jobflow.core.reference.validate_schema_access(schema, item)` builds the whole JSON schema of
    atomate2's task document each time a job refers to `output.structure`; its answer depends on its
    two arguments alone. Within this context, and nowhere else, it is cached. A jobflow whose function
    looks otherwise is left as it is: slower, never wrong.
    """
    from jobflow.core import reference

    with _patching:
        original = getattr(reference, "validate_schema_access", None)
        if original is None or list(inspect.signature(original).parameters) != ["schema", "item"]:
            logger.debug("jobflow's schema check has changed; making flows without the cache")
            yield
            return
        reference.validate_schema_access = functools.cache(original)
        try:
            yield
        finally:
            reference.validate_schema_access = original
