"""LeMat-GenBench's numbers by its own counting rules.

Read in github.com/LeMaterial/lemat-genbench (configuration `comprehensive_multi_mlip_hull`): validity is
a share of the crystals that could be read; everything else is a share of the valid ones, for only those
are judged further; unique and novel are of the crystals as they were given; metastable includes stable,
MSUN does not include SUN.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..validators.lemat import charge_neutral, distances_valid, plausible
from ..validators.matching import MatcherSettings
from ..validators.uniqueness import Uniqueness
from .context import Context
from .protocol import Counted, Difference, Metric, Sample, holds, mean, plural, relaxation_of, share

SOURCE = "github.com/LeMaterial/lemat-genbench, src/config/comprehensive_multi_mlip_hull.yaml"
STABLE, METASTABLE = 0.0, 0.1  # eV/atom


def count_lemat(context: Context, submitted: Sequence[Sample], proposed: int) -> Counted:
    """The metrics of LeMat-GenBench, and where ours cannot be the same.

    Args:
        submitted: the proposals that hold a crystal. proposed: all of them.
    """
    checks = {
        "charge_neutral": [charge_neutral(s.proposed.reduced_composition) for s in submitted],
        "distance_valid": [holds(distances_valid, s.proposed) for s in submitted],
        "plausibility_valid": [holds(plausible, s.proposed) for s in submitted],
    }
    passed = [all(flags) for flags in zip(*checks.values(), strict=True)]
    n = len(submitted)
    meanings = ("metallic, or charges balance", "no two sites too near", "densities and cell")
    metrics = [
        share(f"{name}_ratio", flags, n, meaning)
        for (name, flags), meaning in zip(checks.items(), meanings, strict=True)
    ]
    metrics.append(share("overall_valid_ratio", passed, n, "all three"))
    valid = [s for s, ok in zip(submitted, passed, strict=True) if ok]
    metrics += _judged(context, valid)
    return Counted(
        "lemat", SOURCE, tuple(metrics), tuple(_differences(context, submitted, valid, proposed))
    )


def _judged(context: Context, valid: Sequence[Sample]) -> list[Metric]:
    """Counted over the valid crystals."""
    crystals = [s.proposed for s in valid]
    rule = context.campaign.screen
    matcher = MatcherSettings(rule.ltol, rule.stol, rule.angle_tol)
    unique = [v.passed is True for v in Uniqueness(matcher).check(crystals)]
    novel = [v.passed is True for v in context.reference.match(crystals)]
    n = len(valid)
    metrics = [
        share("unique_rate", unique, n, "matches no earlier valid crystal"),
        share("novelty_score", novel, n, "matches no phase of the reference"),
    ]
    if context.relaxer is None:
        return metrics
    distances = [s.distance for s in valid]
    stable = [d is not None and d <= STABLE for d in distances]
    metastable = [d is not None and d <= METASTABLE for d in distances]
    new = [a and b for a, b in zip(unique, novel, strict=True)]
    sun = [a and b for a, b in zip(new, stable, strict=True)]
    msun = [a and m and not s for a, m, s in zip(new, metastable, stable, strict=True)]
    either = [a or b for a, b in zip(sun, msun, strict=True)]
    return [
        *metrics,
        share("stable_ratio", stable, n, "at most 0 eV/atom above the hull"),
        share("metastable_ratio", metastable, n, "at most 0.1 eV/atom above it, the stable included"),
        mean("mean_e_above_hull", distances, "eV/atom, signed"),
        share("sun_rate", sun, n, "stable, unique and novel at once"),
        share("msun_rate", msun, n, "above 0 to 0.1 eV/atom, unique and novel at once"),
        share("combined_sun_msun_rate", either, n, "either of these"),
    ]


def _differences(
    context: Context, submitted: Sequence[Sample], valid: Sequence[Sample], proposed: int
) -> list[Difference]:
    info = context.reference.info
    none = sum(s.point is None for s in valid) if context.relaxer is not None else 0
    return [
        Difference(
            "energies",
            "mean of ORB-v3, MACE-MP and UMA, each on its own hull, of the crystal as it was given; "
            "fmax 0.02 for 50 steps beside it",
            f"{relaxation_of(context)}, where the relaxation ended; {plural(none)} of the valid ones "
            "could not be judged and count as not stable",
        ),
        Difference(
            "reference",
            "LeMat-Bulk or MP-20, by configuration",
            f"{info.name}, {info.n_phases:,} phases. {info.coverage}",
        ),
        Difference(
            "charges",
            "bond valences, then oxidation states found in LeMat-Bulk",
            "SMACT's metallicity score, then its oxidation states of the ICSD",
        ),
        Difference(
            "matcher",
            "StructureMatcher 0.1/0.3/5, or BAWL fingerprints",
            "StructureMatcher {ltol:g}/{stol:g}/{angle_tol:g}".format(
                **context.campaign.screen.model_dump()
            ),
        ),
        Difference(
            "what could not be read",
            "skipped",
            f"{proposed - len(submitted):,} of {proposed:,}, left out of every rate of this protocol",
        ),
        Difference(
            "other families",
            "distribution (JSD, MMD, Frechet), diversity, HHI",
            "not computed as totals; supply and distances are columns of the table",
        ),
    ]
