"""What is asked of a batch system, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ..core.errors import ExitCode
from .settings import Resources


class Phase(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # the batch system does not know it (any more): what its folder says decides


class End(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # by itself, with work left: exit code 75
    STORAGE = "storage"  # a program of ours could not write: the disk is full, or gone
    FAILED = "failed"  # by any other exit code
    WALLTIME = "walltime"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


def by_exit_code(code: int) -> End:
    """How a program of ours says that it ended; see `Job`."""
    ends = {0: End.COMPLETED, os.EX_TEMPFAIL: End.STOPPED, ExitCode.STORAGE: End.STORAGE}
    return ends.get(code, End.FAILED)


@dataclass(frozen=True)
class JobState:
    """A job as the batch system sees it.

    Args:
        end: how it ended, where it has. detail: for a person: exit code, node, the system's own word
            (such as why it waits).
        seconds: how long it ran, over all its starts that are known.
    """

    phase: Phase
    end: End | None = None
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """A program to run in a folder on a node. It ends by itself, or goes on from there when run again.

    Exit code 0: the folder holds its end. 75 (EX_TEMPFAIL): stopped before the walltime, with work
    left; anything else: it broke.

    Args:
        name: by content, so that a new orchestrator finds what is in flight: `heliodor-` and 24 digits.
        folder: absolute; seen from the node under the same path.
        command: what to run; an element "{python}" stands for the node's Python.
    """

    name: str
    folder: Path
    command: tuple[str, ...]


class Scheduler(Protocol):
    """A batch system. Every method may raise `StorageError` when it does not answer: try again later."""

    def check(self, resources: Resources) -> None:
        """Refuse what the site would refuse (partition, account, limits), before any work.

        Raises:
            InputError: with the site's own words. MissingError: the batch system is not there.
        """
        ...

    def submit(self, jobs: Sequence[Job], resources: Resources) -> Mapping[str, str]:
        """Submit jobs, as one array where there are several; the id of each by its name.

        A job's output goes to `job.log` in its folder.
        """
        ...

    def find(self, names: Sequence[str]) -> Mapping[str, str]:
        """The ids of jobs of these names that wait or run, whoever submitted them."""
        ...

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """The state of each, by one question to the batch system."""
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; those that have ended are left alone."""
        ...
