"""The parent's handle on one worker process: start, talk, watch, end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

from ..core.choices.relaxers import AseChoice, MlipChoice
from ..core.errors import HeliodorError, InputError
from .messages import Order, pack_order, unpack

START_SECONDS = 300.0  # a cold network file system can take minutes to import torch


class WorkerLostError(Exception):
    """The process ended or hung up."""


class WorkerProcess:
    """One running worker.

    Args:
        name: see `potentials.load`. device: "auto", "cpu", "cuda:0" ...
    """

    def __init__(self, name: str, device: str, settings: MlipChoice) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # More threads than one make small crystals slower, and the cores are taken by other workers.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # What the worker needs to know: of a known potential the name says the rest.
        kind = AseChoice if isinstance(settings, AseChoice) else MlipChoice
        needed = kind.model_validate({field: getattr(settings, field) for field in kind.model_fields})
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", f"{__package__}.worker"),
                    *(str(theirs.fileno()), name, device, needed.model_dump_json()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        self._pipe = Connection(ours.detach())
        self._watch = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, number: int, order: Order) -> None:
        """Hand over an order.

        Raises:
            WorkerLostError: the process is gone.
        """
        try:
            self._pipe.send_bytes(pack_order(number, order))
        except OSError as error:
            raise WorkerLostError(self.last_words()) from error

    def receive(self, timeout: float) -> tuple[dict[str, Any], bytes] | None:
        """The next message, or None when none came in `timeout` seconds.

        Raises:
            WorkerLostError: the process is gone.
        """
        try:
            return unpack(self._pipe.recv_bytes()) if self._pipe.poll(timeout) else None
        except (EOFError, OSError) as error:
            raise WorkerLostError(self.last_words()) from error

    def greeting(self, kind: str, cancelled: threading.Event) -> dict[str, Any]:
        """Wait for the message "hello" or "ready" of the start.

        Raises:
            HeliodorError: the worker cannot start; says what it printed last.
            InputError: its potential is not as the settings say.
        """
        deadline = time.monotonic() + START_SECONDS
        try:
            while time.monotonic() < deadline and not cancelled.is_set():
                message = self.receive(0.1)
                if message is not None and message[0]["type"] == "refused":
                    raise InputError(message[0]["message"], hint=message[0]["hint"])
                if message is not None and message[0]["type"] == kind:
                    return message[0]
        except WorkerLostError as lost:
            raise HeliodorError(f"a worker process of the potential did not start: {lost}") from lost
        raise HeliodorError(f"a worker process of the potential did not start in {START_SECONDS:g} s")

    def alive(self) -> bool:
        """Whether the process runs. One that was killed is a zombie while its last threads end."""
        if self._process.poll() is not None:
            return False
        try:
            return bool(self._watch.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def memory_gb(self) -> float:
        """Resident memory in GB (0 when the process is gone)."""
        try:
            return float(self._watch.memory_info().rss / 1e9)
        except psutil.Error:
            return 0.0

    def last_words(self) -> str:
        """How the process ended and the end of what it printed."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 400))
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", last words: {said[-1]}" if said else "")

    def end(self) -> None:
        """Kill the process; at once, for it holds nothing that would need saving."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._stderr.close()
