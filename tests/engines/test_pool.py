"""A pool whose workers hold many crystals at once, as on a GPU: refilled, in turn, culprits found.

The processes are played by objects, so that what they hold and when they die is known.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.crystal import Crystal
from heliodor.core.errors import HeliodorError
from heliodor.core.records import Evaluated, Failure, Reason
from heliodor.engines import pool as pool_module
from heliodor.engines.messages import Order, pack_result, unpack
from heliodor.engines.pool import WorkerPool
from heliodor.engines.process import WorkerLostError


def crystal(k):
    return Crystal(np.eye(3) * (3 + 0.01 * k), [[0, 0, 0]], [29])


def evaluated(order):
    return Evaluated(order.crystal.digest, -1.0, np.zeros((1, 3)), np.zeros((3, 3)), "fake")


class Machine:
    """GPUs whose workers finish a crystal when told to, and die of some crystals."""

    def __init__(self, capacity=4, gpus=1, poison=None, newest_first=False, memory_of_each=0.0):
        self.capacity, self.gpus, self.newest_first = capacity, gpus, newest_first
        self.poison = poison
        self.log, self.held, self.devices = [], [], []
        self.go = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.memory_of_each = memory_of_each

    def process(self, name, device, settings):
        self.devices.append(device)
        return Worker(self)


class Worker:
    def __init__(self, machine):
        self.machine, self.inbox, self.dead = machine, {}, False
        self.new_capacity = None

    def greeting(self, kind, cancelled):
        return {"gpus": self.machine.gpus, "capacity": self.machine.capacity}

    def send(self, number, order):
        with self.machine.lock:
            self.machine.log.append(("in", order.crystal.digest))
            self.inbox[number] = order
            self.machine.held.append(len(self.inbox))

    def receive(self, timeout):
        machine = self.machine
        if self.dead or any(o.crystal.digest == machine.poison for o in self.inbox.values()):
            self.dead = True
            raise WorkerLostError("exit status -9")
        if not self.inbox or not machine.go.acquire(timeout=timeout):
            return None
        with machine.lock:
            number = max(self.inbox) if machine.newest_first else min(self.inbox)
            order = self.inbox.pop(number)
            machine.log.append(("out", order.crystal.digest))
        header, body = unpack(pack_result(number, evaluated(order)))
        return {**header, "capacity": machine.capacity}, body

    def alive(self):
        return not self.dead

    def memory_gb(self):
        return self.machine.memory_of_each * len(self.inbox)

    def end(self):
        self.dead = True


@pytest.fixture
def play(monkeypatch):
    pools = []

    def start(machine, **settings):
        monkeypatch.setattr(pool_module, "WorkerProcess", machine.process)
        pools.append(WorkerPool("fake", MlipChoice(**settings), 1))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def release(machine, n=1):
    for _ in range(n):
        machine.go.release()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def sent(machine):
    return [key for what, key in machine.log if what == "in"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_worker_is_refilled_as_crystals_finish(play, newest_first):
    """Never more than fit; in the order they were given; the next goes in as soon as one is out."""
    machine = Machine(capacity=4, newest_first=newest_first)
    orders = [Order(crystal(k), "evaluate") for k in range(11)]
    keys = [order.crystal.digest for order in orders]
    results = play(machine).run(orders)
    found = []
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    wait_for(lambda: len(machine.log) == 4)
    assert sent(machine) == keys[:4]
    for done in range(1, 8):
        release(machine)
        wait_for(lambda done=done: len(sent(machine)) == 4 + done)
    release(machine, 4)
    thread.join(60)
    assert sent(machine) == keys
    assert max(machine.held) == 4
    assert {r.key for r in found} == set(keys)
    first_out = next(key for what, key in machine.log if what == "out")
    assert first_out == keys[3 if newest_first else 0]


def test_a_worker_that_learned_its_memory_takes_more(play):
    machine = Machine(capacity=2)
    orders = [Order(crystal(k), "evaluate") for k in range(9)]
    results = play(machine).run(orders)
    thread = threading.Thread(target=lambda: list(results))
    thread.start()
    wait_for(lambda: len(machine.log) == 2)
    machine.capacity = 6
    release(machine)
    wait_for(lambda: len(sent(machine)) == 7)  # one came back, six are held
    machine.capacity = 1
    release(machine, 6)
    wait_for(lambda: len([1 for what, _ in machine.log if what == "out"]) == 7)
    release(machine, 2)
    thread.join(60)
    assert max(machine.held) == 6
    assert len(sent(machine)) == 9


def test_the_culprit_is_found_among_many(play):
    """The worker dies with five at hand: each is tried alone, and one of them is to blame."""
    machine = Machine(capacity=5, poison=crystal(2).digest)
    release(machine, 100)
    orders = [Order(crystal(k), "evaluate") for k in range(8)]
    results = {r.key: r for r in play(machine).run(orders)}
    assert len(results) == 8
    bad = results.pop(crystal(2).digest)
    assert isinstance(bad, Failure)
    assert bad.reason == Reason.WORKER_DIED
    assert all(isinstance(r, Evaluated) for r in results.values())


def test_memory_over_the_limit_ends_the_worker_not_the_batch(play):
    """Three together are too many: each alone is not, and none is lost."""
    machine = Machine(capacity=3, memory_of_each=0.8)
    pool = play(machine, memory_limit_gb=2)
    results = []
    orders = [Order(crystal(k), "evaluate") for k in range(3)]
    thread = threading.Thread(target=lambda: results.extend(pool.run(orders)))
    thread.start()
    wait_for(lambda: len(machine.devices) == 2)  # replaced
    release(machine, 3)
    thread.join(60)
    assert len(results) == 3
    assert all(isinstance(r, Evaluated) for r in results)


def test_every_gpu_gets_a_worker(play):
    machine = Machine(capacity=2, gpus=3)
    stream = play(machine).run([Order(crystal(k), "evaluate") for k in range(30)])
    found = []
    thread = threading.Thread(target=lambda: found.extend(stream))
    thread.start()
    wait_for(lambda: set(machine.devices) == {"auto", "cuda:1", "cuda:2"})
    release(machine, 30)
    thread.join(60)
    assert len(found) == 30


def test_two_calls_take_turns(play):
    """A long call does not keep a short one waiting."""
    machine = Machine(capacity=2)
    pool = play(machine)
    long = [Order(crystal(k), "evaluate") for k in range(20)]
    short = [Order(crystal(100 + k), "evaluate") for k in range(3)]
    found = {"long": [], "short": []}
    threads = []
    for name, orders in (("long", long), ("short", short)):
        stream = pool.run(orders)
        threads.append(threading.Thread(target=lambda n=name, s=stream: found[n].extend(s)))
        threads[-1].start()
        wait_for(lambda: len(machine.log) >= 2)
    release(machine, 30)
    for thread in threads:
        thread.join(60)
    last_short = max(
        i for i, key in enumerate(sent(machine)) if key in {o.crystal.digest for o in short}
    )
    assert last_short < 10  # three short ones among the first ten, not behind twenty
    assert (len(found["long"]), len(found["short"])) == (20, 3)


def test_closing_while_a_worker_holds_many_raises_there(play):
    machine = Machine(capacity=4)
    pool = play(machine)
    caught = []

    def work():
        try:
            list(pool.run([Order(crystal(k), "evaluate") for k in range(6)]))
        except HeliodorError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: len(machine.log) == 4)
    pool.close()
    thread.join(60)
    assert caught == ["the relaxer was closed while it was working"]
