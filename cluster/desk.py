"""Where stages hand in their jobs: submitted in arrays, watched together, adopted, and sent again.

The folder of a job says how far it has come and whether it has ended; the batch system says only whether
it waits, runs, or how it died. So an orchestrator that is killed loses nothing: the next one finds what
is in flight by its name, and what has ended by its folder.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.errors import HeliodorError, StorageError
from ..core.owner import new_owner
from .claim import Claim, Claims
from .scheduler import End, Job, JobState, Phase, Scheduler
from .settings import Cluster, Resources

log = logging.getLogger("heliodor.cluster")

Spent = Callable[[str, float, Resources], object]
"""Told what a job has used: its name and id, the same whoever tells it; seconds; what it asked for."""

_GATHER = 1.0  # seconds in which jobs are gathered into one array
_LAST_SECONDS = 5.0  # in which a job whose folder has its end may leave the batch system
_LONGEST_PAUSE = 60.0  # seconds between questions to a batch system that does not answer
_BROKEN = (End.FAILED, End.OUT_OF_MEMORY, End.STORAGE)  # and would again; the others are sent again


@dataclass(frozen=True)
class Posting:
    """A job, and how its folder is read.

    Args:
        done: whether the folder holds the job's end.
        progress: any value that changes when the work comes forward; it is compared, never read.
    """

    job: Job
    resources: Resources
    done: Callable[[], bool]
    progress: Callable[[], object]


@dataclass(frozen=True)
class Ended:
    """How a job came to its end. Its folder holds the end where `end` is COMPLETED."""

    end: End
    detail: str = ""


@dataclass(eq=False)
class Handle:
    """A job that was handed in. Its fields are the desk's; whoever handed it in looks at `ended`.

    Args:
        id: the batch system's, while it waits or runs there. detail: the batch system's last word.
        before: progress when it was submitted. tries: how many died since without any.
        doubted: it has ended without an end in its folder, whose files may come late.
    """

    posting: Posting
    id: str | None = None
    detail: str = ""
    claim: Claim | None = None
    before: object = None
    tries: int = 0
    doubted: bool = False
    outcome: Ended | HeliodorError | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The job's."""
        return self.posting.job.name

    @property
    def ended(self) -> Ended | None:
        """How it ended; None while it has not.

        Raises:
            HeliodorError: it cannot be submitted.
        """
        if isinstance(self.outcome, HeliodorError):
            raise self.outcome
        return self.outcome

    @property
    def open(self) -> bool:
        """Whether it has not come to its end."""
        return self.outcome is None


class Desk:
    """Submits jobs of several stages and watches them, in a thread of its own.

    Args:
        scheduler: the batch system. cluster: limits and times. spent: see `Spent`.
    """

    def __init__(
        self, scheduler: Scheduler, cluster: Cluster, spent: Spent = lambda _j, _s, _r: None
    ) -> None:
        self.cluster = cluster
        self.spent = spent
        self._scheduler = scheduler
        self._claims = Claims(new_owner(), patience=max(300.0, 5 * cluster.poll))
        self._lock = threading.Lock()  # guards the two that follow
        self._handles: dict[str, Handle] = {}
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        self._new, self._closing = threading.Event(), threading.Event()
        self._pause, self._silent = cluster.poll, False
        self._asked = -math.inf  # when the batch system was asked for the states last

    def submit(self, posting: Posting) -> Handle:
        """Hand in a job; returns at once. A job of this name that is open is not handed in twice.

        Raises:
            HeliodorError: the desk is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise HeliodorError("the desk for jobs was closed")
            known = self._handles.get(posting.job.name)
            if known is not None and known.open:
                return known
            handle = self._handles[posting.job.name] = Handle(posting)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="heliodor-desk", daemon=True)
                self._thread.start()
        self._new.set()
        return handle

    def in_flight(self) -> list[str]:
        """The batch system's ids of what waits or runs there."""
        return [handle.id for handle in self._open() if handle.id is not None]

    def close(self) -> list[str]:
        """Stop watching; jobs go on. Returns the ids of those that stay in flight."""
        self._closing.set()
        self._new.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + _LAST_SECONDS
        while True:  # what has ended is counted, and what is about to
            self._asked = -math.inf
            self.look(submit=False)
            leaving = [h for h in self._open() if h.id is not None and h.posting.done()]
            if not leaving or time.monotonic() > deadline:
                break
            time.sleep(min(_GATHER, self.cluster.poll))
        with self._looking:
            for handle in self._open():
                self._release(handle)
        return self.in_flight()

    # --- one look --------------------------------------------------------------------------------

    def look(self, *, submit: bool = True) -> None:
        """Ask for all at once (each `poll` seconds), act on what ended, adopt and submit the rest."""
        with self._looking:
            try:
                for handle in self._open():
                    if handle.claim is not None:
                        handle.claim.refresh()
                self._settle()
                if submit:
                    self._send()
            except (StorageError, OSError) as error:
                if not self._silent:
                    log.warning("waiting for the batch system or its disk: %s", error)
                self._silent, self._pause = True, min(2 * self._pause, _LONGEST_PAUSE)
            else:
                if self._silent:
                    log.warning("the batch system answers again")
                self._silent, self._pause = False, self.cluster.poll

    def _open(self) -> list[Handle]:
        with self._lock:
            return [handle for handle in self._handles.values() if handle.open]

    def _settle(self) -> None:
        """What the batch system says of those that it has; what their folders say of the rest."""
        known = {handle.id: handle for handle in self._open() if handle.id is not None}
        if known and time.monotonic() - self._asked >= self.cluster.poll:
            self._asked = time.monotonic()
            states = self._scheduler.states(list(known))
            for number, handle in known.items():
                state = states.get(number, JobState(Phase.LOST, detail="the batch system lost it"))
                handle.detail = state.detail
                if state.phase in (Phase.ENDED, Phase.LOST):
                    self._ended(handle, number, state)
        for handle in self._open():
            if handle.id is None and handle.posting.done():
                self._finish(handle, Ended(End.COMPLETED))

    def _ended(self, handle: Handle, number: str, state: JobState) -> None:
        if handle.posting.done():
            self._charge(handle, number, state)
            self._finish(handle, Ended(End.COMPLETED, state.detail))
            return
        silent = state.phase is Phase.LOST or state.end is End.COMPLETED
        if silent and not handle.doubted:
            handle.doubted = True
            return
        self._charge(handle, number, state)
        handle.id, handle.doubted = None, False
        grown = handle.posting.progress() != handle.before
        handle.tries = 0 if grown else handle.tries + 1
        again = grown or silent or state.end not in _BROKEN
        if not again or handle.tries > self.cluster.resubmit:
            detail = (
                state.detail if not silent else f"{state.detail or 'ended'}, and its folder has no end"
            )
            self._finish(handle, Ended(state.end or End.FAILED, detail))
            return
        log.info("%s goes on in a new job: %s", handle.posting.job.folder, state.detail)

    def _charge(self, handle: Handle, number: str, state: JobState) -> None:
        if state.seconds > 0:
            self.spent(f"{handle.name}/{number}", state.seconds, handle.posting.resources)

    def _finish(self, handle: Handle, outcome: Ended | HeliodorError) -> None:
        handle.id = None
        self._release(handle)
        handle.outcome = outcome

    @staticmethod
    def _release(handle: Handle) -> None:
        if handle.claim is not None and handle.claim.holds():
            handle.claim.release()
        handle.claim = None

    # --- submitting ------------------------------------------------------------------------------

    def _send(self) -> None:
        """Adopt what is in flight; submit as many of the others as there is room for.

        The claim comes before the question: whoever held it before us has submitted by then, or never.
        """
        waiting = [handle for handle in self._open() if handle.id is None]
        if not waiting:
            return
        room = self.cluster.in_flight - len(self.in_flight())
        ours: list[Handle] = []
        for handle in waiting:
            if len(ours) >= room:
                break
            if handle.claim is None or not handle.claim.holds():
                handle.claim = self._take(handle)
            if handle.claim is not None:
                ours.append(handle)
        found = self._scheduler.find([handle.name for handle in waiting])
        for handle in waiting:
            if handle.open and handle.name in found:
                self._submitted(handle, found[handle.name])
        arrays: dict[Resources, list[Handle]] = {}
        for handle in ours:
            if handle.id is not None or not handle.open:
                continue
            if handle.posting.done():  # by whoever held the claim before us
                self._finish(handle, Ended(End.COMPLETED))
                continue
            arrays.setdefault(handle.posting.resources, []).append(handle)
        for resources, handles in arrays.items():
            self._submit(handles, resources)

    def _take(self, handle: Handle) -> Claim | None:
        folder = handle.posting.job.folder
        if not folder.is_dir():
            self._finish(handle, StorageError(f"the job folder {folder} is gone"))
            return None
        return self._claims.take(folder)

    def _submit(self, handles: list[Handle], resources: Resources) -> None:
        before = [handle.posting.progress() for handle in handles]
        try:
            ids = self._scheduler.submit([handle.posting.job for handle in handles], resources)
        except StorageError:
            raise
        except HeliodorError as error:  # the site refuses what it took before
            for handle in handles:
                self._finish(handle, error)
            return
        for handle, progress in zip(handles, before, strict=True):
            self._submitted(handle, ids[handle.name], progress)
        log.info("submitted %d jobs", len(handles))

    @staticmethod
    def _submitted(handle: Handle, number: str, progress: object = None) -> None:
        handle.id, handle.doubted = number, False
        handle.before = handle.posting.progress() if progress is None else progress

    # --- the thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.is_set():
            if self._new.wait(self._pause):
                self._closing.wait(_GATHER)
                self._new.clear()
            if self._closing.is_set() or not self._open():
                continue
            try:
                self.look()
            except Exception as error:  # whatever it is, the callers must not wait for ever
                log.exception("watching the jobs stopped")
                text = f"watching the jobs stopped: {type(error).__name__}: {error}"
                for handle in self._open():
                    self._finish(handle, HeliodorError(text))
