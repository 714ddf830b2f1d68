"""Brings home the items of a stage that jobs work on: jobs that are there already, and new ones."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.errors import HeliodorError, InputError, StorageError
from ..core.records import Failure
from .desk import Desk, Ended, Handle, Posting
from .job_folder import LOG, JobFolder, Work, last_words, write_job
from .plain import Record, plain
from .scheduler import End, Job
from .settings import Resources

log = logging.getLogger("heliodor.cluster")

_LOOK = 2.0  # seconds between looks at the result files, at most


@dataclass(frozen=True)
class Program:
    """What runs on the node: the command before the folder, and where relative paths begin."""

    command: tuple[str, ...]
    place: Path

    def job(self, folder: JobFolder, resources: Resources) -> Job:
        """The job of a folder."""
        path = folder.path.resolve()
        options = {"--place": self.place, "--workers": resources.cpus, "--gpus": resources.gpus}
        words = [str(word) for pair in options.items() for word in pair]
        return Job(folder.name, path, (*self.command, str(path), *words))


@dataclass(eq=False)
class _Batch:
    """Wanted items of one folder."""

    folder: JobFolder
    wanted: set[str]
    handle: Handle | None = None
    offset: int = 0

    def news(self) -> Iterator[dict[str, Any]]:
        records, self.offset = self.folder.results(self.offset)
        for record in records:
            if record.get("id") in self.wanted:
                self.wanted.remove(record["id"])
                yield record


class Collector:
    """All jobs of one stage.

    Args:
        stage: as `Work.stage`. root: folder of the job folders. program: what runs in them.
        lost: the failure of an item that a job died of, from its id, payload, and how the job ended.
        alone: a job that died is tried again one item at a time, so that only the culprit fails;
            otherwise all that it had left do.
    """

    def __init__(
        self,
        desk: Desk,
        resources: Resources,
        stage: str,
        root: Path,
        program: Program,
        lost: Callable[[str, Any, Ended, str], Failure],
        *,
        alone: bool,
    ) -> None:
        self._desk, self._resources, self._stage = desk, resources, stage
        self._root, self._program, self._lost, self._alone = root, program, lost, alone
        self._lock = threading.Lock()  # guards what follows
        self._known: set[str] = set()
        self._folders: dict[str, dict[str, list[JobFolder]]] = {}  # by digest of what is shared, and id

    def bring(
        self, shared: Mapping[str, Any], items: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[Record]:
        """The result of each item, in any order, as soon as its line is there; `id` tells which.

        Args:
            shared, items: as in `Work`. stop: set by whoever closes the stage.

        Raises:
            HeliodorError: jobs cannot be submitted or cannot work at all, or `stop` was set.
        """
        batches = self._assign(shared, items)
        while batches:
            for batch in list(batches):
                ended = batch.handle.ended if batch.handle else None
                for record in batch.news():
                    yield record
                    if record["type"] == Failure.__name__:
                        batch.folder.take(record["id"])
                if not batch.wanted:
                    batches.remove(batch)
                elif batch.handle is None:
                    self._submit(batch)
                elif ended is not None:
                    self._died(batch, ended)
            if batches and stop.wait(min(_LOOK, self._desk.cluster.poll)):
                raise HeliodorError(f"the stage {self._stage} was closed while its jobs were working")

    def _submit(self, batch: _Batch) -> None:
        folder = batch.folder
        job = self._program.job(folder, self._resources)
        batch.handle = self._desk.submit(
            Posting(job, self._resources, lambda: folder.ended, folder.progress)
        )

    def _died(self, batch: _Batch, ended: Ended) -> None:
        """A job came to its end and left items without a result."""
        folder = batch.folder
        if (error := folder.error) is not None:
            raise error
        how = f"{ended.end.value}, {ended.detail}; {last_words(folder.path)}"
        started = folder.started
        if started is None:
            raise HeliodorError(
                f"a job of the stage {self._stage} ended before it began: {how}",
                hint=f"see {folder.path / LOG}; when it is mended, run the campaign again",
            )
        if ended.end is End.STORAGE:
            raise StorageError(f"a job of the stage {self._stage} could not write: {how}")
        log.warning("%s: its job ended: %s", folder.path, how)
        if self._alone and not folder.alone:
            folder.set_alone()
            self._submit(batch)
            return
        answered = {record["id"] for record in folder.results()[0]}
        left = [id_ for id_ in folder.work.items if id_ not in answered]
        culprits = [id_ for id_ in left if id_ == started["doing"]] or left
        folder.mend()
        for id_ in culprits:
            folder.append(
                id_, plain(self._lost(id_, folder.work.items[id_], ended, f"its job ended: {how}"))
            )
        batch.handle = None  # what is left, if anything, goes on in a new job

    # --- which job has which item ----------------------------------------------------------------

    def _assign(self, shared: Mapping[str, Any], items: Mapping[str, Any]) -> list[_Batch]:
        """The folders that have, or will have, the results; those of other orchestrators too."""
        digest = _digest(shared)
        with self._lock:
            self._read()
            found: dict[Path, _Batch] = {}
            fresh: dict[str, Any] = {}
            state: dict[Path, tuple[dict[str, str], set[str]]] = {}
            for id_, item in items.items():
                folders = self._folders.get(digest, {}).get(id_, [])
                folder = next((f for f in reversed(folders) if _serves(f, id_, state)), None)
                if folder is None:
                    fresh[id_] = item
                else:
                    found.setdefault(folder.path, _Batch(folder, set())).wanted.add(id_)
            waiting = iter(fresh.items())
            while chunk := dict(islice(waiting, self._desk.cluster.batch)):
                before = max(len(self._folders.get(digest, {}).get(id_, [])) for id_ in chunk)
                folder = write_job(self._root, Work(self._stage, shared, chunk, before))
                self._remember(folder, digest)
                found[folder.path] = _Batch(folder, set(chunk))
        return list(found.values())

    def _read(self) -> None:
        """Take in the folders that came since we looked last."""
        if not self._root.is_dir():
            return
        for path in sorted(self._root.iterdir()):
            if path.name in self._known or path.name.startswith("."):
                continue
            folder = JobFolder(path)
            try:
                work = folder.work
            except InputError as error:
                log.warning("left alone: %s", error)
                self._known.add(path.name)
                continue
            if work.stage == self._stage:
                self._remember(folder, _digest(work.shared))

    def _remember(self, folder: JobFolder, digest: str) -> None:
        self._known.add(folder.path.name)
        of = self._folders.setdefault(digest, {})
        for id_ in folder.work.items:
            of.setdefault(id_, []).append(folder)


def _serves(folder: JobFolder, id_: str, state: dict[Path, tuple[dict[str, str], set[str]]]) -> bool:
    """Whether a folder has an item's result, or will have it. A failure serves once.

    Args:
        state: type of each result, and the failures that were collected, of the folders seen so far.
    """
    if folder.path not in state:
        types = {record["id"]: record["type"] for record in reversed(folder.results()[0])}
        state[folder.path] = (types, folder.taken())
    types, taken = state[folder.path]
    if id_ not in types:
        return not folder.ended
    return types[id_] != Failure.__name__ or id_ not in taken


def _digest(shared: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(shared), sort_keys=True).encode()).hexdigest()
