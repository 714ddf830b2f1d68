"""MatterGen's numbers by its own counting rules.

Read in github.com/microsoft/mattergen, `mattergen/evaluation` (version 1.0.3): all metrics are of the
relaxed crystals; stable is an energy above the hull of the reference alone of at most 0.1 eV/atom;
`stable` and `novel unique stable` are shares of all submitted crystals, the others of those that were
relaxed; a relaxation that stops short counts like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.crystal import Crystal
from ..validators.disorder import DisorderMatcher
from ..validators.matching import MatcherSettings
from ..validators.mattergen import composition_valid, relaxation_rmsd, structure_valid
from .context import Context
from .protocol import (
    Counted,
    Difference,
    Metric,
    Sample,
    holds,
    mean,
    plural,
    ratio,
    relaxation_of,
    share,
)

SOURCE = "github.com/microsoft/mattergen, mattergen/evaluation; Zeni et al., Nature 639, 624 (2025)"
THRESHOLD = 0.1  # eV/atom


def count_mattergen(context: Context, submitted: Sequence[Sample], proposed: int) -> Counted:
    """The metrics that `mattergen-evaluate` writes, and where ours cannot be the same.

    Args:
        submitted: the proposals that hold a crystal. proposed: all of them.
    """
    judged = [s for s in submitted if s.relaxed is not None or context.relaxer is None]
    crystals = [s.relaxed or s.proposed for s in judged]
    matcher = DisorderMatcher(_tolerances(context))
    unique = matcher.distinct(crystals)
    known, how = _known(context, matcher, crystals)
    metrics = [
        *_structures(crystals, unique, known),
        *_systems(context, crystals),
        _recall(context, known),
    ]
    if context.relaxer is not None:
        novel_unique = [u and not k for u, k in zip(unique, known, strict=True)]
        metrics += _energies(judged, novel_unique, len(submitted))
    return Counted(
        "mattergen",
        SOURCE,
        tuple(sorted(metrics, key=lambda m: m.name)),
        tuple(_differences(context, submitted, judged, proposed, how)),
    )


def _tolerances(context: Context) -> MatcherSettings:
    rule = context.campaign.screen
    return MatcherSettings(rule.ltol, rule.stol, rule.angle_tol)


def _known(
    context: Context, matcher: DisorderMatcher, crystals: Sequence[Crystal]
) -> tuple[list[list[str]], str]:
    """Ids of the known phases that match each crystal, and by which test."""
    likes = [context.reference.like(c.reduced_composition) for c in crystals]
    if any(phase.crystal is not None for like in likes for phase in like):
        found = []
        for crystal, like in zip(crystals, likes, strict=True):
            there = [(p.material_id, p.crystal) for p in like if p.crystal is not None]
            hits = matcher.matches(crystal, [c for _, c in there])
            found.append([there[i][0] for i in hits])
        return found, "the same disorder matcher, against the structures of the reference"
    verdicts = context.reference.match(crystals)
    ids = [[v.match] if v.passed is False and v.match else [] for v in verdicts]
    return ids, "fingerprints: the reference holds no structures, and one match a crystal is named"


def _structures(
    crystals: Sequence[Crystal], unique: Sequence[bool], known: Sequence[list[str]]
) -> list[Metric]:
    n = len(crystals)
    structure = [holds(structure_valid, c) for c in crystals]
    composition = [composition_valid(c.reduced_composition) is True for c in crystals]
    both = [a and b for a, b in zip(structure, composition, strict=True)]
    novel = [not ids for ids in known]
    novel_unique = [a and b for a, b in zip(novel, unique, strict=True)]
    return [
        share("avg_structure_validity", structure, n, "no two sites within 0.5 angstrom"),
        share("avg_comp_validity", composition, n, "SMACT: charges balance, or an alloy"),
        share("avg_structure_comp_validity", both, n, "both of these"),
        share("frac_unique_structures", unique, n, "matches no earlier crystal"),
        share("frac_novel_structures", novel, n, "matches no phase of the reference"),
        share("frac_novel_unique_structures", novel_unique, n, "both of these"),
        share("precision", [not x for x in novel], n, "matches a phase of the reference"),
    ]


def _systems(context: Context, crystals: Sequence[Crystal]) -> list[Metric]:
    systems = {c.elements for c in crystals}
    new = [s for s in systems if not _explored(context, s)]
    n = len(crystals)
    return [
        ratio("frac_unique_systems", len(systems), n, "distinct chemical systems over crystals"),
        ratio("frac_novel_systems", len(new), n, "those that the reference has no phase in"),
    ]


def _explored(context: Context, elements: tuple[str, ...]) -> bool:
    return any(len(p.composition) == len(elements) for p in context.reference.entries(elements))


def _recall(context: Context, known: Sequence[list[str]]) -> Metric:
    hit = {material for ids in known for material in ids}
    size = context.reference.info.n_phases
    return ratio("recall", len(hit), size, "share of the reference's phases that were matched")


def _energies(judged: Sequence[Sample], novel_unique: Sequence[bool], submitted: int) -> list[Metric]:
    rmsd = [relaxation_rmsd(s.proposed, s.relaxed) for s in judged if s.relaxed is not None]
    metrics = [
        share("frac_successful_jobs", [True] * len(judged), submitted, "relaxed, of those submitted"),
        mean("avg_rmsd_from_relaxation", rmsd, "angstrom; (V/atom)^(1/3)/2 where sites do not pair"),
        mean(
            "avg_energy_above_hull_per_atom",
            [s.distance for s in judged],
            "eV/atom, signed: above the hull of the reference alone",
        ),
    ]
    for limit, suffix in ((THRESHOLD, ""), (0.0, "_0")):
        stable = [s.distance is not None and s.distance <= limit for s in judged]
        joint = [a and b for a, b in zip(stable, novel_unique, strict=True)]
        within = f"at most {limit:g} eV/atom above that hull"
        metrics += [
            share(f"frac_stable_structures{suffix}", stable, submitted, within),
            share(
                f"frac_novel_unique_stable_structures{suffix}",
                joint,
                submitted,
                f"{within}, novel and unique at once",
            ),
        ]
    return metrics


def _differences(
    context: Context, submitted: Sequence[Sample], judged: Sequence[Sample], proposed: int, how: str
) -> list[Difference]:
    info = context.reference.info
    found = [
        Difference(
            "reference and hull",
            "Alexandria and the Materials Project, MP2020 corrections",
            f"{info.name}, {info.n_phases:,} phases. {info.coverage}",
        ),
        Difference("novelty", "disorder matcher 0.2/0.3/5 against its reference", how),
        Difference(
            "composition validity",
            "the oxidation states of the SMACT that is installed",
            "SMACT's list of 2014; compositions with over 200,000 combinations of states do not pass",
        ),
        Difference(
            "what cannot be read",
            "ends the evaluation",
            f"{proposed - len(submitted):,} of {proposed:,} entries; left out of every share",
        ),
    ]
    if context.relaxer is None:
        return found
    short = sum(not s.converged for s in judged)
    unjudged = sum(s.point is None for s in judged)
    return [
        Difference(
            "potential",
            "MatterSim-v1.0.0-1M; FIRE, ExpCellFilter, 0.05 eV/angstrom, no limit of steps",
            f"{relaxation_of(context)}; those that stopped short ({short:,}) count all the same",
        ),
        *found,
        Difference(
            "failed relaxations",
            "end the evaluation, or are submitted as n_failed_jobs",
            f"{len(submitted) - len(judged):,}, broken cells among them; counted as failed jobs",
        ),
        Difference(
            "no reference for an element",
            "voids every energy metric",
            f"{plural(unjudged)}: not stable, and left out of the mean",
        ),
    ]
