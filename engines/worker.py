"""A worker process: loads its potential, then relaxes or evaluates the crystals that it is sent.

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

from ..core.choices.relaxers import AseChoice, MlipChoice
from ..core.errors import HeliodorError
from .batching import BatchSize, gpu_memory
from .driver import Driver
from .messages import pack, pack_result, unpack_order
from .potentials import load

GPU_CRYSTALS = 64  # in progress at once on a GPU, until the first evaluation has told its memory
GPU_PAIRS = 50_000  # in one evaluation, at first: about 1000 atoms


def main(arguments: list[str]) -> None:
    """Say hello (number of GPUs), load, say ready, then work until the other end hangs up."""
    # Ctrl-C, and what a batch system sends to all of a job, are for the parent, which then hangs up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)  # to standard error
    fd, name, device, text = arguments
    pipe = Connection(int(fd))
    settings = (AseChoice if name == "ase" else MlipChoice).model_validate_json(text)
    gpus = 0
    if device != "cpu":
        import torch

        gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda:0" if gpus else "cpu"
    pipe.send_bytes(pack({"type": "hello", "gpus": gpus}))
    try:
        driver = _load(name, device, settings)
    except HeliodorError as error:  # the user's to mend: it goes to the caller in its own words
        pipe.send_bytes(pack({"type": "refused", "message": error.message, "hint": error.hint}))
        return
    on_gpu = device != "cpu"
    pipe.send_bytes(pack({"type": "ready", "capacity": GPU_CRYSTALS if on_gpu else 1}))
    try:
        _work(pipe, driver, on_gpu=on_gpu)
    except BrokenPipeError:  # the parent is gone
        return


def _load(name: str, device: str, settings: MlipChoice) -> Driver:
    by = load(name, device, settings)
    first = None if settings.first is None else load(settings.first.potential, device, MlipChoice())
    if device != "cpu":
        return Driver(by, settings, BatchSize(GPU_PAIRS, gpu_memory(device)), first)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    # One crystal at a time: on a CPU core 2 to 8 together cost 15 to 30 % less with CHGNet (measured),
    # but then the last digits of a crystal's result depend on who is in its batch.
    return Driver(by, settings, BatchSize(1), first)


def _work(pipe: Connection, driver: Driver, *, on_gpu: bool) -> None:
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    while True:
        while not (driver.busy and inbox.empty()):
            driver.add(*unpack_order(inbox.get()))
        capacity = driver.capacity
        for number, result in driver.step():
            pipe.send_bytes(pack_result(number, result))
        if on_gpu:  # a sign of life, and how many crystals it can hold by now
            pipe.send_bytes(pack({"type": "alive", "capacity": capacity}))


def _listen(pipe: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Ends the process, whatever it is computing, as soon as the parent is gone."""
    while True:
        try:
            inbox.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
