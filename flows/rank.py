"""Structure prediction's last step: relax what was proposed, merge what is the same, rank by energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.choices.relaxers import RelaxerChoice
from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.protocols import Relaxer
from ..core.records import Candidate, Failure, HullPoint, Relaxed
from ..core.settings import load_settings
from ..validators.matching import MatcherSettings
from .build import build_relaxer
from .obeyed import SYMPREC
from .single import open_reference, progress

if TYPE_CHECKING:
    from rich.console import Console

    from ..report.export import ExportRow

_SHOWN = 20
_TWINS = (0.02, 0.02, 1.0)  # tolerances (ltol, stol, angle_tol) of the matcher


@dataclass(frozen=True)
class Ranked:
    """One distinct crystal of the ranking.

    Args:
        rank: 1 is the lowest. candidate: the first proposal that led to it. relaxed: its lowest form.
        point: against the hull; a Failure where it cannot be judged.
        spacegroup: number within 0.1 angstrom; None where spglib finds none.
        times: proposals that relaxed to it. known_as: id of the known phase that it is, or None.
    """

    rank: int
    candidate: Candidate
    relaxed: Relaxed
    point: HullPoint | Failure
    spacegroup: int | None
    times: int
    known_as: str | None

    @property
    def energy_per_atom(self) -> float:
        """eV/atom, as the potential gives it."""
        return self.relaxed.energy / len(self.relaxed.crystal)

    @property
    def energy_above_hull(self) -> float | None:
        """eV/atom; None where it cannot be judged."""
        return None if isinstance(self.point, Failure) else self.point.energy_above_hull

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        crystal = self.relaxed.crystal
        return {
            "rank": self.rank,
            "formula": crystal.formula,
            "energy_above_hull": self.energy_above_hull,
            "energy_per_atom": self.energy_per_atom,
            "spacegroup": self.spacegroup,
            "volume_per_atom": crystal.volume / len(crystal),
            "found": self.times,
            "known_as": self.known_as,
            "converged": self.relaxed.converged,
        }


@dataclass(frozen=True)
class Ranking:
    """All that relaxed, best first.

    Args:
        failures: proposals that did not relax, by reason. level: where the energies come from.
        reference: what the hull is. files: where it was written.
    """

    rows: tuple[Ranked, ...]
    failures: Mapping[str, int]
    level: str
    reference: str
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ranked": [row.as_dict() for row in self.rows],
            "relaxation_failures": dict(self.failures),
            "level": self.level,
            "reference": self.reference,
            "ranked_files": [str(path) for path in self.files],
        }


class Ranker:
    """Ranks proposals by the energy above the hull of the embedded reference.

    Args:
        choice: the potential.

    Raises:
        MissingError: the potential is not installed. InputError: there is none.
    """

    def __init__(self, choice: RelaxerChoice) -> None:
        from ..validators.stability import Stability

        relaxer = build_relaxer(choice, load_settings().workers)
        if relaxer is None:
            raise InputError(f"{choice.kind} gives no energies to rank by")
        self.relaxer: Relaxer = relaxer
        self.reference = open_reference("embedded", ())
        self.judge = Stability(self.reference, relaxer.model).judge_many

    def __call__(self, candidates: Sequence[Candidate], out: Path, console: Console) -> Ranking:
        """Relax, merge and rank; writes OUT's stem + `_ranked.extxyz` and `_ranked.csv`.

        Of proposals that are the same up to a little noise only the first is relaxed.

        Stopped half-way, what has been relaxed is ranked and written all the same.

        Raises:
            StorageError: the files cannot be written.
        """
        from ..report.export import write_extxyz, write_table

        # Within a fiftieth of the distance between atoms they lie in one basin, whatever their density.
        twins = Counter(_kinds([c.crystal for c in candidates], MatcherSettings(*_TWINS)))
        first: dict[str, Candidate] = {}
        for c in candidates:
            if c.key in twins:
                first.setdefault(c.key, c)
        files = tuple(out.with_name(f"{out.stem}_ranked{suffix}") for suffix in (".extxyz", ".csv"))
        results: dict[str, Relaxed | Failure] = {}
        try:
            with progress(console, "relaxing", len(first)) as step:
                for result in self.relaxer.relax([c.crystal for c in first.values()]):
                    results[result.key] = result
                    step()
        finally:
            self.relaxer.close()
            done = [c for c in first.values() if c.key in results]
            ranking = self._ranking(done, results, twins, files)
            rows = [_row(row) for row in ranking.rows]
            write_extxyz(rows, files[0])
            write_table(rows, files[1])
        return ranking

    def _ranking(
        self,
        done: Sequence[Candidate],
        results: Mapping[str, Relaxed | Failure],
        twins: Mapping[str, int],
        files: tuple[Path, ...],
    ) -> Ranking:
        failures = Counter[str]()
        for c in done:
            if isinstance(result := results[c.key], Failure):
                failures[result.reason.value] += twins[c.key]
        relaxed = [(c, r) for c in done if isinstance(r := results[c.key], Relaxed)]
        info = self.reference.info
        return Ranking(
            rows=tuple(self._rows(relaxed, twins)),
            failures=failures,
            level=self.relaxer.model,
            reference=f"{info.name}: {info.coverage}",
            files=files,
        )

    def _rows(
        self, relaxed: Sequence[tuple[Candidate, Relaxed]], twins: Mapping[str, int]
    ) -> Iterable[Ranked]:
        """Distinct crystals, the lowest first: each stands for all that match it."""
        from ..report.cif import symmetry

        points = {point.key: point for point in self.judge([r for _, r in relaxed])}
        ordered = sorted(relaxed, key=lambda item: (_height(points[item[1].key], item[1]), item[1].key))
        same = _kinds([r.crystal for _, r in ordered], MatcherSettings())
        times = Counter[str]()
        heads: dict[str, tuple[Candidate, Relaxed]] = {}
        for name, item in zip(same, ordered, strict=True):
            heads.setdefault(name, item)
            times[name] += twins[item[1].key]
        known = self.reference.match([r.crystal for _, r in heads.values()])
        for k, (name, (candidate, best)) in enumerate(heads.items()):
            found = symmetry(best.crystal, SYMPREC)
            yield Ranked(
                rank=k + 1,
                candidate=candidate,
                relaxed=best,
                point=points[best.key],
                spacegroup=found[0] if found else None,
                times=times[name],
                known_as=known[k].match if known[k].passed is False else None,
            )


def _kinds(crystals: Sequence[Crystal], matcher: MatcherSettings) -> list[str]:
    """For each crystal the key of the first that is the same."""
    from ..validators.uniqueness import Uniqueness

    first: dict[str, str] = {}
    for verdict in Uniqueness(matcher).check(crystals):
        match = verdict.match if verdict.passed is False and verdict.match else verdict.key
        first.setdefault(verdict.key, first.get(match, match))
    return [first[crystal.digest] for crystal in crystals]


def _height(point: HullPoint | Failure, relaxed: Relaxed) -> tuple[bool, float]:
    """What is ranked by: the signed distance to the known hull, else the energy per atom."""
    if isinstance(point, Failure):
        return True, relaxed.energy / len(relaxed.crystal)
    return False, point.decomposition_energy


def _row(ranked: Ranked) -> ExportRow:
    from ..report.export import ExportRow

    point = None if isinstance(ranked.point, Failure) else ranked.point
    said = ranked.as_dict()
    further = ("rank", "energy_per_atom", "spacegroup", "volume_per_atom", "found", "known_as")
    return ExportRow(
        key=ranked.candidate.key,
        slot=ranked.candidate.origin.index,
        formula=ranked.relaxed.crystal.formula,
        crystal=ranked.relaxed.crystal,
        energy=ranked.relaxed.energy,
        formation_energy_per_atom=point.formation_energy_per_atom if point else None,
        energy_above_hull=point.energy_above_hull if point else None,
        decomposition_energy=point.decomposition_energy if point else None,
        model=ranked.relaxed.model,
        corrections=point.corrections if point else "",
        reference=point.reference if point else "",
        data={**{name: said[name] for name in further}, "converged": ranked.relaxed.converged},
    )


def show_ranking(ranking: Ranking, console: Console) -> None:
    """The best as a table, and what the numbers are."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("rank", "formula", "E above hull", "E/atom", "space group", "V/atom", "found", ""):
        table.add_column(heading, justify="left" if heading in ("formula", "") else "right")
    for row in ranking.rows[:_SHOWN]:
        above = row.energy_above_hull
        crystal = row.relaxed.crystal
        notes = [row.known_as or "", "" if row.relaxed.converged else "not converged"]
        table.add_row(
            str(row.rank),
            crystal.formula,
            "-" if above is None else f"{above:.4f}",
            f"{row.energy_per_atom:.4f}",
            str(row.spacegroup or "-"),
            f"{crystal.volume / len(crystal):.2f}",
            str(row.times),
            ", ".join(filter(None, notes)),
        )
    console.print(table)
    lost = "".join(f"; {n} {reason}" for reason, n in ranking.failures.items())
    more = len(ranking.rows) - _SHOWN
    said = f"{len(ranking.rows)} distinct crystals{lost}" + (f"; {more} more in the files" * (more > 0))
    console.print(f"{said}; eV/atom by {ranking.level}, cubic angstrom", style="dim", highlight=False)
    console.print(f"hull: {escape(ranking.reference)}", style="dim", highlight=False)
    for path in ranking.files:
        console.print(f"wrote {escape(str(path))}", highlight=False, soft_wrap=True)
