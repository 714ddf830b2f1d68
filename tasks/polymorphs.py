"""The finalists of a campaign among all crystals of their compositions, known and generated."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.columns import Column
from ..core.errors import ReferenceUnavailableError
from ..core.protocols import Phase, Reference
from ..validators.matching import MatcherSettings
from ..validators.polymorphs import Competitor, Polymorph, polymorphs
from ..validators.self_consistent import SelfConsistentReference
from .context import Context
from .spacegroups import spacegroup_of
from .table import THRESHOLDS, Record

Composition = tuple[tuple[int, int], ...]

_DFT = "PBE or PBE+U with MP2020"  # every reference's own energies: see `core.protocols.Phase`

COLUMNS: tuple[Column, ...] = (
    Column("formula", "string", "reduced formula; all of one formula are compared"),
    Column("rank", "Int64", "by energy, from 1; those of unknown energy come last"),
    Column("key_or_material_id", "string", "key of the candidate, or id of the known phase"),
    Column("origin", "string", "known or generated"),
    Column("formation_energy_per_atom", "float64", "of the level given", "eV/atom"),
    Column(
        "gap",
        "float64",
        "to the lowest other polymorph; negative: this is the lowest of all",
        "eV/atom",
        limits="between two levels where `level` differs: a potential errs by tens of meV/atom",
    ),
    Column("spacegroup", "Int64", "the reference's own, or at 0.1 angstrom", "", "spglib"),
    Column(
        "cluster",
        "Int64",
        "those of one number are the same structure",
        "",
        "pymatgen StructureMatcher, tolerances of the campaign",
        "null: not compared, because the reference has no structures; counted as one of its own",
    ),
    Column("level", "string", "what computed the energy"),
    Column("finalist", "boolean", f"stable to {max(THRESHOLDS):g} eV/atom, unique and novel"),
)


def finalists_among(context: Context, found: Sequence[Record]) -> list[Polymorph]:
    """For each composition of a finalist: its known phases and all judged crystals, ranked.

    Args:
        found: all records of the campaign.
    """
    judged: dict[Composition, list[Record]] = {}
    for record in found:
        if record.hull is not None and record.crystal is not None:
            judged.setdefault(record.crystal.reduced_composition, []).append(record)
    rules = context.campaign.screen
    settings = MatcherSettings(rules.ltol, rules.stol, rules.angle_tol)
    rows: list[Polymorph] = []
    for composition, records in sorted(judged.items()):
        if any(_is_finalist(record) for record in records):
            known = [_known(p, _level(context.reference)) for p in _like(context.reference, composition)]
            generated = [_generated(record) for record in records]
            rows += polymorphs(composition, [*known, *generated], settings)
    return rows


def _is_finalist(record: Record) -> bool:
    return record.sun(max(THRESHOLDS)) is True


def _generated(record: Record) -> Competitor:
    if record.candidate is None or record.crystal is None or record.hull is None:
        raise ValueError(f"slot {record.slot} was not judged")
    group = record.spacegroup
    return Competitor(
        name=record.candidate.key,
        origin="generated",
        formation_energy_per_atom=record.hull["formation_energy_per_atom"],
        level=record.hull["level"],
        crystal=record.crystal,
        spacegroup=group[0] if group else None,
        finalist=_is_finalist(record),
    )


def _known(phase: Phase, level: str) -> Competitor:
    group = phase.spacegroup
    if group is None and phase.crystal is not None:
        group = spacegroup_of(phase.crystal)
    return Competitor(
        phase.material_id, "known", phase.formation_energy_per_atom, level, phase.crystal, group
    )


def _level(reference: Reference) -> str:
    return reference.model if isinstance(reference, SelfConsistentReference) else _DFT


def _like(reference: Reference, composition: Composition) -> Sequence[Phase]:
    try:
        return reference.like(composition)
    except ReferenceUnavailableError:  # it does not cover an element
        return ()
