"""`heliodor split`: training, validation and test tables that tear no near crystals apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import write_text
from ..report.cif import symmetry
from ..validators.novelty import StructureNovelty
from ..validators.redundancy import clusters, matched_clusters, near_any, nearest, representatives
from ..validators.splits import By, Fractions, Part, by_elements, by_groups, group_names
from .criterion import Criterion, in_steps, left_out_text, reading
from .single import progress
from .tables import CrystalTable, check_out, read_crystals, write_rows

if TYPE_CHECKING:
    from rich.console import Console

Ints = NDArray[np.int64]

_SYMPREC = 0.1  # angstrom, of prototypes; as of the `spacegroup` column of structure tables


@dataclass(frozen=True)
class SplitOptions:
    """How to split.

    Args:
        criterion: pairs that must not be torn apart. by: what crystals of one group share.
        fractions: sizes of the parts. seed: of the draws.
        hold_out: groups of `by` that are the test set, in place of drawn ones.
        gap: cut through what hangs together, and leave out the crystals next to the cut.
        suffix: .parquet or .extxyz.

    Raises:
        InputError: options that do not go together.
    """

    criterion: Criterion
    by: By | None = None
    fractions: Fractions = field(default_factory=Fractions)
    seed: int = 0
    hold_out: tuple[str, ...] = ()
    gap: bool = False
    suffix: str = ".parquet"

    def __post_init__(self) -> None:
        near = bool(self.criterion.thresholds())
        if not near and not self.criterion.same and self.by is None:
            raise InputError(
                "what must stay together? give --composition-threshold, --structure-threshold, "
                "--same or --by"
            )
        if self.hold_out and self.by is None:
            raise InputError("--hold-out names groups of --by: give it too")
        if self.gap and (not near or self.by is not None):
            raise InputError("--gap goes with thresholds, and without --by")
        if self.by == By.ELEMENT and (near or self.criterion.same):
            raise InputError("--by element goes without thresholds and --same")


def split(
    paths: Sequence[Path], folder: Path, options: SplitOptions, *, console: Console
) -> dict[str, Any]:
    """Write train, validation and test tables that keep near crystals together, and measure that.

    Raises:
        InputError: nothing usable to read, an unknown group, or a part that would be empty.
    """
    outs = {part: folder / f"{part.value}{options.suffix}" for part in Part}
    for out in outs.values():
        check_out(out, paths)
    table = read_crystals(paths, console)
    parts, labels, more = _parts(table, options, console)
    members = {part: np.flatnonzero([p == part for p in parts]) for part in Part}
    for part, out in outs.items():
        if len(members[part]):
            rows = table.take(members[part], cluster=labels)
            write_rows(rows, [table.crystals[i] for i in members[part]], out)
        else:  # of an earlier split
            out.unlink(missing_ok=True)
    check = {
        part.value: _check(table, options.criterion, members[part], members[Part.TRAIN], console)
        for part in (Part.TEST, Part.VALIDATION)
        if len(members[part])
    }
    summary = {
        **reading(table),
        "parts": {part.value: len(found) for part, found in members.items()},
        "near": options.criterion.text(),
        "by": options.by.value if options.by else None,
        "thresholds": options.criterion.thresholds(),
        "fractions": asdict(options.fractions),
        "seed": options.seed,
        **more,
        "nearest_to_train": check,
        "promise_kept": all(found["promise_kept"] for found in check.values()),
        "out": str(folder),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n", "the summary")
    return {**summary, "message": _split_message(table, summary)}


def _parts(
    table: CrystalTable, options: SplitOptions, console: Console
) -> tuple[list[Part | None], list[str], dict[str, Any]]:
    """The part of each crystal (None: left out), its group's name, and what the summary says of it."""
    if options.by == By.ELEMENT:
        found, chosen = by_elements(table.crystals, options.fractions, options.seed, options.hold_out)
        named = {part.value: elements for part, elements in chosen.items()}
        return list(found), [crystal.chemsys for crystal in table.crystals], {"held_out": named}
    labels, names, held_out = _groups(table, options, console)
    parts: list[Part | None] = list(by_groups(labels, options.fractions, options.seed, held_out))
    sizes = np.bincount(labels)
    largest = int(sizes.argmax())
    more: dict[str, Any] = {
        "groups": len(sizes),
        "largest_group": {"name": names[largest], "crystals": int(sizes[largest])},
    }
    if options.gap:
        more["left_out_at_gap"] = _cut(table, options.criterion, parts, console)
    return parts, [names[label] for label in labels], more


def _groups(
    table: CrystalTable, options: SplitOptions, console: Console
) -> tuple[Ints, list[str], list[int]]:
    """The number of each crystal's group, the groups' names, and those held out."""
    labels, held_out = np.arange(len(table)), list[str]()
    if options.by is not None:
        groups = group_names(table.crystals, options.by, _spacegroups(table, options.by, console))
        held_out = [_normal(name, options.by) for name in options.hold_out]
        if unknown := [name for name in held_out if name not in set(groups)]:
            raise InputError(f"--hold-out: no crystal is of {options.by.value} {', '.join(unknown)}")
        labels = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    by_name = groups if options.by else table.names()
    measures = options.criterion.measures(table)
    with progress(console, "comparing", len(table)) as step:
        if options.gap:
            order = np.random.default_rng(options.seed).permutation(len(table))
            found = representatives(measures, order, in_steps(step))
            labels = np.unique(found, return_inverse=True)[1].astype(np.int64)
        elif options.criterion.same:
            labels = matched_clusters(table.crystals, table.vectors, labels, in_steps(step))
        elif measures:
            labels = clusters(measures, labels, in_steps(step))
    first = np.unique(labels, return_index=True)[1]
    held = {int(labels[i]) for i, name in enumerate(by_name) if name in held_out}
    return labels, [by_name[i] for i in first], sorted(held)


def _cut(
    table: CrystalTable, criterion: Criterion, parts: list[Part | None], console: Console
) -> dict[str, int]:
    """Leave out training crystals near held-out ones, and validation crystals near test ones."""
    measures = criterion.measures(table)
    left_out = {}
    for part, others in (
        (Part.VALIDATION, (Part.TEST,)),
        (Part.TRAIN, (Part.TEST, Part.VALIDATION)),
    ):
        rows = np.flatnonzero([p == part for p in parts])
        columns = np.flatnonzero([p in others for p in parts])
        with progress(console, f"cutting the {part.value} set free", len(rows)) as step:
            near = rows[near_any(measures, rows, columns, in_steps(step))]
        for i in near:
            parts[i] = None
        left_out[part.value] = len(near)
    if not any(part == Part.TRAIN for part in parts):
        raise InputError(
            f"no training crystal is farther than the thresholds from all {len(columns)} held out",
            hint="lower the thresholds or the fractions",
        )
    return left_out


def _check(
    table: CrystalTable, criterion: Criterion, held: Ints, train: Ints, console: Console
) -> dict[str, Any]:
    """Nearest distances from a held-out part to the training set, over all pairs."""
    measures = criterion.measures(table, every=True)
    with progress(console, "measuring the distance to the training set", 1) as step:
        found = nearest(measures, held, train)
        step()
    kept = found.ratio is None or found.ratio >= 1 - 1e-9
    result: dict[str, Any] = {**found.distances}
    if found.ratio is not None:
        result["distance_over_threshold"] = found.ratio
    if criterion.same:
        known = [(str(i), table.crystals[i]) for i in train]
        verdicts = StructureNovelty(known).check([table.crystals[i] for i in held])
        result["matches"] = sum(verdict.passed is False for verdict in verdicts)
        kept = result["matches"] == 0
    return {**result, "promise_kept": kept}


def _spacegroups(table: CrystalTable, by: By, console: Console) -> list[int | None]:
    """From the column `spacegroup`, or by spglib; only prototypes need them."""
    if by != By.PROTOTYPE:
        return []
    given = table.column("spacegroup") if "spacegroup" in table.rows.column_names else []
    known: list[int | None] = [int(g) if g and g == g else None for g in given] or [None] * len(table)  # noqa: PLR0124
    with progress(console, "space groups", len(table)) as step:
        for i, crystal in enumerate(table.crystals):
            if known[i] is None:
                found = symmetry(crystal, _SYMPREC)
                known[i] = found[0] if found else None
            step()
    return known


def _normal(name: str, by: By) -> str:
    """A group's name as it is written here: O-Li as Li-O."""
    return "-".join(sorted(name.split("-"))) if by == By.CHEMSYS else name


# --- what is said --------------------------------------------------------------------------------


def _split_message(table: CrystalTable, summary: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {n:,} ({n / len(table):.1%})" for name, n in summary["parts"].items())
    lines = [f"{sizes}{left_out_text(table)}"]
    if "groups" in summary:
        largest = summary["largest_group"]
        share = largest["crystals"] / len(table)
        lines.append(
            f"{summary['groups']:,} groups; the largest, {largest['name']}, holds {share:.1%} of all"
        )
    if "held_out" in summary:
        for name, elements in summary["held_out"].items():
            lines.append(f"{name}: elements {', '.join(elements) or 'none'}")
    for name, n in summary.get("left_out_at_gap", {}).items():
        lines.append(f"{name}: {n:,} crystals left out, too near to the cut")
    for name, found in summary["nearest_to_train"].items():
        lines.append(f"{name} to train, measured over all pairs: {_distances(found)}")
    lines.append(f"wrote {summary['out']}")
    return "\n".join(lines)


def _distances(found: dict[str, Any]) -> str:
    text = f"nearest composition {found['composition']:.3g}, nearest structure {found['structure']:.3g}"
    if "distance_over_threshold" in found:
        text += f"; nearest pair at {found['distance_over_threshold']:.3f} of the threshold"
    if "matches" in found:
        text += f"; {found['matches']} match"
    return text if found["promise_kept"] else text + " - THE SPLIT DOES NOT KEEP ITS PROMISE"
