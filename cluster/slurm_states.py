"""What Slurm's words about a job mean."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from .scheduler import End, JobState, Phase, by_exit_code

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_MEMORY = re.compile(r"exceeded memory limit|oom.?kill|out of memory", re.IGNORECASE)
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_ENDS = {
    "COMPLETED": (End.COMPLETED, "completed"),
    "FAILED": (End.FAILED, "failed"),
    "TIMEOUT": (End.WALLTIME, "its walltime was used up"),
    "DEADLINE": (End.WALLTIME, "its deadline passed"),
    "OUT_OF_MEMORY": (End.OUT_OF_MEMORY, "out of memory: it used more than it had asked for"),
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


def killed(status: int) -> signal.Signals | None:
    """The signal that ended a program, by wait(2) or by a shell; None: it ended by itself."""
    code, number = status >> 8, status & 0x7F
    number = code - 128 if code > 128 else number
    return signal.Signals(number) if number in set(signal.Signals) else None


def state_of(row: Row, last_words: str = "") -> JobState:
    """The state of a job. What Slurm calls by a word that is not known here counts as running.

    Args:
        last_words: what Slurm wrote into the job's output when it ended it. Where memory is watched
            without cgroups, only they tell that it ran out.
    """
    word, _, by = row.state.partition(" ")  # "CANCELLED by 1000"
    where = f" on {row.node}" if row.node and row.node != "None assigned" else ""
    said = f" ({row.reason})" if row.reason and row.reason != "None" else ""
    if word in _WAITS:
        return JobState(Phase.QUEUED, detail=f"waits{said}", seconds=row.seconds)
    if word not in _ENDS:
        return JobState(Phase.RUNNING, detail=f"{word.lower()}{where}", seconds=row.seconds)
    end, text = _ENDS[word]
    if end is End.FAILED and _MEMORY.search(last_words):
        end, text = _ENDS["OUT_OF_MEMORY"]
    elif end is End.FAILED and row.status:
        code, by_signal = row.status >> 8, killed(row.status)
        end = by_exit_code(code) if code else End.FAILED
        text = f"killed by {by_signal.name}" if by_signal else f"exit code {code}"
        said = ", as when memory runs out" if by_signal is signal.SIGKILL else ""
    if end in (End.COMPLETED, End.OUT_OF_MEMORY, End.WALLTIME):
        said = ""
    return JobState(Phase.ENDED, end, f"{text} {by}".rstrip() + where + said, row.seconds)
