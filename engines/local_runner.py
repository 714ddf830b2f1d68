"""Runs prepared calculations on this machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from ..core.lock import is_worked_in
from ..core.records import DftResult, DftTicket, Failure, Reason
from .dft_results import read_result, write_failure

_POLL = 0.2  # seconds: far below the time of a calculation
_GRACE = 10.0  # seconds between asking a process to end and ending it


def run_here(
    ticket: DftTicket, attempts: int, time_limit: float, stop: threading.Event
) -> DftResult | Failure | None:
    """Bring a calculation to its end; None where `stop` was set before.

    What ended before is not run again. One that another process is at, or that outlived the campaign
    that started it, is waited for.

    Args:
        time_limit: seconds, all attempts together.
    """
    folder = Path(ticket.path)
    process: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + time_limit
    try:
        while not stop.is_set():
            ended = read_result(folder, ticket.input_digest)
            if ended is not None:
                return ended
            if process is not None and process.poll() is not None:
                return _died(ticket, folder, process.returncode)
            if process is None and not is_worked_in(folder):
                process = _start(folder, attempts)
            if time.monotonic() > deadline:
                detail = f"stopped after {time_limit:g} seconds (dft.time_limit)"
                failure = Failure(ticket.key, Reason.DFT_KILLED, detail)
                write_failure(folder, ticket.input_digest, failure, attempts)
                return failure
            time.sleep(_POLL)
        return None
    finally:
        if process is not None:
            _end(process)


def _start(folder: Path, attempts: int) -> subprocess.Popen[bytes]:
    # One thread a process: calculations run side by side. Open MPI refuses root without being told.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    command = [sys.executable, "-P", "-m", f"{__package__}.calculate", str(folder)]
    with (folder / "calculate.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--attempts", str(attempts)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to us; we end the program and what it started
        )


def _died(ticket: DftTicket, folder: Path, code: int) -> DftResult | Failure:
    """The process has ended: with a result, or by a signal or an error of its own."""
    ended = read_result(folder, ticket.input_digest)
    if ended is not None:
        return ended
    lines = (folder / "calculate.log").read_text(errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else "no message"
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return Failure(ticket.key, Reason.DFT_KILLED, f"its process ended with {how}: {last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, if it runs."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return
