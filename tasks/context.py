"""What the tasks of one campaign share while they run: the ledger and the rooms."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cluster.settings import Cluster
from ..core.campaign import Campaign
from ..core.crystal import Crystal
from ..core.errors import StorageError
from ..core.journal import Journal
from ..core.ledger import Ledger, Work
from ..core.protocols import (
    DftEngine,
    Generator,
    OrderedValidator,
    Reference,
    Relaxer,
    Scorer,
    Validator,
)
from ..core.provenance import provenance
from ..core.records import Failure, HullPoint, Outcome, Relaxed, Stage, Status
from .meter import Meter

log = logging.getLogger("heliodor.tasks")


class InOrder:
    """A validator that must see the campaign's crystals in slot order, across runs and processes.

    What other processes judged meanwhile is taken in from the ledger before each batch. A batch that
    fails half-way leaves no trace: the validator is made anew.

    Args:
        make: a new validator, which compares each crystal with those before it.
        stage: the stage whose outcomes say what was judged already.
        crystals: the crystals of judged outcomes that count for the comparison, by slot.
    """

    def __init__(
        self,
        make: Callable[[], OrderedValidator],
        ledger: Ledger,
        stage: Stage,
        crystals: Callable[[Ledger, Sequence[Outcome]], dict[int, Crystal]],
    ) -> None:
        self._make = make
        self._validator = make()
        self._ledger = ledger
        self._stage = stage
        self._crystals = crystals
        self._seen: set[int] = set()

    @contextmanager
    def batch(self, work: Sequence[Work], slots: range) -> Iterator[OrderedValidator]:
        """The validator, having seen all that was judged in `slots` and before; for one batch."""
        begin = slots.start if self._seen else 0
        judged = self._ledger.judged(self._stage, range(begin, slots.stop))
        new = [slot for slot in judged if slot not in self._seen]
        outcomes = self._ledger.outcomes(self._stage, new)
        try:
            self._validator.absorb(list(self._crystals(self._ledger, outcomes).values()))
            self._seen.update(new)
            yield self._validator
        except BaseException:
            self._validator = self._make()
            self._seen = set()
            raise
        self._seen.update(item.slot for item in work)


@dataclass
class Context:
    """One campaign being run by this process.

    Args:
        judge: turns relaxed crystals into points against the hull; None without energies.
        ceilings: eV of the cell above which relaxations may be given up; None: none is.
        scorers: what adds columns. resources: closed when the campaign ends: worker processes.
        folder: where outputs go. workers: crystals relaxed at the same time.
        cluster: which stages run as jobs; None: none.
    """

    campaign: Campaign
    ledger: Ledger
    folder: Path
    generator: Generator
    validity: Validator
    unique: InOrder
    unique_relaxed: InOrder
    reference: Reference
    relaxer: Relaxer | None
    judge: Callable[[Sequence[Relaxed]], list[HullPoint | Failure]] | None
    dft: DftEngine | None
    workers: int
    ceilings: Callable[[Sequence[Crystal]], list[float | None]] | None = None
    scorers: Sequence[Scorer] = ()
    attempts: int = 1
    cluster: Cluster | None = None
    resources: ExitStack = field(default_factory=ExitStack)
    stop: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def journal(self) -> Journal:
        """What was spent, decided and told."""
        return Journal(self.ledger.database, self.ledger.campaign_id)

    @cached_property
    def meter(self) -> Meter:
        """What this process spends."""
        return Meter(self.journal, f"run {self.ledger.leases.owner[-100:]}")

    def provenance(self, room: str, **extra: Any) -> tuple[str, dict[str, Any]]:
        """The provenance record for outcomes of a stage."""
        return provenance(self.campaign.science_digest(), {"stage": room, **extra})

    @contextmanager
    def heartbeat(self, asked: threading.Event) -> Iterator[None]:
        """Keep this process's leases alive and tell what it spends; at the end give back and end all.

        Args:
            asked: set by whoever wants the campaign to stop; tasks look at it between items.
        """
        self.stop = asked
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.ledger.leases.seconds / 4):
                try:
                    self.ledger.leases.renew()
                    self.meter.beat()
                except StorageError as error:  # the next beat tries again; a lapse costs only repeats
                    log.warning("could not renew leases: %s", error)

        self.ledger.leases.release_dead()
        self.ledger.leases.enter()
        thread = threading.Thread(target=beat, name="heliodor-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            done.set()
            self.resources.close()
            thread.join()
            self.meter.beat()
            self.ledger.leases.release()


def failed(slot: int, stage: Stage, failure: Failure, attempt: int = 1) -> Outcome:
    """The outcome of an item that could not be judged or computed."""
    data = {"detail": failure.detail} if failure.detail else {}
    return Outcome(slot, stage, Status.FAILED, failure.reason, attempt, data)
