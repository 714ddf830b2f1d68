"""From verdicts by DFT to what the report shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.levels import Level
from ..core.records import Outcome, Status
from ..engines.dft_results import RESULT
from ..report.model import Compared, DftCard, DftData, DftFailure, DftPhase
from ..validators.hull import ELEMENT_ID
from .dft_columns import later_failure
from .table import Record

FOLDER = "dft"  # calculations, in a campaign's folder

_SETTINGS = {
    "cutoff_eV": ("plane-wave cutoff", "{} eV"),
    "double_grid_eV": ("PAW double grid", "{} eV"),
    "encut": ("plane-wave cutoff", "{} eV"),
    "kpoint_density": ("k-points", "{} k-points × atoms"),
    "kpoints": ("k-points", "{}"),
    "pseudopotential_set": ("pseudopotential set", "{}"),
    "family": ("pseudopotential family", "{}"),
    "force_threshold_hartree_per_bohr": ("force threshold", "{} hartree/bohr"),
    "fmax_eV_per_angstrom": ("force threshold", "{} eV/Å"),
    "weights_sha256": ("weights", "{}"),
}
_HULLS = {
    "own": "phases computed at this level",
    "GGA_GGA+U": "the Materials Project's (GGA/GGA+U)",
    "R2SCAN": "the Materials Project's (r2SCAN)",
}


def dft_data(found: Sequence[Record], folder: Path, threshold: float) -> DftData | None:
    """The DFT section of a report in `folder`; None where nothing was computed.

    Args:
        threshold: eV/atom above the hull that `metastable` allowed.
    """
    verified = [(r, r.verify) for r in found if r.verify is not None]
    if not verified:
        return None
    cards = [_card(r, o, folder) for r, o in verified if o.status != Status.FAILED]
    failures = [_failure(r, o) for r, o in verified if o.status == Status.FAILED]
    cards.sort(key=lambda card: (card.decomposition_energies[1], card.slot))
    return DftData(cards, failures, threshold)


def dft_word(record: Record) -> str | None:
    """The verdict in a word; None where nothing was computed."""
    if record.verify is None:
        return None
    return str(record.verify.data.get("verdict", "failed"))


def _formula(record: Record) -> str:
    return record.crystal.formula if record.crystal else ""


def _failure(record: Record, outcome: Outcome) -> DftFailure:
    reason = outcome.reason.value if outcome.reason else "unknown"
    detail = str(outcome.data.get("detail", ""))
    return DftFailure(record.slot, _formula(record), reason, detail)


def _card(record: Record, outcome: Outcome, folder: Path) -> DftCard:
    data = outcome.data
    hull, result, compared = data["hull"], data["result"], data["compared"]
    level = Level.from_dict(data["level"])
    energy = hull["decomposition_energy"]
    shares = {name: share for _, name, share in hull["decomposition"]}
    return DftCard(
        slot=record.slot,
        formula=_formula(record),
        verdict=data["verdict"],
        decomposition_energies=(energy + compared["energy_above_hull_difference"], energy),
        compared=_compared(hull, result, compared),
        rmsd=compared["rmsd"],
        model=compared["model"],
        level=level.name,
        settings=level_in_words(level),
        steps=result["steps"],
        max_force=result["max_force"],
        max_stress=result["max_stress"],
        attempts=result["attempts"],
        mended=result["mended"],
        seconds=result["seconds"],
        magnetization=result["magnetization"],
        band_gap=result["band_gap"],
        phases=[_phase(phase, shares, folder) for phase in data["phases"]] or _of_reference(hull),
        hull=_hull_in_words(hull),
        input_digest=result["input_digest"],
        folder=_beside(result["path"], folder),
        later_failure=later_failure(record.verify_failed),
    )


def _compared(
    hull: Mapping[str, Any], result: Mapping[str, Any], compared: Mapping[str, Any]
) -> list[Compared]:
    signed = hull["decomposition_energy"] + compared["energy_above_hull_difference"]
    ev = "eV/atom"
    formation = "formation_energy_per_atom"
    return [
        Compared("above hull", ev, compared["energy_above_hull"], hull["energy_above_hull"]),
        Compared("above hull, signed", ev, signed, hull["decomposition_energy"], signed=True),
        Compared("formation", ev, compared[formation], hull[formation], signed=True),
        Compared("volume", "Å³/atom", compared["volume_per_atom"], result["volume_per_atom"], 2),
    ]


def _phase(phase: Mapping[str, Any], shares: Mapping[str, float], folder: Path) -> DftPhase:
    name = phase["formula"] if phase["material_id"] == ELEMENT_ID else phase["material_id"]
    return DftPhase(
        phase["formula"],
        phase["material_id"],
        phase["energy_per_atom"],
        shares.get(name),
        phase["origin"],
        _beside(phase["path"], folder),
    )


def _hull_in_words(hull: Mapping[str, Any]) -> str:
    doubt = ", unreliable for this crystal" if hull["uncertain"] else ""
    parts = (hull["reference"], hull["coverage"], f"corrections: {hull['corrections']}{doubt}")
    return "; ".join(part for part in parts if part)


def _of_reference(hull: Mapping[str, Any]) -> list[DftPhase]:
    """The products on the reference's hull, of which nothing was computed here."""
    origin = hull["reference"]
    return [DftPhase(f, ident, None, share, origin, "") for f, ident, share in hull["decomposition"]]


def _beside(path: str, folder: Path) -> str:
    """A calculation's folder relative to the campaign's, wherever that lies now.

    Unchanged where the campaign has no result of its own: another campaign had computed it.
    """
    name = Path(path).name
    return f"{FOLDER}/{name}" if name and (folder / FOLDER / name / RESULT).is_file() else path


def level_in_words(level: Level) -> list[tuple[str, str]]:
    """(what, value) pairs of all that the level fixes."""
    pairs = [("functional", level.functional), ("code", level.code)]
    for name, value in level.as_dict()["settings"].items():
        if value is None:
            continue
        label, form = _SETTINGS.get(name, (name.replace("_", " "), "{}"))
        pairs.append((label, form.format(_said(value))))
    return [*pairs, ("hull", _HULLS[level.hull]), ("level", level.digest)]


def _said(value: Any) -> str:
    """A setting for people: of (name, digest) pairs the names."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(part)}" for key, part in value.items())
    if isinstance(value, list):
        named = [part for part in value if not _is_digest(part)]
        return ", ".join(_said(part) for part in named)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value[:12] if _is_digest(value) else str(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef")
