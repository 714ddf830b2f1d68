"""One stage at a time, without a campaign: `heliodor relax`, `hull`, `reference`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.campaign import Campaign, parse_campaign
from ..core.errors import InputError
from ..core.protocols import Reference
from ..core.records import Candidate, Conditions, Failure, Relaxed
from ..core.settings import load_settings
from ..validators.matching import MatcherSettings
from .build import build_generator, build_reference, build_relaxer

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.choices.references import ThermoType


@contextmanager
def progress(console: Console, label: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A progress bar; the yielded function counts one step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def relax_to_file(
    paths: Sequence[Path], out: Path, settings: dict[str, Any], *, console: Console
) -> str:
    """Relax the crystals in `paths`; a row (or frame) per crystal in `out`."""
    from ..report.export import ExportRow, write_extxyz, write_table

    if out.suffix not in (".csv", ".parquet", ".extxyz", ".xyz"):
        raise InputError(f"cannot write '{out.suffix}' files; .csv, .parquet or .extxyz")
    if settings["kind"] == "none":
        raise InputError("--relaxer none relaxes nothing; choose chgnet or sevennet")
    campaign = _files_campaign(paths, settings)
    relaxer = build_relaxer(campaign.relaxer, load_settings().workers)
    if relaxer is None:
        raise InputError(f"{campaign.relaxer.kind} relaxes nothing")
    items = list(
        build_generator(campaign.generator).generate(
            10_000_000, seed=0, conditions=Conditions(max_atoms=100_000)
        )
    )
    found = {c.key: c for c in items if isinstance(c, Candidate)}
    results: dict[str, Relaxed | Failure] = {}
    write = write_extxyz if out.suffix in (".extxyz", ".xyz") else write_table
    write([], out)  # what cannot be written is said before the work
    try:
        with progress(console, "relaxing", len(found)) as step:
            for result in relaxer.relax([c.crystal for c in found.values()]):
                results[result.key] = result
                step()
    finally:  # stopped half-way, what is done is kept
        relaxer.close()
        done = [
            (slot, c) for slot, c in enumerate(items) if isinstance(c, Candidate) and c.key in results
        ]
        write([_relaxed_row(ExportRow, slot, c, results[c.key]) for slot, c in done], out)
    reasons = Counter(reason for item in items if (reason := _why_not(item, results)) is not None)
    why = "".join(f"; {n} {reason}" for reason, n in reasons.items())
    return f"{len(items) - reasons.total()} of {len(items)} crystals converged{why}; wrote {out}"


def _why_not(item: Candidate | Failure, results: dict[str, Relaxed | Failure]) -> str | None:
    result = results[item.key] if isinstance(item, Candidate) else item
    if isinstance(result, Failure):
        return result.reason.value
    return None if result.converged else "not_converged"


def _relaxed_row(make: Any, slot: int, item: Candidate, result: Relaxed | Failure) -> Any:
    relaxed = result if isinstance(result, Relaxed) else None
    crystal = relaxed.crystal if relaxed else item.crystal
    data: dict[str, Any] = {"source": item.origin.source}
    if relaxed:
        data |= {
            "converged": relaxed.converged,
            "max_force": relaxed.max_force,
            "max_stress": relaxed.max_stress,
            "steps": relaxed.steps,
        }
    elif isinstance(result, Failure):
        data |= {"converged": False, "reason": result.reason.value, "detail": result.detail}
    return make(
        key=item.key,
        slot=slot,
        formula=crystal.formula,
        crystal=crystal,
        energy=relaxed.energy if relaxed else None,
        formation_energy_per_atom=None,
        energy_above_hull=None,
        decomposition_energy=None,
        model=relaxed.model if relaxed else "",
        corrections="",
        reference="",
        data=data,
    )


def _files_campaign(paths: Sequence[Path], relaxer: dict[str, Any]) -> Campaign:
    return parse_campaign(
        {
            "name": "relax",
            "generator": {"kind": "files", "paths": [str(p) for p in paths]},
            "relaxer": relaxer,
        },
        source="relax",
    )


def open_reference(
    name: str, elements: tuple[str, ...], thermo_type: ThermoType = "GGA_GGA+U"
) -> Reference:
    """A reference by its name on the command line: embedded, mp, or a file.

    Raises:
        InputError: it has no hull of this thermo type, or cannot be opened.
    """
    from ..core.choices.references import EmbeddedChoice, FileChoice, MpChoice

    choice: EmbeddedChoice | MpChoice | FileChoice
    if thermo_type != "GGA_GGA+U" and name != "mp":
        raise InputError(
            f"thermo type: got {thermo_type} for the reference {name}, which has one hull only",
            hint="--reference mp has both",
        )
    if name == "embedded":
        choice = EmbeddedChoice(kind="embedded")
    elif name == "mp":
        choice = MpChoice(kind="mp", thermo_type=thermo_type)
    else:
        choice = FileChoice(kind="file", path=name)
    return build_reference(choice, elements, MatcherSettings(), load_settings())


def build_embedded(table: Path, out: Path, *, console: Console) -> str:
    """Make the table of facts and fingerprints; returns what was made, in words."""
    from ..validators.reference_embedded import build_reference as build_table

    with console.status("computing fingerprints"):
        info = build_table(table, out)
    return f"wrote {out}: {info.n_phases:,} phases, {out.stat().st_size / 1e6:.1f} MB; {info.coverage}"
