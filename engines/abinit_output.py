"""Reading what ABINIT left: atomate2's task document where there is one, else the log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.records import Reason
from .recipe import Parsed, Unfinished
from .recipe_parts import crystal_in, largest_component, longest, vectors

_GPA = 160.21766208  # in eV/angstrom^3
_TAIL = 200_000  # bytes of the log: errors stand at its end
_EVENT = re.compile(r"^--- !(\w+)\n(.*?)^\.\.\.", re.MULTILINE | re.DOTALL)
_MESSAGE = re.compile(r"message: \|\n(.*)", re.DOTALL)
_ERRORS = ("ERROR", "BUG", "DilatmxError", "TolSymError", "MemanaError", "TimelimitError")


def parse(output: Mapping[str, Any], mends: Sequence[str]) -> Parsed | Unfinished:
    """Read an `AbinitTaskDoc`, as an object's dictionary or as plain JSON. Never raises."""
    try:
        state = str(getattr(output["state"], "value", output["state"]))
        if state == "unconverged":
            return _unconverged(output, mends)
        if state != "successful":
            return explain(Path(output["dir_name"]), RuntimeError(f"its state is {state}"))
        return _parsed(output)
    except Exception as error:  # a truncated or foreign document can be wrong in any way
        detail = f"this is no complete document of ABINIT: {type(error).__name__}: {error}"
        return Unfinished(Reason.DFT_FAILED, detail)


def _parsed(output: Mapping[str, Any]) -> Parsed:
    result, facts = output["output"], output["additional_json"]
    energy = float(facts["energy"])
    if not math.isfinite(energy):
        raise ValueError(f"energy {energy}")
    forces, stress = vectors(result["forces"]), vectors(result["stress"], 1 / _GPA)
    return Parsed(
        crystal=crystal_in(result["structure"]),
        energy=energy,
        max_force=longest(forces),
        max_stress=largest_component(stress),
        converged=True,  # atomate2 looked for ABINIT's warnings; without one the thresholds are met
        steps=int(facts["steps"]),
        magnetization=float(facts["magnetization"]),
        band_gap=float(facts["band_gap"]),
        forces=forces,
        stress=stress,  # ABINIT's sign is ASE's
    )


def _unconverged(output: Mapping[str, Any], mends: Sequence[str]) -> Unfinished:
    """The electrons or the geometry: two other ways are tried."""
    label = output.get("task_label") or "the calculation"
    detail = f"{label}: not converged within its steps"
    mend = next((way for way in ("mixing", "slow mixing") if way not in mends), None)
    return Unfinished(Reason.DFT_NOT_CONVERGED, detail, mend)


def explain(folder: Path, error: Exception) -> Unfinished:
    """What the log in a job's folder says; `error` is what the reader of its files met."""
    try:
        with (folder / "run.log").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            log = file.read().decode(errors="replace")
    except OSError:  # ABINIT was not started
        return Unfinished(Reason.DFT_FAILED, f"ABINIT did not run: {type(error).__name__}: {error}")
    events = [(kind, text) for kind, text in _EVENT.findall(log) if kind in _ERRORS]
    if events:
        return _judged(*events[-1])
    if "Calculation completed" not in log:
        detail = f"ABINIT ended in the middle: killed, or out of memory; its last line: {_last(log)}"
        return Unfinished(Reason.DFT_KILLED, detail)
    return Unfinished(
        Reason.DFT_FAILED, f"ABINIT's files cannot be read: {type(error).__name__}: {error}"
    )


def _judged(kind: str, text: str) -> Unfinished:
    """An error event of ABINIT: its own words, and whether something helps."""
    found = _MESSAGE.search(text)
    words = " ".join((found[1] if found else text).split())[:400]
    detail = f"ABINIT: {words}"
    lower = words.lower()
    if kind == "DilatmxError" or "dilatmx" in lower:
        return Unfinished(Reason.DFT_NOT_CONVERGED, detail, "cell")
    if kind == "MemanaError" or "allocat" in lower:
        return Unfinished(Reason.DFT_KILLED, detail)
    if kind == "TolSymError" or "symmetr" in lower or "symetr" in lower or "point group" in lower:
        return Unfinished(Reason.DFT_FAILED, detail, "symmetry")
    return Unfinished(Reason.DFT_FAILED, detail)


def _last(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1].strip()[:200] if lines else "(none)"
