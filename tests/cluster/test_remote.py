"""Stages whose work is done by jobs: the same results, nothing asked for twice, no death a loss."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from ase.build import bulk

from heliodor.cluster.collect import Program
from heliodor.cluster.desk import Desk
from heliodor.cluster.job_folder import RESULTS, JobFolder, Work, write_job
from heliodor.cluster.plain import plain, result_of
from heliodor.cluster.remote import GENERATE, RELAX, RemoteGenerator, RemoteRelaxer
from heliodor.cluster.scheduler import End, JobState, Phase, by_exit_code
from heliodor.cluster.settings import Cluster, Resources
from heliodor.core.choices.generators import FilesChoice
from heliodor.core.choices.relaxers import AseChoice
from heliodor.core.convert import from_atoms, to_atoms
from heliodor.core.errors import HeliodorError, InputError, StorageError
from heliodor.core.lock import working_in
from heliodor.core.records import Candidate, Conditions, Failure, Origin, Prepared, Reason, Relaxed
from heliodor.engines.batching import BatchSize
from heliodor.engines.driver import Driver
from heliodor.engines.guards import check_input
from heliodor.engines.messages import Order
from heliodor.engines.mlip import MlipRelaxer
from heliodor.engines.potentials import describe, load
from heliodor.flows.build import build_generator, build_relaxer
from heliodor.flows.job import STOPPED, main, work_on
from heliodor.testing import check_generator, check_relaxer, rock_salt

EMT = AseChoice(
    kind="ase",
    calculator="ase.calculators.emt:EMT",
    model="emt",
    elements=("Cu", "Au", "Al", "Ni"),
    corrections="own",
    cutoff=5.0,
)


def alloys(n=3):
    cells = [bulk(("Cu", "Au", "Al", "Ni")[k % 4], a=3.7 + 0.05 * k) for k in range(n)]
    for seed, atoms in enumerate(cells):
        atoms.rattle(0.02, seed=seed)
    return [from_atoms(atoms) for atoms in cells]


@functools.cache
def provenance():
    return describe("ase", EMT).provenance()


class Here(MlipRelaxer):
    """EMT without worker processes: the same steps in this one."""

    def __init__(self):
        self.name, self.model, self._info = "ase", describe("ase", EMT).model, describe("ase", EMT)
        self.provenance = provenance()

    def close(self):
        pass

    def relax(self, batch, ceilings=None):
        driver = Driver(load("ase", "cpu", EMT), EMT, BatchSize(1))
        for number, crystal in enumerate(batch):
            refused = check_input(crystal, self._info.elements, EMT.max_atoms)
            if refused is not None:
                yield refused
                continue
            driver.add(number, Order(crystal, "relax", ceilings[number] if ceilings else None))
        while driver.busy:
            for _, result in driver.step():
                yield result


class Threads:
    """A batch system whose nodes are threads. `program` works in a folder and gives its exit code."""

    def __init__(self, program=None):
        self.program = program or self.work
        self.jobs, self.codes, self.threads = {}, {}, {}

    def work(self, folder):
        try:
            return 0 if work_on(folder, 2, 0, threading.Event()) else STOPPED
        except HeliodorError as error:
            folder.refuse(error)
            return error.exit_code

    def check(self, resources):
        pass

    def submit(self, jobs, resources):
        ids = {}
        for job in jobs:
            number = ids[job.name] = str(len(self.jobs))
            self.jobs[number] = job.name
            self.threads[number] = threading.Thread(target=self._run, args=(number, job.folder))
            self.threads[number].start()
        return ids

    def _run(self, number, path):
        self.codes[number] = self.program(JobFolder(path))

    def find(self, names):
        return {name: i for i, name in self.jobs.items() if name in names and i not in self.codes}

    def states(self, ids):
        return {i: self._state(self.codes.get(i)) for i in ids}

    @staticmethod
    def _state(code):
        if code is None:
            return JobState(Phase.RUNNING)
        if isinstance(code, End):
            return JobState(Phase.ENDED, code, "as it was told")
        return JobState(Phase.ENDED, by_exit_code(code), f"exit code {code} on node7")


class Site:
    """A campaign's place: a batch system, a folder, and desks that come and go."""

    def __init__(self, root, program=None):
        self.root, self.queue = root, Threads(program)
        self.desks = []

    def desk(self, **changes):
        made = Desk(self.queue, Cluster(**{"poll": 0.02, "batch": 2, "resubmit": 1, **changes}))
        self.desks.append(made)
        return made

    def relaxer(self, local=None, **changes):
        local = local or Here()
        program = Program(("true",), self.root)
        return RemoteRelaxer(local, EMT, self.desk(**changes), Resources(), self.root / RELAX, program)

    def generator(self, choice, **changes):
        desk, place = self.desk(**changes), self.root / GENERATE
        local = build_generator(choice)
        return RemoteGenerator(local, choice, desk, Resources(), place, Program(("true",), self.root))

    def close(self):
        for desk in self.desks:
            desk.close()
        for thread in self.queue.threads.values():
            thread.join()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("heliodor.cluster.desk._GATHER", 0.02)
    monkeypatch.setattr("heliodor.flows.job.build_relaxer", lambda _choice, _workers: Here())
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path):
    from pymatgen.io.cif import CifWriter

    from heliodor.core.convert import to_structure

    for i, crystal in enumerate([rock_salt(), rock_salt(4.81, 20, 8), rock_salt(5.64, 11, 17)]):
        (tmp_path / f"{i}.cif").write_text(str(CifWriter(to_structure(crystal))))
    (tmp_path / "3.cif").write_text("data_x\n_cell_length_a")
    return FilesChoice(kind="files", paths=tuple(str(p) for p in sorted(tmp_path.glob("*.cif"))))


def same(a, b):
    """To the last bit, the wall time apart."""
    if isinstance(a, Failure) or isinstance(b, Failure):
        return a == b
    values = [{k: v for k, v in vars(x).items() if k not in ("seconds", "crystal")} for x in (a, b)]
    return values[0] == values[1] and a.crystal.to_bytes() == b.crystal.to_bytes()


# --- the contracts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["here", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_relaxer_by_jobs_is_the_relaxer(site, kind, monkeypatch):
    if kind == "workers":
        monkeypatch.setattr("heliodor.flows.job.build_relaxer", build_relaxer)
    local = Here() if kind == "here" else MlipRelaxer("ase", EMT, 1)
    remote = site.relaxer(local)
    assert (remote.name, remote.model, remote.provenance) == (
        local.name,
        local.model,
        local.provenance,
    )
    assert remote.supports(29)
    assert not remote.supports(8)
    check_relaxer(remote, alloys())
    there, here = ({r.key: r for r in relaxer.relax(alloys())} for relaxer in (remote, local))
    local.close()
    assert all(same(there[key], here[key]) for key in here)
    assert set(remote.hosts) >= set(here)


def test_a_generator_by_jobs_is_the_generator(site, files):
    remote, conditions = site.generator(files), Conditions()
    check_generator(remote, conditions)
    local = build_generator(files)
    assert remote.provenance == local.provenance
    whole = list(remote.generate(9, seed=1, conditions=conditions))
    assert whole == list(local.generate(9, seed=1, conditions=conditions))
    assert len(whole) == 4, "the stream ends where the files end"


def test_ceilings_go_with_the_crystals(site):
    [crystal] = alloys(1)
    remote = site.relaxer()
    [free], [held] = (list(remote.relax([crystal], [limit])) for limit in (None, -100.0))
    assert isinstance(free, Relaxed)
    assert len(site.queue.jobs) == 2, "another ceiling is another question"
    assert isinstance(held, Relaxed)


def test_records_survive_to_the_last_bit():
    crystal = rock_salt(math.pi)
    relaxed = Relaxed(
        "k", crystal, -0.1 - 0.2, 1e-300, math.nan, 3, True, "m", 0.1, "far", Prepared("c", 2, 0.3)
    )
    candidate = Candidate(crystal, Origin("g", "1", 5, 7, "why", "sha"))
    failure = Failure("k", Reason.MEMORY_LIMIT, "text", candidate.origin)
    for item in (relaxed, candidate, failure):
        again = result_of(json.loads(json.dumps(plain(item))))
        assert repr(again) == repr(item)
        if not isinstance(item, Failure):
            assert again.crystal.to_bytes() == crystal.to_bytes()


# --- another orchestrator ------------------------------------------------------------------------


def test_another_orchestrator_finds_what_is_there_whatever_it_asks_for(site):
    crystals = alloys(5)
    first = {r.key: r for r in site.relaxer().relax(crystals)}
    assert len(site.queue.jobs) == 3
    again = {r.key: r for r in site.relaxer(batch=5).relax(list(reversed(crystals)))}
    assert len(site.queue.jobs) == 3, "relaxed before"
    assert first == again
    list(site.relaxer().relax([*crystals, *alloys(6)]))
    assert len(site.queue.jobs) == 4, "one more crystal, one more job"


def test_jobs_in_flight_are_adopted(site):
    begun, go = threading.Semaphore(0), threading.Event()

    def waits(folder):
        begun.release()
        go.wait()
        return site.queue.work(folder)

    site.queue.program = waits
    crystals = alloys(6)
    killed = site.relaxer()
    stopped: list[Exception] = []

    def listen():
        try:
            list(killed.relax(crystals))
        except HeliodorError as error:
            stopped.append(error)

    listener = threading.Thread(target=listen)
    listener.start()
    for _ in range(3):
        assert begun.acquire(timeout=10)
    killed.close()
    listener.join()
    assert "was closed while its jobs were working" in str(stopped[0])
    assert len(site.desks[0].close()) == 3
    found = iter(site.relaxer(batch=4).relax(crystals))
    threading.Timer(0.3, go.set).start()
    assert {r.key for r in found} == {c.digest for c in crystals}
    assert len(site.queue.jobs) == 3


def test_a_failure_is_handed_out_once_so_that_it_can_be_tried_again(site):
    crystal = rock_salt()  # EMT knows neither element
    remote = site.relaxer()
    stream = remote.relax([crystal])
    assert next(stream).reason == Reason.ELEMENT
    del stream  # killed before it was recorded
    [failure] = remote.relax([crystal])
    assert failure.reason == Reason.ELEMENT
    assert len(site.queue.jobs) == 1
    [failure] = remote.relax([crystal])  # it was recorded: this is another attempt
    assert len(site.queue.jobs) == 2


# --- jobs that die -------------------------------------------------------------------------------


def dying(culprit, end):
    """A program that dies of one crystal: at once among others, or when its turn comes."""

    def program(folder):
        done = {record["id"] for record in folder.results()[0]}
        left = [id_ for id_ in folder.work.items if id_ not in done]
        folder.start()
        for id_ in left:
            if folder.alone:
                folder.start(id_)
            if id_ == culprit or (culprit in left and not folder.alone):
                return end
            with working_in(folder.path):
                folder.append(id_, plain(Relaxed(id_, rock_salt(), -1.0, 0, 0, 1, True, "emt")))
        folder.end(1)
        return 0

    return program


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End.OUT_OF_MEMORY, Reason.MEMORY_LIMIT),
        (139, Reason.WORKER_DIED),
        (End.WALLTIME, Reason.TIME_LIMIT),
    ],
)
def test_only_the_crystal_that_kills_a_job_fails(site, end, reason):
    crystals = alloys(6)
    culprit = crystals[2].digest
    site.queue.program = dying(culprit, end)
    found = {r.key: r for r in site.relaxer(batch=6).relax(crystals)}
    assert set(found) == {c.digest for c in crystals}
    assert [key for key, r in found.items() if isinstance(r, Failure)] == [culprit]
    assert found[culprit].reason == reason
    assert "its job ended" in found[culprit].detail


def test_positions_that_a_generating_job_leaves_are_failures(site, files):
    def program(folder):
        folder.start()
        return End.OUT_OF_MEMORY

    site.queue.program = program
    items = list(site.generator(files).generate(2, seed=1, conditions=Conditions()))
    assert [(i.reason, i.origin.index) for i in items] == [
        (Reason.GENERATION, 0),
        (Reason.GENERATION, 1),
    ]
    assert "out_of_memory" in items[0].detail


def test_jobs_that_never_begin_are_no_failures_of_crystals(site):
    def program(folder):
        (folder.path / "job.log").write_text("bash: line 1: module: command not found\n")
        return 127

    site.queue.program = program
    with pytest.raises(HeliodorError, match="before it began.*exit code 127.*module: command not found"):
        list(site.relaxer().relax(alloys(1)))


def test_a_node_with_another_version_is_refused_in_words(site):
    local = Here()
    local.provenance = {**local.provenance, "package": "ase of last year"}
    with pytest.raises(HeliodorError, match="package on the node .* is 'ase .*, but 'ase of last year'"):
        list(site.relaxer(local).relax(alloys(1)))


def test_a_full_disk_ends_with_a_word(site, tmp_path, capsys):
    """Of the kernel's: results go to a device that is always full."""
    work = Work(RELAX, {"relax": EMT.model_dump(mode="json"), "provenance": {}}, item(alloys(1)[0]))
    folder = write_job(tmp_path / RELAX, work)
    (folder.path / RESULTS).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"):
        folder.append("a", {})
    site.queue.program = lambda folder: folder.start() or 4
    with pytest.raises(StorageError, match="could not write"):
        list(site.relaxer().relax(alloys(1)))


# --- the folder and the program ------------------------------------------------------------------


def item(crystal):
    from heliodor.cluster.plain import crystal_text

    return {crystal.digest: {"crystal": crystal_text(crystal), "ceiling": None}}


def test_a_torn_line_does_not_count_and_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr("heliodor.flows.job.build_relaxer", lambda _choice, _workers: Here())
    crystals = alloys(3)
    items = {k: v for c in crystals for k, v in item(c).items()}
    shared = {"relax": EMT.model_dump(mode="json"), "provenance": {}}
    folder = write_job(tmp_path, Work(RELAX, shared, items))
    assert work_on(folder, 1, 0, threading.Event())
    whole = (folder.path / RESULTS).read_bytes()
    (folder.path / RESULTS).write_bytes(whole[:-20])
    (folder.path / "end.json").unlink()
    records, offset = folder.results()
    assert len(records) == 2
    assert work_on(folder, 1, 0, threading.Event())
    assert sorted(r["id"] for r in folder.results()[0]) == sorted(items)
    assert len(folder.results(offset)[0]) == 1
    assert folder.ended


def test_the_same_work_is_the_same_folder(tmp_path):
    work = Work(RELAX, {"a": 1}, {"x": None})
    assert write_job(tmp_path, work) == write_job(tmp_path, Work(RELAX, {"a": 1}, {"x": None}))
    assert write_job(tmp_path, Work(RELAX, {"a": 1}, {"x": None}, 1)) != write_job(tmp_path, work)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    elsewhere = write_job(tmp_path / "b", work)
    assert elsewhere.path.name == work.digest
    assert elsewhere.name != write_job(tmp_path, work).name, "another campaign's job is another job"


def test_a_folder_without_work(tmp_path):
    with pytest.raises(InputError, match="no work in"):
        work_on(JobFolder(tmp_path), 1, 0, threading.Event())


def test_the_program_needs_no_prefect_no_database_and_no_network(tmp_path, files):
    """In a process that can make no socket but those that its own workers are met by."""
    shared = {GENERATE: files.model_dump(mode="json"), "provenance": {}, "seed": 1}
    conditions = {"elements": [], "require_all": True, "max_atoms": 20, "composition": []}
    folder = write_job(
        tmp_path, Work(GENERATE, {**shared, "conditions": conditions}, {"0": None, "5": None})
    )
    code = """
import socket, sys
class Refused(socket.socket):
    def connect(self, *a): raise SystemExit(f"connects to {a}")
socket.socket = Refused
from heliodor.flows.job import main
assert main(sys.argv[1:]) == 0
found = {"prefect", "sqlalchemy", "heliodor.core.ledger", "heliodor.core.database"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=True, timeout=120)
    types = {record["id"]: record["type"] for record in folder.results()[0]}
    assert types == {"0": "Candidate", "5": "Exhausted"}


@pytest.mark.slow
def test_a_signal_ends_it_after_the_crystals_at_hand(tmp_path):
    """SIGUSR1 as before a walltime: exit code 75; run again it goes on, and nothing is done twice."""
    import signal
    import time

    crystals = [from_atoms(rattled(k)) for k in range(6)]
    items = {k: v for c in crystals for k, v in item(c).items()}
    choice = EMT.model_copy(update={"fmax": 1e-3, "smax": 1e-4})
    shared = {"relax": choice.model_dump(mode="json"), "provenance": {}}
    folder = write_job(tmp_path, Work(RELAX, shared, items))
    command = [sys.executable, "-m", "heliodor.flows.job", str(folder.path), "--workers", "2"]
    process = subprocess.Popen(command)
    while not folder.results()[0]:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == STOPPED
    at_hand = len(folder.results()[0])
    assert 1 <= at_hand <= 4
    assert main([str(folder.path), "--workers", "2"]) == 0
    ids = [record["id"] for record in folder.results()[0]]
    assert sorted(ids) == sorted(items)
    assert not any(record["type"] == "Failure" for record in folder.results()[0])


def rattled(seed):
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=seed)
    assert np.isfinite(to_atoms(from_atoms(atoms)).positions).all()
    return atoms
