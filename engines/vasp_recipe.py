"""VASP by the Materials Project's settings: the recipe of the engine `vasp`.

A VASP licence is needed to run it, none to write its inputs. Errors of VASP are mended by custodian
within a job, with atomate2's default handlers (they are named in each calculation's settings); so no
attempt asks for another one with changed inputs.

Magnetism: moments start high-spin and ferromagnetic, as the Materials Project's sets have them. Other
orderings are not tried: pymatgen's enumerator needs the external program enumlib. An antiferromagnet's
energy is therefore that of its ferromagnetic state, as it is for most first entries of that database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.levels import Level
from ..core.records import Frame
from .recipe import Inputs, Parsed, Unfinished
from .vasp_folder import Expected, explain_failure, read_folder
from .vasp_inputs import MpMaker
from .vasp_results import parse_task, read_steps

if TYPE_CHECKING:
    from jobflow.core.flow import Flow

_NO_ELEMENTAL_ENTRY = ("Am", "Po")  # pymatgen-io-validation keeps them off the hull for that
_WIDEST_SPACING = 0.5  # MP24's KSPACING for the widest gaps, 1/angstrom


class VaspRecipe:
    """VASP with the settings of the Materials Project.

    Args:
        maker: atomate2 Maker. MPGGADoubleRelaxStaticMaker (relax, relax, static), MPGGARelaxMaker and
            MPGGAStaticMaker give PBE and PBE+U energies for the GGA/GGA+U hull;
            MP24DoubleRelaxStaticMaker (PBEsol pre-relaxation, r2SCAN relaxation, static) for the r2SCAN
            hull.

    Raises:
        InputError: another maker. MissingError: atomate2 is not installed.
    """

    name = "vasp"

    def __init__(self, maker: str = "MPGGADoubleRelaxStaticMaker") -> None:
        self._maker = MpMaker(maker)

    @cached_property
    def _set(self) -> Any:
        return self._maker.last_set()

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments that make the same recipe."""
        return {"maker": self._maker.name}

    def level(self, elements: Sequence[str]) -> Level:
        """One level for all elements: the set fixes the cutoff, the potentials and U.

        The version of VASP is not known before it ran; results carry it in `entry["vasp_version"]`.

        Raises:
            InputError: an element is not in the set.
        """
        if lacking := self.unsupported(elements):
            why = "; ".join(f"{symbol}: {reason}" for symbol, reason in lacking.items())
            raise InputError(f"dft: {why}", hint="leave these elements out")
        config = self._set.config_dict
        incar = config["INCAR"]
        settings = {
            "maker": self._maker.name,
            "input_set": type(self._set).__name__,
            "encut": float(incar["ENCUT"]),
            "kpoints": self._kpoints(),
            "potcar_functional": self._set.user_potcar_functional,
            "potcars": _digest(config["POTCAR"]),
            "hubbard_u": _digest(incar.get("LDAUU", {})),
            "incar": _digest({name: value for name, value in incar.items() if name != "MAGMOM"}),
            "spin": "collinear; high-spin ferromagnetic start",
        }
        return Level.of("vasp", self._maker.kind.functional, self._maker.kind.hull, settings)

    def _kpoints(self) -> str:
        if spacing := self._set.config_dict["INCAR"].get("KSPACING"):
            return f"KSPACING {spacing:g} to {_WIDEST_SPACING:g} per angstrom, by the gap"
        return f"{self._density():g} per reciprocal cubic angstrom, more for metals"

    def _density(self) -> float:
        """K-points per volume of the reciprocal cell: MPStaticSet has a density of its own."""
        own = getattr(self._set, "reciprocal_density", None)
        return float(own or self._set.config_dict["KPOINTS"]["reciprocal_density"])

    def unsupported(self, elements: Sequence[str]) -> dict[str, str]:
        """Elements without a potential in the set, or without an elemental entry on the hull."""
        reasons = {}
        for symbol in elements:
            if symbol not in self._set.config_dict["POTCAR"]:
                reasons[symbol] = f"no potential in {type(self._set).__name__}"
            elif symbol in _NO_ELEMENTAL_ENTRY:
                reasons[symbol] = "the Materials Project has no elemental entry for its hull"
        return reasons

    def inputs(self, crystal: Crystal, level: Level) -> Inputs:
        """The inputs of the first calculation, for the cell as it is.

        Raises:
            ValueError: a cell that is not finite or flat, or an element without a potential.
        """
        made = self._maker.inputs(crystal)
        notes = made.notes
        if self._maker.kind.hull == "R2SCAN":
            notes += ("vasp/ holds a PBEsol pre-relaxation; run by hand, it gives no r2SCAN energy",)
        return Inputs(
            files={f"vasp/{name}": text for name, text in made.files.items()},
            settings={**made.settings, "custodian": _handlers()},
            notes=notes,
            digest=hashlib.sha256(f"{level.digest}:{made.digest}".encode()).hexdigest(),
        )

    def flow(self, crystal: Crystal, level: Level, mends: Sequence[str] = ()) -> Flow:  # noqa: ARG002
        """The Flow as atomate2 makes it. `mends` stays empty: custodian mends within a job."""
        return self._maker.make(crystal)

    def parse(
        self,
        output: Mapping[str, Any],
        mends: Sequence[str] = (),  # noqa: ARG002
    ) -> Parsed | Unfinished:
        """Read the task document of any job of the Flow."""
        return parse_task(output)

    def explain(self, folder: Path, error: Exception) -> Unfinished:
        """What a job that raised came to."""
        return explain_failure(folder, error)

    def steps(self, output: Mapping[str, Any], folder: Path) -> list[Frame]:  # noqa: ARG002
        """The ionic steps of a job's document; none of the PBEsol pre-relaxation of MP24."""
        return read_steps(output, self._run_types)

    @property
    def _run_types(self) -> tuple[str, ...]:
        return ("GGA", "GGA+U") if self._maker.kind.hull == "GGA_GGA+U" else ("R2SCAN",)

    def parse_folder(self, path: Path) -> Parsed | Unfinished | None:
        """Read VASP's files, brought home from where it ran; None where there are none; never raises.

        Looks in `path` and below it, for the newest calculation that is finished and of this level:
        the functional, the potentials, the cutoff, spin polarisation and the k-points are compared with
        the set; U is left to `corrected`. That it is of the crystal that was asked for, the caller sees.
        """
        return read_folder(path, self._expected())

    def _expected(self) -> Expected:
        kspacing = self._set.config_dict["INCAR"].get("KSPACING")
        return Expected(
            run_types=self._run_types,
            static=self._maker.kind.static,
            encut=float(self._set.config_dict["INCAR"]["ENCUT"]),
            potcars=self._set.config_dict["POTCAR"],
            kpoint_density=None if kspacing else self._density(),
            kspacing=_WIDEST_SPACING if kspacing else None,
        )


def _handlers() -> list[str]:
    """The custodian handlers that a job of an unchanged atomate2 Maker runs with."""
    from atomate2.vasp.run import DEFAULT_HANDLERS

    return [type(handler).__name__ for handler in DEFAULT_HANDLERS]


def _digest(content: Any) -> str:
    """First 16 digits of the SHA-256 of plain values: they are too long for a level's name."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
