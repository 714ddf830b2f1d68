"""A signal, as before a walltime, ends a calculation without a failure; run again, it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliodor.core.choices.dft import MlipDftChoice
from heliodor.core.records import DftTicket
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.recipes import recipe_for
from heliodor.testing import rock_salt


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_it_goes_on_after_a_signal(tmp_path, number):
    [ticket] = FlowEngine(recipe_for(MlipDftChoice(kind="mlip"))).prepare([rock_salt()], tmp_path)
    assert isinstance(ticket, DftTicket)
    log, folder = tmp_path / "log", Path(ticket.path)
    command = [sys.executable, "-m", "heliodor.engines.calculate", ticket.path]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        while "Starting job" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == os.EX_TEMPFAIL, log.read_text()
    assert not (folder / "failure.json").exists()
    assert not (folder / "result.json").exists()
    before = json.loads((folder / "progress.json").read_text())
    subprocess.run(command, check=True, timeout=200, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    assert result["attempts"] == 1
    assert result["seconds"] > before["seconds"] > 0, "the time of the stopped run counts"
