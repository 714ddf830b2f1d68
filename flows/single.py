"""One stage at a time, without a campaign: `heliodor generate`, `relax`, `hull`, `reference`."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.campaign import Campaign, parse_campaign, parse_formula
from ..core.convert import to_atoms, to_structure
from ..core.elements import ATOMIC_NUMBERS, chemsys, parse_elements
from ..core.errors import InputError, StorageError
from ..core.protocols import Reference
from ..core.records import Candidate, Conditions, Failure, Relaxed
from ..core.settings import load_settings
from ..validators.matching import MatcherSettings
from .build import build_generator, build_reference, build_relaxer

if TYPE_CHECKING:
    from rich.console import Console

Write = Callable[[Candidate], None]


def generate_to_file(
    out: Path, *, n: int, seed: int, generator: str, space: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Propose `n` crystals and write each as it comes; returns counts and a message.

    Raises:
        InputError: an unknown generator, format or element, or a space that cannot be served.
    """
    if generator == "files":
        raise InputError("'files' proposes what it reads; use heliodor screen PATHS")
    content = {
        "name": "generate",
        "generator": {"kind": generator},
        "space": {k: v for k, v in space.items() if v is not None},
    }
    campaign = parse_campaign(content, source="generate")
    if not (campaign.space.elements or campaign.space.formula):
        raise InputError("where to search? give --chemsys A-B-C or --formula")
    stream = build_generator(campaign.generator).generate(
        n, seed=seed, conditions=campaign.space.conditions()
    )
    written, failures = 0, Counter[str]()
    with writer(out) as write, progress(console, "generating", n) as step:
        for item in stream:
            if isinstance(item, Candidate):
                write(item)
                written += 1
            else:
                failures[item.reason.value] += 1
            step()
    message = f"wrote {written} crystals to {out}"
    if failures:
        message += "; " + ", ".join(f"{k} {reason}" for reason, k in failures.items())
    if written + failures.total() < n:
        message += f"; {generator} had nothing more to propose (asked for {n})"
    return {
        "written": written,
        "asked": n,
        "failures": dict(failures),
        "out": str(out),
        "message": message,
    }


@contextmanager
def writer(out: Path) -> Iterator[Write]:
    """A function that appends one crystal to `out`, in the format that its name says."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        match out.suffix:
            case ".extxyz" | ".xyz":
                with out.open("w", encoding="utf-8") as file:
                    yield lambda c: _append_extxyz(file, c)
            case ".cif":
                with out.open("w", encoding="utf-8") as file:
                    yield lambda c: _append_text(file, _cif(c))
            case ".json":
                with out.open("w", encoding="utf-8") as file:
                    file.write("[")
                    yield _json_appender(file)
                    file.write("\n]\n")
            case ".zip":
                with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                    yield lambda c: archive.writestr(_file_name(c), _cif(c))
            case "":
                out.mkdir(exist_ok=True)
                yield lambda c: _to_file(out / _file_name(c), _cif(c))
            case other:
                raise InputError(
                    f"cannot write '{other}' files; .extxyz, .json, .cif, .zip, or a folder name"
                )
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error


def _append_text(file: Any, text: str) -> None:
    file.write(text)
    file.flush()  # a crash loses nothing that was proposed


def _append_extxyz(file: Any, candidate: Candidate) -> None:
    from ase.io.extxyz import write_extxyz

    atoms = to_atoms(candidate.crystal)
    atoms.info = {
        "key": candidate.key,
        "source": candidate.origin.source,
        "index": candidate.origin.index,
    }
    write_extxyz(file, [atoms])
    file.flush()


def _json_appender(file: Any) -> Write:
    first = True

    def append(candidate: Candidate) -> None:
        nonlocal first
        structure = to_structure(candidate.crystal)
        structure.properties = {"key": candidate.key, "source": candidate.origin.source}
        _append_text(file, ("\n" if first else ",\n") + json.dumps(structure.as_dict()))
        first = False

    return append


def _cif(candidate: Candidate) -> str:
    from pymatgen.io.cif import CifWriter

    head = f"# {candidate.origin.generator}: {candidate.origin.source}\n"
    return head + str(CifWriter(to_structure(candidate.crystal)))


def _file_name(candidate: Candidate) -> str:
    return f"{candidate.origin.index:06d}_{candidate.crystal.formula}.cif"


def _to_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


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
    campaign = _files_campaign(paths, settings)
    machine = load_settings()
    relaxer = build_relaxer(campaign.relaxer, machine.workers)
    if relaxer is None:
        raise InputError("--relaxer none relaxes nothing; choose chgnet or sevennet")
    stream = build_generator(campaign.generator).generate(
        10_000_000, seed=0, conditions=Conditions(max_atoms=100_000)
    )
    items = list(enumerate(stream))
    found = {c.key: c for _, c in items if isinstance(c, Candidate)}
    results: dict[str, Relaxed | Failure] = {}
    try:
        with progress(console, "relaxing", len(found)) as step:
            for result in relaxer.relax([c.crystal for c in found.values()]):
                results[result.key] = result
                step()
    finally:
        relaxer.close()
    rows, reasons = [], Counter[str]()
    for slot, item in items:
        result = results[item.key] if isinstance(item, Candidate) else item
        if isinstance(result, Failure):
            reasons[result.reason.value] += 1
        elif not result.converged:
            reasons["not_converged"] += 1
        if isinstance(item, Candidate):
            rows.append(_relaxed_row(ExportRow, slot, item, result))
    if out.suffix in (".extxyz", ".xyz"):
        write_extxyz(rows, out)
    else:
        write_table(rows, out)
    why = "".join(f"; {n} {reason}" for reason, n in reasons.items())
    return f"{len(items) - reasons.total()} of {len(items)} crystals converged{why}; wrote {out}"


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


def open_reference(name: str, elements: tuple[str, ...]) -> Reference:
    """A reference by its name on the command line: embedded, mp, or a file."""
    from ..core.campaign import EmbeddedChoice, FileChoice, MpChoice

    choice: EmbeddedChoice | MpChoice | FileChoice
    if name == "embedded":
        choice = EmbeddedChoice(kind="embedded")
    elif name == "mp":
        choice = MpChoice(kind="mp")
    else:
        choice = FileChoice(kind="file", path=name)
    return build_reference(choice, elements, MatcherSettings(), load_settings())


def hull_rows(items: Sequence[str], system: str | None, reference: str) -> list[dict[str, Any]]:
    """Rows for `heliodor hull`: the stable phases of a system, or the given compositions' distances."""
    queries = [query for item in items for query in _queries(item)]
    if not queries and system is None:
        raise InputError("what to look up? give --chemsys A-B-C, FORMULA=ENERGY, or a CSV")
    from ..validators.hull import Hull

    elements = {s for pairs, _ in queries for s, _ in pairs} | set(
        parse_elements(system) if system else ()
    )
    known = open_reference(reference, tuple(sorted(elements)))
    if not queries:
        return _stable_phases(known, tuple(sorted(elements)))
    rows = []
    for pairs, energy in queries:
        composition = tuple(sorted((ATOMIC_NUMBERS[s], n) for s, n in pairs))
        inside = tuple(sorted(s for s, _ in pairs))
        distance = Hull(known.entries(inside)).query(composition, energy)
        rows.append(
            {
                "formula": "".join(s + (str(n) if n > 1 else "") for s, n in pairs),
                "chemsys": chemsys(inside),
                "formation_energy_per_atom": energy,
                "energy_above_hull": distance.energy_above_hull,
                "decomposition_energy": distance.decomposition_energy,
                "decomposition": " + ".join(f"{x:.3f} {f} ({m})" for f, m, x in distance.decomposition),
                "reference": known.info.name,
            }
        )
    return rows


def _stable_phases(known: Reference, elements: tuple[str, ...]) -> list[dict[str, Any]]:
    from pymatgen.core import Composition

    from ..core.elements import SYMBOLS
    from ..validators.hull import Hull

    phases = [p for p in known.entries(elements) if p.formation_energy_per_atom is not None]
    hull = Hull(phases)
    rows = []
    for phase in phases:
        energy = phase.formation_energy_per_atom or 0.0
        distance = hull.query(phase.composition, energy)
        if distance.energy_above_hull <= 1e-8:
            rows.append(
                {
                    "formula": Composition(
                        {SYMBOLS[z]: n for z, n in phase.composition}
                    ).reduced_formula,
                    "material_id": phase.material_id,
                    "spacegroup": phase.spacegroup,
                    "formation_energy_per_atom": energy,
                    "reference": known.info.name,
                }
            )
    return sorted(rows, key=lambda r: str(r["formula"]))


def _queries(item: str) -> Iterator[tuple[tuple[tuple[str, int], ...], float]]:
    if item.endswith((".csv", ".parquet")):
        yield from _table_queries(Path(item))
        return
    formula, separator, energy = item.partition("=")
    if not separator:
        raise InputError(
            f"{item!r}: write FORMULA=ENERGY, for example Li2O=-2.05 (eV/atom), or a CSV file"
        )
    yield _query(formula, energy)


def _table_queries(path: Path) -> Iterator[tuple[tuple[tuple[str, int], ...], float]]:
    import pandas as pd

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    missing = {"formula", "formation_energy_per_atom"} - set(table.columns)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}; found {list(table.columns)}"
        )
    for formula, energy in zip(table["formula"], table["formation_energy_per_atom"], strict=True):
        yield _query(str(formula), energy)


def _query(formula: str, energy: Any) -> tuple[tuple[tuple[str, int], ...], float]:
    import math

    try:
        pairs, value = parse_formula(formula), float(energy)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not math.isfinite(value):
        raise InputError(f"{formula}: formation energy {energy} is not a number")
    return pairs, value


def show_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, console: Console) -> None:
    """Rows as a table or as JSON."""
    if as_json:
        console.print_json(json.dumps(rows))
        return
    from rich.table import Table

    if not rows:
        console.print("no phases in this system")
        return
    table = Table(box=None, header_style="dim")
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, float) else "left")
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)


def build_embedded(table: Path, out: Path, *, console: Console) -> str:
    """Make the table of facts and fingerprints; returns what was made, in words."""
    from ..validators.reference_embedded import build_reference as build_table

    with console.status("computing fingerprints"):
        info = build_table(table, out)
    return f"wrote {out}: {info.n_phases:,} phases, {out.stat().st_size / 1e6:.1f} MB; {info.coverage}"
