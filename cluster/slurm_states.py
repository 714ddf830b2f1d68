"""What Slurm's words about a job mean."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from .scheduler import End, JobState, Phase

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_ENDS = {
    "COMPLETED": (End.COMPLETED, "completed"),
    "FAILED": (End.FAILED, "failed"),
    "TIMEOUT": (End.WALLTIME, "its walltime was used up"),
    "DEADLINE": (End.WALLTIME, "its deadline passed"),
    "OUT_OF_MEMORY": (End.OUT_OF_MEMORY, "it used more memory than it had asked for"),
    "NODE_FAIL": (End.NODE_FAILURE, "its node failed"),
    "BOOT_FAIL": (End.NODE_FAILURE, "its node did not boot"),
    "PREEMPTED": (End.PREEMPTED, "preempted by a job of higher priority"),
    "CANCELLED": (End.CANCELLED, "cancelled"),
    "REVOKED": (End.CANCELLED, "revoked: another cluster of the federation took it"),
}


@dataclass(frozen=True)
class Row:
    """What `squeue` or `sacct` says of one job.

    Args:
        status: as of wait(2): the exit code in the upper byte, the signal in the lower.
        reason: Slurm's word for why it waits or ended. seconds: of this start, or of all that are known.
    """

    state: str
    status: int = 0
    reason: str = ""
    node: str = ""
    seconds: float = 0.0


def seconds_of(text: str) -> float:
    """Slurm's `[days-][hours:]minutes:seconds`; 0 for what is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def status_of(text: str) -> int:
    """The status from `sacct`'s `code:signal`."""
    code, _, number = text.partition(":")
    return (int(code) << 8 | int(number or 0)) if code.isdigit() else 0


def _exit_words(status: int) -> str:
    code, number = status >> 8, status & 0x7F
    if code > 128:  # a shell's word for a signal
        number = code - 128
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {code}"


def state_of(row: Row) -> JobState:
    """The state of a job. What Slurm calls by a word that is not known here counts as running."""
    word, _, by = row.state.partition(" ")  # "CANCELLED by 1000"
    where = f" on {row.node}" if row.node and row.node != "None assigned" else ""
    said = f" ({row.reason})" if row.reason and row.reason != "None" else ""
    if word in _WAITS:
        return JobState(Phase.QUEUED, detail=f"waits{said}", seconds=row.seconds)
    if word not in _ENDS:
        return JobState(Phase.RUNNING, detail=f"{word.lower()}{where}", seconds=row.seconds)
    end, text = _ENDS[word]
    if end is End.FAILED:
        text = _exit_words(row.status)
        said = "" if row.reason == "NonZeroExitCode" else said
    if end is End.COMPLETED:
        said = ""
    if by:
        text = f"{text} {by}"
    return JobState(Phase.ENDED, end, f"{text}{where}{said}", row.seconds)
