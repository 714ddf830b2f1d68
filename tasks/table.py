"""From the ledger to one record per proposal, and to the counts over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.columns import Value
from ..core.crystal import Crystal
from ..core.ledger import Ledger
from ..core.records import Candidate, Outcome, Reason, Stage, Status
from ..report.stats import wilson
from .dft_columns import dft_values
from .spacegroups import group_of

THRESHOLDS = (0.0, 0.1)  # eV/atom; both are always reported
_CHUNK = 1000


@dataclass(frozen=True)
class Record:
    """All that the ledger knows of one slot. None: the slot did not get so far.

    Args:
        verify: the last verdict, or why there is none. verify_failed: a calculation that failed later.
    """

    slot: int
    generate: Outcome
    candidate: Candidate | None = None
    screen: Outcome | None = None
    relax: Outcome | None = None
    assess: Outcome | None = None
    review: Outcome | None = None
    dft: Outcome | None = None
    verify: Outcome | None = None
    verify_failed: Outcome | None = None

    @property
    def crystal(self) -> Crystal | None:
        """The relaxed crystal, or the proposed one where there is none."""
        if self.relax is not None and self.relax.crystal is not None:
            return self.relax.crystal
        return self.candidate.crystal if self.candidate else None

    @property
    def spacegroup(self) -> tuple[int, str] | None:
        """Number and symbol of the crystal's space group."""
        relaxed = self.relax is not None and self.relax.crystal is not None
        crystal = self.crystal
        return None if crystal is None else group_of(self.relax if relaxed else self.screen, crystal)

    @property
    def valid(self) -> bool:
        """Whether it is a crystal at all, and passed the validity check."""
        return bool(self.screen and self.screen.data.get("validity", {}).get("passed"))

    def verdict(self, check: str) -> bool | None:
        """Uniqueness or novelty: as proposed and, where it was relaxed, as relaxed too."""
        found = [
            outcome.data[check]["passed"]
            for outcome in (self.screen, self.assess)
            if outcome is not None and check in outcome.data
        ]
        if not found or None in found:
            return None
        return all(found)

    @property
    def hull(self) -> Mapping[str, Any] | None:
        """The hull point of the assess stage."""
        return self.assess.data.get("hull") if self.assess else None

    @property
    def scores(self) -> dict[str, Value]:
        """What the review computed, by column."""
        return dict(self.review.data["scores"]) if self.review else {}

    @property
    def converged(self) -> bool | None:
        """Whether the relaxation converged; None where there was none."""
        return None if self.relax is None else self.relax.status == Status.PASSED

    def sun(self, threshold: float) -> bool | None:
        """Stable, unique and novel, jointly; None where nothing was relaxed."""
        if self.valid and self.verdict("uniqueness") and self.verdict("novelty") and self.relax is None:
            return None
        return bool(
            self.valid
            and self.verdict("uniqueness")
            and self.verdict("novelty")
            and self.hull
            and self.hull["energy_above_hull"] <= threshold
        )

    @property
    def end(self) -> Outcome:
        """The last outcome."""
        return (
            self.verify
            or self.dft
            or self.review
            or self.assess
            or self.relax
            or self.screen
            or self.generate
        )

    @property
    def reason(self) -> Reason | None:
        """Why it is no SUN crystal (at the larger threshold), by the first check that says so."""
        for outcome in (self.generate, self.screen, self.relax, self.assess):
            if outcome is not None and outcome.status != Status.PASSED:
                return outcome.reason
        if not self.valid:
            return Reason.CHARGE  # the one fault that judging everything goes on with
        if self.verdict("uniqueness") is False:
            return Reason.DUPLICATE
        if self.verdict("novelty") is False:
            return Reason.KNOWN
        if self.hull and self.hull["energy_above_hull"] > max(THRESHOLDS):
            return Reason.UNSTABLE
        return None


def records(ledger: Ledger) -> Iterator[Record]:
    """One record per proposal, by rising slot; the generator's end is no proposal."""
    slots = [o.slot for o in ledger.outcomes(Stage.GENERATE) if o.reason != Reason.EXHAUSTED]
    for begin in range(0, len(slots), _CHUNK):
        chunk = slots[begin : begin + _CHUNK]
        candidates = ledger.candidates(chunk)
        stages = {stage: {o.slot: o for o in ledger.outcomes(stage, chunk)} for stage in ledger.stages}
        failed = {o.slot: o for o in ledger.failed_since(Stage.VERIFY, chunk)}
        for slot in chunk:
            yield Record(
                slot,
                candidate=candidates.get(slot),
                **{stage.value: stages[stage].get(slot) for stage in ledger.stages},  # type: ignore[arg-type]
                verify_failed=failed.get(slot),
            )


def row(record: Record) -> dict[str, Any]:
    """A record as one flat row of `crystals.parquet`."""
    crystal, hull = record.crystal, record.hull or {}
    relax = record.relax.data if record.relax else {}
    origin = record.candidate.origin if record.candidate else None
    end = record.end
    return {
        "slot": record.slot,
        "source": origin.source if origin else record.generate.data.get("source", ""),
        "key": record.candidate.key if record.candidate else None,
        "formula": crystal.formula if crystal else None,
        "chemsys": crystal.chemsys if crystal else None,
        "n_atoms": len(crystal) if crystal else None,
        "spacegroup": record.spacegroup[0] if record.valid and record.spacegroup else None,
        "valid": record.valid,
        "unique": record.verdict("uniqueness"),
        "novel": record.verdict("novelty"),
        "converged": record.converged,
        "energy_per_atom": relax["energy"] / len(crystal) if relax.get("energy") and crystal else None,
        "formation_energy_per_atom": hull.get("formation_energy_per_atom"),
        "energy_above_hull": hull.get("energy_above_hull"),
        "decomposition_energy": hull.get("decomposition_energy"),
        "decomposition": decomposition_text(hull["decomposition"]) if hull else None,
        "stable_0": hull["energy_above_hull"] <= 0 if hull else None,
        "stable_0.1": hull["energy_above_hull"] <= 0.1 if hull else None,
        "sun_0": record.sun(0.0),
        "sun_0.1": record.sun(0.1),
        "sun": record.sun(0.1),
        "reason": record.reason.value if record.reason else None,
        "detail": _detail(record),
        "duplicate_of": _match(record, "uniqueness"),
        "known_as": _match(record, "novelty"),
        "steps": relax.get("steps"),
        "max_force": relax.get("max_force"),
        "max_stress": relax.get("max_stress"),
        "level": hull.get("level"),
        "corrections": hull.get("corrections"),
        "correction_uncertain": hull.get("uncertain"),
        "reference": hull.get("reference"),
        "generator": origin.generator if origin else None,
        "stage": end.stage.value,
        "status": end.status.value,
        **record.scores,
        **dft_values(record.verify, record.verify_failed),
    }


def decomposition_text(products: Sequence[Sequence[Any]]) -> str:
    """Competing phases in one line: "0.571 TiO2 (mp-2657) + 0.429 Li2O (mp-1960)"."""
    return " + ".join(f"{share:.3f} {formula} ({material})" for formula, material, share in products)


def _detail(record: Record) -> str:
    for outcome in (record.generate, record.screen, record.relax, record.assess):
        if outcome is None:
            continue
        if detail := outcome.data.get("detail"):
            return str(detail)
        for check in ("validity", "uniqueness", "novelty"):
            verdict = outcome.data.get(check, {})
            if verdict.get("passed") is not True and verdict.get("detail"):
                return str(verdict["detail"])
    return ""


def _match(record: Record, check: str) -> str | None:
    for outcome in (record.screen, record.assess):
        if outcome and (match := outcome.data.get(check, {}).get("match")):
            return str(match)
    return None


@dataclass(frozen=True)
class Counts:
    """How many of `n` proposals are what, counted jointly, proposal by proposal.

    `read` of them hold a crystal.
    """

    n: int
    read: int
    valid: int
    unique: int
    novel: int
    converged: int | None
    stable: dict[float, int | None]
    sun: dict[float, int | None]
    reasons: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """As `summary.json` has it: counts, and rates over all proposals with 95 % Wilson intervals.

        None: not judged, because nothing was relaxed.
        """
        counts = {
            "valid": self.valid,
            "unique": self.unique,
            "novel": self.novel,
            "converged": self.converged,
            **{f"stable_{t:g}": n for t, n in self.stable.items()},
            **{f"sun_{t:g}": n for t, n in self.sun.items()},
        }
        rates = {}
        for name, found in counts.items():
            if found is not None:
                low, high = wilson(found, self.n)
                rates[name] = {"rate": found / self.n if self.n else None, "low": low, "high": high}
        return {"n": self.n, "read": self.read, **counts, "rates": rates, "reasons": self.reasons}


def count(found: Sequence[Record]) -> Counts:
    """Count the records. Unique and novel are counted among the valid, stable among the relaxed."""
    valid = [r for r in found if r.valid]
    relaxed = any(r.relax is not None for r in found)

    def stable(threshold: float) -> int:
        return sum(r.hull is not None and r.hull["energy_above_hull"] <= threshold for r in found)

    def sun(threshold: float) -> int:
        return sum(r.sun(threshold) is True for r in found)

    return Counts(
        n=len(found),
        read=sum(r.candidate is not None for r in found),
        valid=len(valid),
        unique=sum(r.verdict("uniqueness") is True for r in valid),
        novel=sum(r.verdict("novelty") is True for r in valid),
        converged=sum(r.converged is True for r in found) if relaxed else None,
        stable={t: stable(t) if relaxed else None for t in THRESHOLDS},
        sun={t: sun(t) if relaxed else None for t in THRESHOLDS},
        reasons=dict(Counter(r.reason.value for r in found if r.reason is not None)),
    )
