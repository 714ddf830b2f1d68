"""What a generator is for, counted: crystals that are valid, unique, novel and low in energy at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.choices.relaxers import MlipChoice
from ..core.crystal import Crystal
from ..core.errors import InputError, MissingError
from ..core.protocols import Relaxer
from ..core.records import Failure, Relaxed
from ..report.stats import wilson
from ..validators.novelty import StructureNovelty
from ..validators.stability import Stability
from ..validators.uniqueness import Uniqueness
from ..validators.validity import Validity

Propose = Callable[[Path, int, int], Iterable[Crystal | Failure]]
"""(checkpoint, how many, seed) -> that many items, as they come."""

LOW_ENERGY = 0.1  # eV/atom above the hull
_SEED = 0  # always the same noise: checkpoints are compared on like terms
_STEPS = {"cpu": 10, "cuda": 50}  # of relaxation; on a CPU more would cost more than the training


class Stopped(Exception):  # noqa: N818 - no error
    """The judging was given up because the run is to stop."""


@dataclass(frozen=True)
class Judgement:
    """Counts among `n` proposals; a proposal that failed counts among them.

    Args:
        valid, unique, novel: each on its own. novel: against the training tables.
        low_energy: valid and at most `LOW_ENERGY` above the hull; None where energies are left out.
        joint: all of these at once.
        energy: where energies come from, "none" where they are left out.
        seconds: that the judging took.
    """

    n: int
    valid: int
    unique: int
    novel: int
    low_energy: int | None
    joint: int
    energy: str
    seconds: float

    @property
    def score(self) -> float:
        """The joint share."""
        return self.joint / self.n

    def rates(self) -> dict[str, float | None]:
        """Shares by name, and the 95 % interval of the score."""
        low, high = wilson(self.joint, self.n)
        return {
            "valid": self.valid / self.n,
            "unique": self.unique / self.n,
            "novel": self.novel / self.n,
            "low_energy": None if self.low_energy is None else self.low_energy / self.n,
            "score": self.score,
            "score_low": low,
            "score_high": high,
        }

    def facts(self) -> dict[str, Any]:
        """For a checkpoint's card."""
        rounded = {k: None if v is None else round(v, 4) for k, v in self.rates().items()}
        return {**rounded, "samples": self.n, "energy": self.energy}

    def text(self) -> str:
        """One line for a person."""
        low, high = wilson(self.joint, self.n)
        parts = [f"valid {self.valid / self.n:.0%}", f"unique {self.unique / self.n:.0%}"]
        parts.append(f"novel {self.novel / self.n:.0%}")
        if self.low_energy is not None:
            parts.append(f"within {LOW_ENERGY} eV/atom of the hull {self.low_energy / self.n:.0%}")
        return f"{self.score:.1%} ({low:.1%} to {high:.1%}) of {self.n} at once; {', '.join(parts)}"


class LowEnergy:
    """Which crystals lie low above the hull after a short relaxation; an upper bound of their energy.

    Args:
        relaxer: a potential, with few steps. stability: the hull.
        name: what this is, for the card.
    """

    def __init__(self, relaxer: Relaxer, stability: Stability, name: str) -> None:
        self.relaxer, self.stability, self.name = relaxer, stability, name

    def keys(self, crystals: Iterable[Crystal], stopping: Callable[[], bool]) -> set[str]:
        """Keys of those that lie low. What cannot be relaxed or judged does not.

        Raises:
            Stopped: it was asked for.
        """
        found = set()
        once = {crystal.digest: crystal for crystal in crystals}
        try:
            for result in self.relaxer.relax(list(once.values())):
                if stopping():
                    raise Stopped
                if isinstance(result, Relaxed) and self._low(result):
                    found.add(result.key)
        finally:
            self.relaxer.close()  # its memory is the training's until the next time
        return found

    def _low(self, result: Relaxed) -> bool:
        point = self.stability.judge(result)
        return not isinstance(point, Failure) and point.energy_above_hull <= LOW_ENERGY


def low_energy(potential: str, device: str, workers: int) -> LowEnergy | None:
    """The judge of energies against the embedded reference; None where the potential is not installed.

    Args:
        potential: "chgnet", "sevennet" or "none". device: "cpu" or "cuda". workers: on CPUs.
    """
    if potential == "none":
        return None
    from ..engines.mlip import MlipRelaxer
    from ..validators.reference_embedded import EmbeddedReference

    steps = _STEPS[device]
    choice = MlipChoice.model_validate(
        {"fmax": 0.1, "max_steps": steps, "time_limit": 30, "max_atoms": 64, "device": device}
    )
    try:
        relaxer = MlipRelaxer(potential, choice, workers)
    except MissingError:
        return None
    stability = Stability(EmbeddedReference(), relaxer.model)
    return LowEnergy(relaxer, stability, f"{relaxer.model}, {steps} steps")


class Judge:
    """Counts what a model proposes.

    Args:
        propose: draws crystals from a checkpoint.
        known: (id, crystal) of the training tables, for novelty.
        samples: how many are drawn each time, with the same noise.
        energy: the judge of energies, or None to leave them out.

    Raises:
        InputError: no samples.
    """

    def __init__(
        self,
        propose: Propose,
        known: Iterable[tuple[str, Crystal]],
        samples: int,
        energy: LowEnergy | None,
    ) -> None:
        if samples < 1:
            raise InputError(f"judge_samples: got {samples}, must be at least 1")
        self.propose, self.samples, self.energy = propose, samples, energy
        self.energy_name = energy.name if energy else "none"
        self._validity = Validity()
        self._novelty = StructureNovelty(known)

    def __call__(self, weights: Path, stopping: Callable[[], bool] = lambda: False) -> Judgement:
        """Draw from a checkpoint and count.

        Raises:
            Stopped: `stopping` became true.
        """
        begun = time.monotonic()
        crystals = []
        for item in self.propose(weights, self.samples, _SEED):
            if stopping():
                raise Stopped
            if isinstance(item, Crystal):
                crystals.append(item)
        checks = (self._validity, Uniqueness(), self._novelty)
        valid, unique, novel = ([v.passed is True for v in c.check(crystals)] for c in checks)
        low = [True] * len(crystals)
        if self.energy:
            good = (c for c, passed in zip(crystals, valid, strict=True) if passed)
            keys = self.energy.keys(good, stopping)
            low = [c.digest in keys for c in crystals]
        return Judgement(
            n=self.samples,
            valid=sum(valid),
            unique=sum(unique),
            novel=sum(novel),
            low_energy=sum(low) if self.energy else None,
            joint=sum(map(all, zip(valid, unique, novel, low, strict=True))),
            energy=self.energy_name,
            seconds=time.monotonic() - begun,
        )


def better(new: Judgement, best: Mapping[str, Any] | None) -> bool:
    """Whether a judgement replaces the best one so far (`Judgement.facts`); the later wins a tie.

    Scores with and without energies are not compared: the newer way of judging wins.
    """
    return best is None or best.get("energy") != new.energy or new.score >= float(best["score"]) - 5e-5
