"""A real Prefect server of our own on loopback, with its own home and database.

Load it with `runpy.run_path`, as `tests/conftest.py` does for its fixture `prefect_url`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START = 240  # seconds: the first start migrates the database, on a busy machine


class Server:
    """A server that can be killed and started again over the same database.

    Args:
        home: its PREFECT_HOME. settings: further PREFECT_ variables, such as
            PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="2".
    """

    def __init__(self, home: Path, **settings: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.log = home, home / "server.log"
        self.address = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.address}/api"
        self._settings = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its process, while it runs."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def client(self, home: Path) -> dict[str, str]:
        """The environment of a program that talks to this server, with a home of its own."""
        return {**_clean(), "PREFECT_API_URL": self.url, "PREFECT_HOME": str(home)}

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        ours = {"PREFECT_HOME": str(self.home), "PREFECT_UI_API_URL": self.url}
        environment = {**_clean(), **ours, **self._settings}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + START
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"no Prefect server:\n{self.log.read_text()[-4000:]}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        """End it in good order."""
        self._end("terminate")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self._process is None:
            return
        getattr(self._process, how)()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def prefect_server(home: Path, **settings: str) -> Iterator[Server]:
    """A running server; see `Server`."""
    server = Server(home, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
