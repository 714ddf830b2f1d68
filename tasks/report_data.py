"""From the ledger to what the report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from ..core.protocols import ReferenceInfo
from ..core.records import Outcome, Status
from ..report.export import ExportRow
from ..report.model import (
    FailureRow,
    MetricRow,
    PolymorphRow,
    ProtocolData,
    Rate,
    ReportData,
)
from ..report.stats import wilson
from ..validators.polymorphs import Polymorph
from .context import Context
from .protocol import Counted
from .report_crystals import crystal_rows
from .report_dft import dft_data
from .report_funnel import funnel, words
from .report_hulls import hull_diagrams
from .table import Record, count

_TOO_GOOD = -0.2  # eV/atom


def report_data(
    context: Context,
    found: Sequence[Record],
    ended: str,
    polymorphs: Sequence[Polymorph] = (),
    counted: Counted | None = None,
    summary: Mapping[str, Any] = MappingProxyType({}),
) -> ReportData:
    """Everything that the report of a campaign shows.

    `summary`: what was counted beside the verdicts: by potential, and mean distances.
    """
    campaign = context.campaign
    threshold = campaign.select.max_energy_above_hull
    judged = [r for r in found if r.hull is not None]
    counts = count(found)
    return ReportData(
        name=campaign.name,
        seed=campaign.seed,
        space=_space(context),
        created_at=datetime.now(UTC),
        proposed=counts.n,
        sun=sum(r.sun(threshold) is True for r in found),
        threshold=threshold,
        settings=[*_settings(context, ended), *_distances(summary.get("continuous") or {})],
        funnel=funnel(found, context.ledger.stages, threshold, keep=campaign.screen.keep_rejected),
        rates=[
            *rates_of(found),
            *(Rate(label, n, counts.n, *wilson(n, counts.n)) for label, n in _by_potential(summary)),
        ],
        rows=crystal_rows(context.scorers, found, threshold),
        all_energies=[r.hull["decomposition_energy"] for r in judged if r.hull],
        element_counts=_element_counts(found, threshold),
        hulls=hull_diagrams(context, judged),
        dft=dft_data(found, context.folder, threshold),
        polymorphs=polymorph_rows(found, polymorphs),
        protocol=_protocol(counted) if counted is not None else None,
        failures=failure_rows(found),
        provenance=_provenance(context),
        notes=[
            *_notes(context.reference.info, context.relaxer.model if context.relaxer else None),
            *_too_good(judged),
        ],
    )


_RATE_LABELS = {
    "valid": "valid",
    "unique": "unique",
    "novel": "novel",
    "converged": "relaxed (converged)",
    "stable_0": "stable, ≤ 0 eV/atom",
    "stable_0.1": "stable, ≤ 0.1 eV/atom",
    "sun_0": "SUN, ≤ 0 eV/atom",
    "sun_0.1": "SUN, ≤ 0.1 eV/atom",
}


def rates_of(found: Sequence[Record]) -> list[Rate]:
    """Each count over all proposals, with its interval; without what was not judged."""
    summary = count(found).summary()
    counted = {label: summary[name] for name, label in _RATE_LABELS.items()}
    n = summary["n"]
    return [Rate(label, k, n, *wilson(k, n)) for label, k in counted.items() if k is not None]


def _by_potential(summary: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The same rates by each potential, and by all together."""
    return [
        (f"{name}: {_RATE_LABELS[rate]}", part[rate])
        for name, part in summary.get("potentials", {}).items()
        for rate in part["rates"]
    ]


def _distances(measures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Mean distances among the crystals and to the known ones, as (label, text)."""
    found = []
    for name, measure in measures.items():
        kinds = ("structure", "composition")
        there = [(k, measure[k]["value"]) for k in kinds if measure and measure[k] is not None]
        if there:
            found.append((f"Continuous {name}", ", ".join(f"{kind} {x:.3g}" for kind, x in there)))
    return found


def _space(context: Context) -> str:
    space = context.campaign.space
    if space.formula:
        return space.formula
    if space.elements:
        return "-".join(space.elements)
    return "all elements"


def _settings(context: Context, ended: str) -> list[tuple[str, str]]:
    campaign = context.campaign
    rules = campaign.screen
    return [
        ("Generator", context.generator.name),
        ("Chemical space", _space(context) + (" and subsystems" if campaign.space.subsystems else "")),
        (
            "Matcher",
            f"StructureMatcher, ltol {rules.ltol:g}, stol {rules.stol:g}, {rules.angle_tol:g}°",
        ),
        ("Potential", context.relaxer.model if context.relaxer else "none"),
        ("Reference", f"{context.reference.info.name}, {context.reference.info.n_phases:,} phases"),
        ("Stable", f"energy above hull ≤ {campaign.select.max_energy_above_hull:g} eV/atom"),
        ("Ended", ended),
    ]


def _protocol(counted: Counted) -> ProtocolData:
    return ProtocolData(
        counted.protocol,
        counted.source,
        [MetricRow(m.name, m.value, m.meaning, m.count, m.n, m.low, m.high) for m in counted.metrics],
        [(d.what, d.theirs, d.ours) for d in counted.differences],
    )


def _element_counts(found: Sequence[Record], threshold: float) -> dict[str, tuple[int, int]]:
    proposed: Counter[str] = Counter()
    sun: Counter[str] = Counter()
    for record in found:
        if record.crystal is None:
            continue
        proposed.update(record.crystal.elements)
        if record.sun(threshold):
            sun.update(record.crystal.elements)
    return {symbol: (n, sun[symbol]) for symbol, n in sorted(proposed.items())}


def polymorph_rows(found: Sequence[Record], polymorphs: Sequence[Polymorph]) -> list[PolymorphRow]:
    """The polymorphs as the report shows them, with the slots of the generated."""
    slots = {r.candidate.key: r.slot for r in reversed(found) if r.candidate is not None}
    return [
        PolymorphRow(
            formula=p.formula,
            rank=p.rank,
            name=p.key_or_material_id,
            known=p.origin == "known",
            formation_energy_per_atom=p.formation_energy_per_atom,
            gap=p.gap,
            spacegroup=p.spacegroup,
            cluster=p.cluster,
            level=p.level,
            finalist=p.finalist,
            slot=slots.get(p.key_or_material_id),
        )
        for p in polymorphs
    ]


def failure_rows(found: Sequence[Record]) -> list[FailureRow]:
    """What has failed, by stage and reason."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for record in found:
        if record.end.status == Status.FAILED:
            rows.setdefault((record.end.stage, words(record.end.reason)), []).append(record.end)
    return [
        FailureRow(stage, reason, len(outcomes), str(outcomes[0].data.get("detail", "")))
        for (stage, reason), outcomes in sorted(rows.items())
    ]


def _provenance(context: Context) -> dict[str, str]:
    info = context.reference.info
    facts = {
        "campaign settings (sha256)": context.campaign.science_digest(),
        "ledger": str(context.ledger.database),
        "reference": f"{info.name} ({info.digest[:16]}), {info.coverage}",
        "attribution": info.attribution,
    }
    for record in context.ledger.provenances().values():
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        facts.setdefault("versions", versions)
        facts.setdefault("machine", f"{record['platform']}, {record['machine']}")
    return {name: text for name, text in facts.items() if text}


def _notes(info: ReferenceInfo, model: str | None) -> list[str]:
    notes = [f"Reference: {info.coverage}."] if info.coverage else []
    if model:
        notes.append(
            f"Energies are {model}'s, not DFT's: a screening, to be verified. "
            "A potential errs by tens of meV/atom against DFT."
        )
    return notes


def _too_good(judged: Sequence[Record]) -> list[str]:
    """A crystal far below the hull says more about the reference or the potential than about itself."""
    n = sum(r.hull["decomposition_energy"] < _TOO_GOOD for r in judged if r.hull)
    if n == 0:
        return []
    found = f"{n} crystals lie more than {-_TOO_GOOD:g} eV/atom below the known hull"
    why = "most likely the reference lacks a competing phase, or the potential fails"
    return [f"{found}: {why}. Check these before any DFT."]


def export_rows(found: Sequence[Record]) -> list[ExportRow]:
    """The records with a crystal, as the exports take them."""
    rows = []
    for record in found:
        crystal, hull = record.crystal, record.hull or {}
        if crystal is None or record.candidate is None:
            continue
        relax = record.relax.data if record.relax else {}
        rows.append(
            ExportRow(
                key=record.candidate.key,
                slot=record.slot,
                formula=crystal.formula,
                crystal=crystal,
                energy=relax.get("energy"),
                formation_energy_per_atom=hull.get("formation_energy_per_atom"),
                energy_above_hull=hull.get("energy_above_hull"),
                decomposition_energy=hull.get("decomposition_energy"),
                model=relax.get("model", ""),
                corrections=hull.get("corrections", ""),
                reference=hull.get("reference", ""),
                data={
                    "valid": record.valid,
                    "unique": record.verdict("uniqueness"),
                    "novel": record.verdict("novelty"),
                    "converged": record.converged,
                    "source": record.candidate.origin.source,
                },
            )
        )
    return rows
