"""Stages of a campaign that run as jobs of files, behind the protocols of those that run here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..core.crystal import Crystal
from ..core.protocols import Generator, Relaxer
from ..core.records import Candidate, Conditions, Failure, Origin, Reason, Relaxed
from .collect import Collector, Program
from .desk import Desk, Ended
from .plain import crystal_of, crystal_text, result_of
from .scheduler import End
from .settings import Resources

GENERATE, RELAX = "generate", "relax"
EXHAUSTED = "Exhausted"  # type of a line that says: the stream has ended before this item

_REASONS = {End.OUT_OF_MEMORY: Reason.MEMORY_LIMIT, End.WALLTIME: Reason.TIME_LIMIT}


class RemoteRelaxer:
    """A relaxer whose crystals are relaxed by jobs, with the same results.

    Crystals that a job of this campaign has relaxed, or is at, are not submitted again, whoever
    submitted them; a failure is handed out once.

    Args:
        local: the same relaxer here: it says what it is, and is asked for nothing else.
        choice: as the campaign file has it. root: folder of the job folders.
    """

    remote = True  # whoever submits its jobs says what they cost

    def __init__(
        self,
        local: Relaxer,
        choice: BaseModel,
        desk: Desk,
        resources: Resources,
        root: Path,
        program: Program,
    ) -> None:
        self.name, self.model = local.name, local.model
        self.provenance: dict[str, Any] = dict(getattr(local, "provenance", {}))
        self.hosts: dict[str, str] = {}  # by key of the crystal: the node that relaxed it
        self._local = local
        self._shared = {RELAX: choice.model_dump(mode="json"), "provenance": self.provenance}
        self._collector = Collector(desk, resources, RELAX, root, program, _lost_crystal, alone=True)
        self._closed = threading.Event()

    def supports(self, atomic_number: int) -> bool:
        """Whether the potential was trained on the element."""
        return self._local.supports(atomic_number)

    def relax(
        self, batch: Sequence[Crystal], ceilings: Sequence[float | None] | None = None
    ) -> Iterator[Relaxed | Failure]:
        """Yields each as its job has it; see `core.protocols.Relaxer`. Jobs go on if nobody listens.

        Raises:
            HeliodorError: jobs cannot be submitted or cannot work, or the relaxer was closed.
        """
        limits = [None] * len(batch) if ceilings is None else ceilings
        items: dict[str, Any] = {}
        asked: Counter[str] = Counter()
        for crystal, limit in zip(batch, limits, strict=True):
            id_ = crystal.digest if limit is None else f"{crystal.digest}@{limit!r}"
            asked[id_] += 1
            items.setdefault(id_, {"crystal": crystal_text(crystal), "ceiling": limit})
        for record in self._collector.bring(self._shared, items, self._closed):
            result = result_of(record)
            if isinstance(result, Candidate):
                raise TypeError(f"a relaxing job gave a candidate: {record['id']}")
            if "host" in record:
                self.hosts[result.key] = record["host"]
            for _ in range(asked[record["id"]]):
                yield result

    def close(self) -> None:
        """Stop listening; the jobs go on. The next `relax` finds them."""
        self._closed.set()
        self._closed = threading.Event()


class RemoteGenerator:
    """A generator whose items are made by jobs: the same stream.

    Args:
        local: the same generator here: it says what it is, and what it cannot serve.
        choice, root: as for `RemoteRelaxer`.
    """

    remote = True

    def __init__(
        self,
        local: Generator,
        choice: BaseModel,
        desk: Desk,
        resources: Resources,
        root: Path,
        program: Program,
    ) -> None:
        self.name = local.name
        self.hosts: dict[int, str] = {}  # by position: the node that made it
        self._local, self._choice = local, choice.model_dump(mode="json")
        self._collector = Collector(desk, resources, GENERATE, root, program, _lost_item, alone=False)
        self._closed = threading.Event()

    @property
    def provenance(self) -> dict[str, Any]:
        """What the results depend on."""
        return dict(getattr(self._local, "provenance", {}))

    def generate(
        self, n: int, *, seed: int, conditions: Conditions, start: int = 0
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1`, in order; see `core.protocols.Generator`.

        Raises:
            InputError: the conditions cannot be served.
            HeliodorError, while it streams: jobs cannot be submitted or cannot work.
        """
        self._local.generate(n, seed=seed, conditions=conditions, start=start)  # refuses at the call
        shared = {
            GENERATE: self._choice,
            "provenance": self.provenance,
            "seed": seed,
            "conditions": asdict(conditions),
        }
        return self._stream(range(start, start + n), shared)

    def close(self) -> None:
        """Stop listening; the jobs go on."""
        self._closed.set()
        self._closed = threading.Event()

    def _stream(self, positions: range, shared: Mapping[str, Any]) -> Iterator[Candidate | Failure]:
        items = {str(i): {"generator": self.name, "seed": shared["seed"]} for i in positions}
        waiting: dict[int, Candidate | Failure | None] = {}
        ready = positions.start
        for record in self._collector.bring(shared, items, self._closed):
            waiting[int(record["id"])] = _item(record)
            if "host" in record:
                self.hosts[int(record["id"])] = record["host"]
            while ready in waiting:
                item = waiting.pop(ready)
                if item is None:
                    return
                yield item
                ready += 1


def _item(record: Mapping[str, Any]) -> Candidate | Failure | None:
    """None: the stream ended before."""
    if record["type"] == EXHAUSTED:
        return None
    result = result_of(record)
    if isinstance(result, Relaxed):
        raise TypeError(f"a generating job gave a relaxation: {record['id']}")
    return result


def _lost_crystal(_id: str, item: Mapping[str, Any], ended: Ended, detail: str) -> Failure:
    reason = _REASONS.get(ended.end, Reason.WORKER_DIED)
    return Failure(crystal_of(item["crystal"]).digest, reason, detail)


def _lost_item(id_: str, item: Mapping[str, Any], _ended: Ended, detail: str) -> Failure:
    origin = Origin(item["generator"], "", item["seed"], int(id_))
    return Failure("", Reason.GENERATION, detail, origin)
