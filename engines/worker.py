"""A worker process: loads one potential, then relaxes or evaluates the crystals that it is sent.

Started by `process.py` as `python -m heliodor.engines.worker FD NAME DEVICE SETTINGS`, so that the
user's own script is never imported again. FD is a socket, for `messages`. What libraries print goes to a
file, which the parent reads to say how a worker ended.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import warnings
from multiprocessing.connection import Connection

from ..core.campaign import MlipChoice
from .driver import Driver
from .messages import pack, pack_result, unpack_order
from .potentials import KNOWN, load_potential

GPU_CRYSTALS = 256  # in progress at once on a GPU
GPU_ATOMS = 4096  # in one evaluation, at first; halved when memory runs out


def main(arguments: list[str]) -> None:
    """Say hello (number of GPUs), load, say ready, then work until the other end hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then hangs up
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)  # to standard error
    fd, name, device, text = arguments
    pipe = Connection(int(fd))
    settings = MlipChoice.model_validate_json(text)

    import torch

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "auto":
        device = "cuda:0" if gpus else "cpu"
    pipe.send_bytes(pack({"type": "hello", "gpus": gpus}))
    on_gpu = device != "cpu"
    if not on_gpu:
        torch.set_num_threads(1)
    potential = load_potential(name, device)
    driver = Driver(potential, KNOWN[name].model, settings, GPU_ATOMS if on_gpu else 1)
    pipe.send_bytes(pack({"type": "ready", "capacity": GPU_CRYSTALS if on_gpu else 1}))
    try:
        _work(pipe, driver, heartbeat=on_gpu)
    except BrokenPipeError:  # the parent is gone
        return


def _work(pipe: Connection, driver: Driver, *, heartbeat: bool) -> None:
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    while True:
        while not (driver.busy and inbox.empty()):
            driver.add(*unpack_order(inbox.get()))
        for number, result in driver.step():
            pipe.send_bytes(pack_result(number, result))
        if heartbeat:
            pipe.send_bytes(pack({"type": "alive"}))


def _listen(pipe: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Ends the process, whatever it is computing, as soon as the parent is gone."""
    while True:
        try:
            inbox.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
