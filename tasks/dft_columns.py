"""The columns of the table that hold what DFT said, apart from the potential's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.columns import Column, Value
from ..core.levels import Level
from ..core.records import Outcome

_AT = "DFT at the level in `dft_level`"
_HULL = (
    "a hull of phases that were all computed at the level in `dft_level`; for VASP with the Materials "
    "Project's settings its own, with MP2020 corrections"
)
_NULL = "null where nothing was computed, or it failed"
_FEW = (
    "a hull of computed phases holds the elements and the products that the potential's hull names; "
    f"{_NULL}; never to be mixed with `energy_above_hull`, which is the potential's"
)

DFT_COLUMNS: tuple[Column, ...] = (
    Column(
        "dft_verdict",
        "string",
        "confirmed (on or below the hull), metastable (within select.max_energy_above_hull), refuted "
        "(above), or failed",
        "",
        _HULL,
        "null where nothing was computed",
    ),
    Column("dft_energy_above_hull", "float64", "never negative", "eV/atom", _HULL, _FEW),
    Column(
        "dft_formation_energy_per_atom",
        "float64",
        "against the elements on the hull of `dft_energy_above_hull`",
        "eV/atom",
        _AT,
        _NULL,
    ),
    Column(
        "dft_energy_per_atom",
        "float64",
        "total energy as the code gives it, no corrections",
        "eV/atom",
        _AT,
        f"means nothing beside an energy of another `dft_level_digest`; {_NULL}",
    ),
    Column("dft_volume_ratio", "float64", "volume by DFT over volume by the potential", "", _AT, _NULL),
    Column(
        "dft_rmsd",
        "float64",
        "root mean square displacement of the sites from the potential's crystal to DFT's",
        "angstrom",
        "pymatgen StructureMatcher 0.5/0.5/10, as in `rmsd_from_relaxation`",
        f"null also where sites moved too far to pair; {_NULL}",
    ),
    Column(
        "dft_band_gap",
        "float64",
        "smallest gap, 0 for a metal",
        "eV",
        _AT,
        f"on the k-points of the calculation; semilocal functionals give gaps too small; {_NULL}",
    ),
    Column(
        "dft_magnetization",
        "float64",
        "of the cell",
        "Bohr magneton",
        _AT,
        f"from ferromagnetic starts only, other orders are not looked for; {_NULL}",
    ),
    Column("dft_max_force", "float64", "largest force on an atom at the end", "eV/angstrom", _AT, _NULL),
    Column("dft_level", "string", "functional and code", "", "", _NULL),
    Column(
        "dft_level_digest",
        "string",
        "digest of all that decides an energy: only energies of one digest may be compared",
        "",
        "",
        _NULL,
    ),
    Column(
        "dft_failure",
        "string",
        "why there is no verdict, or why a calculation failed after the one in `dft_verdict`",
        "",
        "",
        "null where nothing failed",
    ),
)


def dft_values(outcome: Outcome | None, failed: Outcome | None = None) -> dict[str, Value]:
    """The columns of one crystal; empty where nothing was computed.

    Args:
        outcome: its verdict, or why there is none. failed: a calculation that failed after the verdict.
    """
    if outcome is None:
        return {}
    data: Mapping[str, Any] = outcome.data
    if "verdict" not in data:
        return {"dft_verdict": "failed", "dft_failure": _why(outcome)}
    hull, result, compared = data["hull"], data["result"], data["compared"]
    level = Level.from_dict(data["level"])
    return {
        "dft_verdict": data["verdict"],
        "dft_energy_above_hull": hull["energy_above_hull"],
        "dft_formation_energy_per_atom": hull["formation_energy_per_atom"],
        "dft_energy_per_atom": result["energy_per_atom"],
        "dft_volume_ratio": compared["volume_ratio"],
        "dft_rmsd": compared["rmsd"],
        "dft_band_gap": result["band_gap"],
        "dft_magnetization": result["magnetization"],
        "dft_max_force": result["max_force"],
        "dft_level": f"{level.functional}, {level.code}",
        "dft_level_digest": level.digest,
        "dft_failure": later_failure(failed) or None,
    }


def later_failure(failed: Outcome | None) -> str:
    """What to say of a calculation that failed after a verdict, which stands; empty: none did."""
    if failed is None:
        return ""
    engine = f" by {failed.data['engine']}" if failed.data.get("engine") else ""
    return f"a later calculation{engine} failed: {_why(failed)}"


def _why(outcome: Outcome) -> str:
    reason = outcome.reason.value.replace("_", " ") if outcome.reason else "unknown"
    return f"{reason}: {outcome.data.get('detail', '')}"
