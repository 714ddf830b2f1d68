"""Who holds a lease, and whether that process still lives."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def _place() -> str:
    """Host, boot and process namespace: process ids mean something only inside one of these."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # not Linux
        boot = namespace = "-"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def new_owner() -> str:
    """A name for this process as a lease holder, unique per call."""
    import psutil

    started = psutil.Process().create_time()
    return f"{_place()}|{os.getpid()}|{started:.2f}|{uuid.uuid4().hex[:8]}"


def same_process(one: str, other: str) -> bool:
    """Whether two owners are of one process."""
    return one.rsplit("|", 1)[0] == other.rsplit("|", 1)[0]


def in_words(owner: str) -> str:
    """Where an owner is, and since when."""
    place, pid, started, _ = owner.split("|")
    since = datetime.fromtimestamp(float(started), UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{place.split('/')[0]}, process {pid}, since {since}"


def surely_dead(owner: str) -> bool:
    """Whether the owner was a process of this very machine that is gone.

    Processes of other machines may or may not live: for them the answer is False, and their leases
    lapse by time.
    """
    import psutil

    place, pid, started, _ = owner.split("|")
    if place != _place():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
