"""A person's yes to the shortlist and its cost, before DFT is spent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..core.journal import Journal, Kind
from .shortlist import Shortlisted

_ASKED = "approval"  # prefix of the notices that something is to be approved


@dataclass(frozen=True)
class Asked:
    """One crystal of the shortlist.

    Args:
        energy_above_hull: eV/atom, by the potential. calculations: that only it needs, or that crystals
            before it on the list do not need.
    """

    slot: int
    formula: str
    n_atoms: int
    energy_above_hull: float
    calculations: int

    @property
    def label(self) -> str:
        """What people choose it by."""
        return f"{self.slot}: {self.formula}"


@dataclass(frozen=True)
class Proposal:
    """What is to be approved.

    Args:
        digest: of the crystals and the engine: another shortlist needs another answer.
        crystals: without those that have a verdict, best first.
        calculations: that would be started. ended: that are known already and cost nothing.
        node_hours, money: an estimate; None: nothing is known to estimate it from.
        basis: where the estimate comes from.
    """

    campaign: str
    digest: str
    engine: str
    crystals: tuple[Asked, ...]
    calculations: int
    ended: int
    node_hours: float | None
    money: float | None
    basis: str

    def cost(self) -> str:
        """The cost in one sentence."""
        parts = [f"{self.calculations} DFT calculations ({self.engine})"]
        if self.ended:
            parts[0] += f", {self.ended} more are known already"
        hours = "unknown" if self.node_hours is None else f"about {self.node_hours:.3g}"
        parts.append(f"node hours: {hours} ({self.basis})")
        if self.money is not None:
            parts.append(f"money: about {self.money:.3g}")
        return "; ".join(parts)

    def markdown(self) -> str:
        """The shortlist as a table, then its cost."""
        lines = [
            f"**{self.campaign}: {len(self.crystals)} crystals wait for DFT.**",
            "",
            "| slot | crystal | atoms | eV/atom above hull | calculations |",
            "| ---: | --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {c.slot} | {c.formula} | {c.n_atoms} | {c.energy_above_hull:.3f} | {c.calculations} |"
            for c in self.crystals
        ]
        return "\n".join([*lines, "", f"Cost: {self.cost()}."])


@dataclass(frozen=True)
class Decision:
    """The answer.

    Args:
        yes: False: no crystal of the list is computed. leave_out: slots that are not.
        who: as far as it is known; `at`: seconds since the epoch.
    """

    yes: bool
    leave_out: tuple[int, ...] = ()
    who: str = ""
    comment: str = ""
    at: float = 0.0


def digest_of(best: Sequence[Shortlisted], engine: str) -> str:
    """What an answer is for: all crystals of the shortlist, with a verdict or not, and the engine."""
    keys = sorted(item.record.candidate.key for item in best if item.record.candidate is not None)
    return hashlib.sha256(json.dumps([engine, keys]).encode()).hexdigest()[:32]


def decision(journal: Journal, digest: str) -> Decision | None:
    """The last answer to a proposal; None: nobody has answered."""
    found = [e for e in journal.entries(Kind.DECISION) if e.key.startswith(digest)]
    if not found:
        return None
    data = {**found[-1].data, "leave_out": tuple(found[-1].data["leave_out"])}
    return Decision(**data, at=found[-1].at)


def decide(journal: Journal, digest: str, answer: Decision) -> None:
    """Record an answer. One may answer again: all answers are kept, and the last one holds."""
    content = asdict(answer)
    del content["at"]
    earlier = sum(e.key.startswith(digest) for e in journal.entries(Kind.DECISION))
    journal.add(Kind.DECISION, f"{digest}.{earlier}", content)


def ask(journal: Journal, proposal: Proposal, flow_run: str | None) -> bool:
    """Record that an answer is wanted; whether that is news.

    Args:
        flow_run: id of the Prefect flow run that is suspended until then.
    """
    news = all(found.digest != proposal.digest for found, _ in _asked(journal))
    content = {**asdict(proposal), "flow_run": flow_run}
    journal.add(Kind.NOTICE, f"{_ASKED} {proposal.digest} {flow_run or ''}".strip(), content)
    return news


def asked(journal: Journal) -> tuple[Proposal, list[str]] | None:
    """The last proposal, and the flow runs that wait for its answer; None: nothing was ever asked."""
    found = _asked(journal)
    if not found:
        return None
    last = found[-1][0]
    runs = [run for proposal, run in found if proposal.digest == last.digest and run]
    return last, runs


def _asked(journal: Journal) -> list[tuple[Proposal, str | None]]:
    entries = [e for e in journal.entries(Kind.NOTICE) if e.key.startswith(f"{_ASKED} ")]
    return [_proposal(entry.data) for entry in entries]


def _proposal(data: Mapping[str, Any]) -> tuple[Proposal, str | None]:
    content = dict(data)
    run = content.pop("flow_run")
    content["crystals"] = tuple(Asked(**crystal) for crystal in content["crystals"])
    return Proposal(**content), run
