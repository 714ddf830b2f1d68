"""The desk against a batch system in memory that loses, kills, forgets and keeps silent."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heliodor.cluster.claim import Claims
from heliodor.cluster.desk import Desk, Posting
from heliodor.cluster.scheduler import End, Job, JobState, Phase
from heliodor.cluster.settings import Cluster, Resources
from heliodor.core.errors import InputError, StorageError

STEPS = 3  # of work in each folder


@dataclass
class Queue:
    """A batch system: jobs wait, run, and end as they are told."""

    states_of: dict[str, JobState] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    silent: bool = False
    questions: int = 0
    meanwhile: object = None

    def check(self, resources):
        self._answer()

    def submit(self, jobs, resources):
        self._answer()
        if (others := self.meanwhile) is not None:
            self.meanwhile = None
            others()
        ids = {}
        for job in jobs:
            twice = [i for i, j in self.jobs.items() if j.name == job.name and self._lives(i)]
            assert not twice, f"{job.name} was submitted while it was in flight"
            assert not done(job.folder), f"{job.name} was submitted after its end"
            ids[job.name] = str(len(self.jobs))
            self.jobs[ids[job.name]] = job
            self.states_of[ids[job.name]] = JobState(Phase.QUEUED)
        return ids

    def find(self, names):
        self._answer()
        return {job.name: i for i, job in self.jobs.items() if job.name in names and self._lives(i)}

    def states(self, ids):
        self._answer()
        self.questions += 1
        return {i: self.states_of.get(i, JobState(Phase.LOST)) for i in ids}

    def cancel(self, ids):
        for i in ids:
            self.states_of[i] = JobState(Phase.ENDED, End.CANCELLED)

    def live(self):
        return [i for i in self.jobs if self._lives(i)]

    def work(self, i):
        """The job's program does one step; at the last one it ends."""
        folder = self.jobs[i].folder
        with (folder / "steps").open("a") as file:
            file.write("x")
        if done(folder):
            self.states_of[i] = JobState(Phase.ENDED, End.COMPLETED, "completed", 60)
        else:
            self.states_of[i] = JobState(Phase.RUNNING)

    def die(self, i, end, detail=""):
        self.states_of[i] = JobState(Phase.ENDED, end, detail, 60)

    def _lives(self, i):
        return self.states_of[i].phase in (Phase.QUEUED, Phase.RUNNING)

    def _answer(self):
        if self.silent:
            raise StorageError("no answer")


def steps(folder):
    path = folder / "steps"
    return len(path.read_text()) if path.exists() else 0


def done(folder):
    return steps(folder) >= STEPS


def posting(folder, resources=None):
    folder.mkdir(exist_ok=True)
    job = Job(f"heliodor-{folder.name}", folder, ("true",))
    return Posting(job, resources or Resources(), lambda: done(folder), lambda: steps(folder))


def desk_of(queue, spent=None, **changes):
    made = Desk(queue, Cluster(**{"poll": 1e-6, "resubmit": 2, **changes}), spent or (lambda *_: None))
    made.submit = submit_without_thread.__get__(made)
    return made


def submit_without_thread(self, post):
    """Handed in as always, but looked at only when the test says so."""
    self._thread = self._thread or NoThread()
    return Desk.submit(self, post)


class NoThread:
    def join(self):
        pass


AGAIN = [End.WALLTIME, End.NODE_FAILURE, End.PREEMPTED, End.CANCELLED]


class Orchestrators(RuleBasedStateMachine):
    """Two orchestrators want the same folders; jobs and orchestrators die at any moment.

    The queue itself asserts that nothing is submitted while it is in flight or after its end.
    """

    @initialize()
    def begin(self):
        self.root = tempfile.TemporaryDirectory()
        self.queue = Queue()
        self.spent = Counter()
        self.folders = [Path(self.root.name) / f"{k:024}" for k in range(3)]
        self.desks = [desk_of(self.queue, self.charge) for _ in range(2)]
        for desk in self.desks:
            self.hand_in(desk)

    def charge(self, job, seconds, resources):
        self.spent[job] = seconds

    def hand_in(self, desk):
        for folder in self.folders:
            desk.submit(posting(folder))

    @rule(which=st.integers(0, 1))
    def look(self, which):
        self.desks[which].look()

    @rule(which=st.integers(0, 1))
    def look_at_once(self, which):
        """The other one looks after we have asked what is in flight, and before we submit."""
        self.queue.meanwhile = self.desks[1 - which].look
        self.desks[which].look()
        self.queue.meanwhile = None

    @rule(which=st.integers(0, 1))
    def kill_orchestrator(self, which):
        """As by kill -9: nothing is released, but the claims' owner is gone."""
        for folder in self.folders:
            for path in folder.glob("claim.*"):
                if path.read_text() == self.desks[which]._claims._owner:
                    path.write_text("")  # what `surely_dead` finds out about a process
        self.desks[which] = desk_of(self.queue, self.charge)
        self.hand_in(self.desks[which])

    @rule(which=st.integers(0, 1))
    def leave_and_come_back(self, which):
        self.desks[which].close()
        self.desks[which] = desk_of(self.queue, self.charge)
        self.hand_in(self.desks[which])

    @precondition(lambda self: self.queue.live())
    @rule(data=st.data())
    def job_works(self, data):
        self.queue.work(data.draw(st.sampled_from(self.queue.live())))

    @precondition(lambda self: self.queue.live())
    @rule(data=st.data(), end=st.sampled_from(AGAIN))
    def job_dies(self, data, end):
        i = data.draw(st.sampled_from(self.queue.live()))
        if steps(self.queue.jobs[i].folder) > 0:  # with progress since, or it counts as a try
            self.queue.die(i, end)

    @precondition(lambda self: self.queue.live())
    @rule(data=st.data())
    def job_is_forgotten(self, data):
        i = data.draw(st.sampled_from(self.queue.live()))
        self.queue.states_of[i] = JobState(Phase.LOST)

    @rule()
    def silence(self):
        self.queue.silent = not self.queue.silent

    @invariant()
    def nothing_is_lost(self):
        assert len(self.queue.live()) <= len(self.folders)

    def teardown(self):
        """Left alone with a batch system that answers, all comes to its end."""
        self.queue.silent = False
        for desk in self.desks:
            desk.cluster = desk.cluster.model_copy(update={"resubmit": 100})
        for _ in range(10 * STEPS):
            for desk in self.desks:
                self.hand_in(desk)
                desk.look()
            for i in self.queue.live():
                self.queue.work(i)
        assert all(done(folder) for folder in self.folders)
        for desk in self.desks:
            assert desk.in_flight() == []
            desk.close()
        self.root.cleanup()


TestOrchestrators = Orchestrators.TestCase
TestOrchestrators.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_arrays_per_resources_and_a_limit_in_flight(tmp_path):
    queue, calls = Queue(), []
    submit = queue.submit
    queue.submit = lambda jobs, resources: (
        calls.append((len(jobs), resources.cpus)) or submit(jobs, resources)
    )
    desk = desk_of(queue, in_flight=4)
    for k in range(6):
        desk.submit(posting(tmp_path / f"{k}", Resources(cpus=1 + k % 2)))
    desk.look()
    assert sorted(calls) == [(2, 1), (2, 2)]
    desk.look()
    assert len(queue.jobs) == 4
    for _ in range(STEPS):
        queue.work("0")
    desk.look()
    assert len(queue.live()) == 4
    assert len(desk.close()) == 4


def test_the_same_name_is_the_same_job(tmp_path):
    desk = desk_of(Queue())
    assert desk.submit(posting(tmp_path / "a")) is desk.submit(posting(tmp_path / "a"))


@pytest.mark.parametrize("end", [End.OUT_OF_MEMORY, End.FAILED])
def test_what_breaks_without_progress_is_not_sent_again(tmp_path, end):
    queue = Queue()
    desk = desk_of(queue)
    handle = desk.submit(posting(tmp_path / "a"))
    desk.look()
    queue.work("0")
    queue.die("0", end, "killed on node7")
    desk.look()
    assert handle.ended is None, "it had come forward: what died may be the next piece of work"
    queue.die("1", end, "killed on node7")
    desk.look()
    assert (handle.ended.end, handle.ended.detail) == (end, "killed on node7")
    assert len(queue.jobs) == 2


@pytest.mark.parametrize("end", AGAIN)
def test_what_dies_again_and_again_without_progress_is_given_up(tmp_path, end):
    queue = Queue()
    desk = desk_of(queue, resubmit=2)
    handle = desk.submit(posting(tmp_path / "a"))
    desk.look()
    for k in range(3):
        assert handle.ended is None
        queue.die(str(k), end, "why")
        desk.look()
    assert handle.ended.end is end
    assert len(queue.jobs) == 3


def test_exit_75_goes_on(tmp_path):
    queue = Queue()
    desk = desk_of(queue)
    handle = desk.submit(posting(tmp_path / "a"))
    desk.look()
    queue.die("0", End.STOPPED, "exit code 75 on node7")
    desk.look()
    assert handle.ended is None
    assert queue.live() == ["1"]


def test_a_folder_whose_end_comes_late_over_the_network(tmp_path):
    queue = Queue()
    desk = desk_of(queue)
    handle = desk.submit(posting(tmp_path / "a"))
    desk.look()
    queue.die("0", End.COMPLETED)
    desk.look()
    assert handle.ended is None
    (tmp_path / "a" / "steps").write_text("x" * STEPS)
    desk.look()
    assert handle.ended.end is End.COMPLETED
    assert len(queue.jobs) == 1


def test_a_silent_batch_system_is_waited_for_and_told_of_once(tmp_path, caplog):
    queue = Queue(silent=True)
    desk = desk_of(queue)
    handle = desk.submit(posting(tmp_path / "a"))
    with caplog.at_level(logging.WARNING, "heliodor"):
        for _ in range(5):
            desk.look()
        queue.silent = False
        desk.look()
    assert handle.id == "0"
    assert [r.message.split(":")[0] for r in caplog.records] == [
        "waiting for the batch system or its disk",
        "the batch system answers again",
    ]


def test_what_the_site_refuses_in_the_middle_is_said_to_whoever_waits(tmp_path):
    queue = Queue()

    def refuse(jobs, resources):
        raise InputError("account expired")

    queue.submit = refuse
    desk = desk_of(queue)
    handle = desk.submit(posting(tmp_path / "a"))
    desk.look()
    with pytest.raises(InputError, match="account expired"):
        _ = handle.ended


def test_a_folder_that_was_removed_stops_nobody_else(tmp_path):
    desk = desk_of(Queue())
    gone, here = desk.submit(posting(tmp_path / "a")), desk.submit(posting(tmp_path / "b"))
    (tmp_path / "a").rmdir()
    desk.look()
    with pytest.raises(StorageError, match="is gone"):
        _ = gone.ended
    assert here.id == "0"


def test_every_start_is_charged_once(tmp_path):
    told = []
    queue = Queue()
    desk = desk_of(queue, lambda *what: told.append(what))
    resources = Resources(nodes=2)
    desk.submit(posting(tmp_path / "a", resources))
    desk.look()
    queue.work("0")
    queue.die("0", End.WALLTIME)
    desk.look()
    for _ in range(STEPS - 1):
        queue.work("1")
    desk.look()
    desk.close()
    assert told == [("heliodor-a/0", 60, resources), ("heliodor-a/1", 60, resources)]


def test_the_thread_looks_by_itself_and_asks_once_for_all(tmp_path):
    queue = Queue()
    desk = Desk(queue, Cluster(poll=0.05))
    handles = [desk.submit(posting(tmp_path / f"{k}")) for k in range(20)]
    wait_until(lambda: len(queue.live()) == 20)
    for _ in range(STEPS):
        for i in queue.live():
            queue.work(i)
    before = queue.questions
    wait_until(lambda: all(handle.ended for handle in handles))
    assert queue.questions - before <= 5
    assert desk.close() == []


def wait_until(true, seconds=20):
    import time

    for _ in itertools.count():
        if true():
            return
        seconds -= 0.02
        assert seconds > 0
        time.sleep(0.02)


# --- claims --------------------------------------------------------------------------------------


def other(place="elsewhere/0/0"):
    return f"{place}|1|0.00|{'0' * 8}"


def test_one_claim_at_a_time(tmp_path):
    from heliodor.core.owner import new_owner

    ours, theirs = Claims(new_owner()), Claims(new_owner())
    claim = ours.take(tmp_path)
    assert claim.holds()
    assert theirs.take(tmp_path) is None
    claim.release()
    assert theirs.take(tmp_path).holds()
    assert not claim.holds()


def test_claims_of_other_machines_lapse_by_our_own_clock(tmp_path):
    import time

    from heliodor.core.owner import new_owner

    patient, hasty = Claims(new_owner(), patience=300), Claims(new_owner(), patience=0.02)
    (tmp_path / "claim.0").write_text(other())
    assert patient.take(tmp_path) is None
    assert hasty.take(tmp_path) is None, "seen for the first time: it may have been refreshed just now"
    time.sleep(0.05)
    assert patient.take(tmp_path) is None
    assert hasty.take(tmp_path) is not None


def test_claims_of_dead_processes_of_this_machine_are_taken_over(tmp_path):
    import subprocess
    import sys

    from heliodor.core.owner import new_owner

    code = "from heliodor.core.owner import new_owner; print(new_owner())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (tmp_path / "claim.4").write_text(gone.stdout.strip())
    assert Claims(new_owner()).take(tmp_path).path.name == "claim.5"
