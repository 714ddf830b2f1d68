# ruff: noqa: DTZ001, DTZ901 - MongoDB's dates have no time zone
"""The SQLite job store: agreement with MemoryStore, jobflow on it, kills, several writers, errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jobflow")

import bson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobflow import Flow, JobStore, Response, job, run_locally
from maggma.core import Sort, StoreError
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from heliodor.core.errors import StorageError
from heliodor.engines import document_file
from heliodor.engines.document_json import decode, encode
from heliodor.engines.job_store import SqliteStore


def opened(path: Path, name: str = "jobs", key: str = "uuid") -> SqliteStore:
    store = SqliteStore(path, name, key=key)
    store.connect()
    return store


def memory(key: str = "uuid") -> MemoryStore:
    store = MemoryStore(key=key)
    store.connect()
    return store


@pytest.fixture
def store(tmp_path):
    return opened(tmp_path / "jobs.sqlite")


def plain(documents):
    """Without `_id`, comparable where NaN is."""
    return [repr({k: v for k, v in d.items() if k != "_id"}) for d in documents]


# --- documents -------------------------------------------------------------------------------------

_FIELDS = ("uuid", "index", "a", "b", "tags")
_texts = st.sampled_from(["", "x", "y", "[x", "ü", "$x", "1", "\U0001f600"])
_numbers = st.one_of(
    st.integers(-2, 3), st.sampled_from([1.0, 0.5, -0.0, float("nan"), float("inf"), 2**53, 2**62])
)
_dates = st.datetimes(
    datetime(2020, 1, 1), datetime(2021, 1, 1), timezones=st.none() | st.just(UTC)
).map(lambda date: date.replace(fold=0))
_scalars = st.none() | st.booleans() | _numbers | _texts | _dates | st.binary(max_size=3)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "0", "$date", "$x"]), inner, max_size=2)
    ),
    max_leaves=6,
)
_documents = st.fixed_dictionaries(
    {"uuid": st.sampled_from(["u", "v", "w"]), "index": st.integers(1, 3)},
    optional={"a": _values, "b": _values, "tags": st.lists(_texts, max_size=3)},
)
_paths = st.sampled_from([*_FIELDS, "a.b", "a.0", "b.a.b", "missing"])
_tests = st.one_of(
    _scalars,
    _texts.map(lambda v: {"$eq": v}),
    st.lists(_texts | st.integers(-2, 3) | st.none(), max_size=3).map(lambda v: {"$in": v}),
    st.lists(_texts, max_size=2).map(lambda v: {"$nin": v}),
    st.integers(-1, 3).map(lambda v: {"$gte": v}),
    st.integers(-1, 3).map(lambda v: {"$ne": v}),
    st.booleans().map(lambda v: {"$exists": v}),
    st.just({"$regex": "^x"}),
    st.integers(0, 2).map(lambda v: {"$size": v}),
    _texts.map(lambda v: {"$in": [v], "$ne": "x"}),
)
_simple = st.dictionaries(_paths, _tests, max_size=2)
_criteria = _simple | st.lists(_simple, min_size=1, max_size=2).flatmap(
    lambda parts: st.sampled_from(["$and", "$or"]).map(lambda word: {word: parts})
)
_properties = st.one_of(
    st.none(),
    st.lists(_paths, max_size=2, unique=True).filter(
        lambda names: not {"a", "a.b", "a.0"} <= set(names)
    ),
    st.sampled_from([{"a": 0}, {"a": 1, "_id": 0}, {"a.b": 1, "index": True}, {"tags": {"$slice": 1}}]),
)
_orders = st.none() | st.dictionaries(_paths, st.sampled_from([1, -1, Sort.Descending]), max_size=2)


def told(call):
    """The answer, or the type of the error."""
    try:
        return call()
    except Exception as error:
        return type(error)


@st.composite
def _questions(draw):
    """Criteria, and what else a query takes."""
    return draw(st.none() | _criteria), {
        "properties": draw(_properties),
        "sort": draw(_orders),
        "skip": draw(st.integers(0, 2)),
        "limit": draw(st.integers(0, 3)),
    }


def collides(properties) -> bool:
    """Whether a field is asked for beside a part of it."""
    names = list(properties or ())
    return any(b.startswith(f"{a}.") for a in names for b in names)


def agree(batches, questions, indexed):
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = opened(Path(folder) / "s"), memory()
        opened(Path(folder) / "s", "other").update([{"uuid": "u", "index": 1, "a": "x"}])
        for field in indexed:
            assert ours.ensure_index(field) == (field != "a.0")
        for batch in batches:
            for each in (ours, theirs):
                each.update(batch, key=["uuid", "index"])
        for criteria, asked in questions:
            if collides(asked["properties"]):
                continue  # which is refused, but by mongomock even where there is nothing to project
            expected = told(lambda c=criteria, a=asked: plain(theirs.query(c, **a)))
            if expected is not AttributeError:  # mongomock stumbles over `[None]`, also past the limit
                assert told(lambda c=criteria, a=asked: plain(ours.query(c, **a))) == expected
            found, right = (told(lambda e=e, c=criteria: aside(e, c)) for e in (ours, theirs))
            assert found == right
        criteria = questions[0][0] or {}
        if told(lambda: theirs.remove_docs(criteria)) is None:
            ours.remove_docs(criteria)
            assert plain(ours.query()) == plain(theirs.query())


def aside(store, criteria):
    """What is not a query."""
    groups = store.groupby(["uuid", "index"], criteria, properties=["a"])
    return (
        told(lambda: store.count(criteria)),
        [repr(told(lambda f=field: store.distinct(f, criteria))) for field in ("uuid", "tags", "a.b")],
        told(lambda: [(key, plain(group)) for key, group in groups]),
    )


_stored = st.lists(st.lists(_documents, max_size=5), min_size=1, max_size=3)
_asked = st.lists(_questions(), min_size=1, max_size=8)
_indexed = st.lists(_paths, max_size=2)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=_stored, questions=_asked, indexed=_indexed)
def test_it_answers_as_a_memory_store(batches, questions, indexed):
    agree(batches, questions, indexed)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=_stored, questions=_asked, indexed=_indexed)
def test_it_always_answers_as_a_memory_store(batches, questions, indexed):
    agree(batches, questions, indexed)


def test_what_jobflow_asks(store):
    theirs = memory()
    documents = [{"uuid": u, "index": i, "output": {"n": i, "of": u}} for u in "uvw" for i in (2, 1, 3)]
    for each in (store, theirs):
        each.update(documents, key=["uuid", "index"])
    for criteria in ({"uuid": "v"}, {"uuid": "v", "index": 1}, {"uuid": {"$in": ["u", "w"]}}, {}):
        for properties in (None, ["output", "uuid", "index"], ["index"], ["output.n"]):
            for sort in (None, {"index": -1}, {"index": 1, "uuid": -1}, {"output.n": 1}):
                asked = {"properties": properties, "sort": sort}
                right = plain(theirs.query(criteria, **asked))
                assert plain(store.query(criteria, **asked)) == right
                assert len(right) == theirs.count(criteria) > 0


@settings(max_examples=60, deadline=None)
@given(
    document=st.dictionaries(
        st.text(max_size=4).filter(lambda key: "\0" not in key), _values, max_size=4
    )
)
def test_text_of_a_document_is_json_that_reads_back(document):
    text = encode(document)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)  # NaN is not JSON, and SQLite would not read it
    scratch = memory()
    scratch._collection.insert_many([{"document": document}])
    assert repr(decode(text)) == repr(scratch.query_one()["document"])


def test_what_mongodb_knows_beside_json_survives(store):
    east = timezone(timedelta(hours=5))
    oid = bson.ObjectId()
    document = {
        "uuid": "u",
        "date": datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=east),
        "oid": oid,
        "bytes": b"\x00\xff",
        "forces": np.array([[0.1, float("nan")], [float("-inf"), 1e-300]]),
        "sites": (1, 2),
        "literal": {"$date": "not ours"},
    }
    theirs = memory()
    for each in (store, theirs):
        each.update(document)
    assert plain(store.query()) == plain(theirs.query())
    (found,) = store.query()
    assert found["date"] == datetime(2024, 5, 1, 7, 0, 0, 123000)
    assert found["oid"] == oid
    assert isinstance(found["_id"], bson.ObjectId)


@pytest.mark.parametrize(
    "bad", [{"uuid": "u", "n": 2**70}, {"uuid": "u", "$x": 1}, {"uuid": "u", "a\0": 1}, {"a": 1}]
)
def test_what_mongodb_refuses_is_refused_and_nothing_is_stored(store, bad):
    with pytest.raises(Exception) as ours:
        store.update([{"uuid": "good"}, bad])
    with pytest.raises(Exception) as theirs:
        memory().update([bad])
    assert ours.type in {theirs.type, bson.errors.InvalidDocument}
    assert store.count() == 0


def test_a_replaced_document_keeps_its_id_and_place(store):
    store.update([{"uuid": "u", "n": 1}, {"uuid": "v"}])
    before = store.query_one({"uuid": "u"})["_id"]
    store.update({"uuid": "u", "n": 2})
    assert [d["uuid"] for d in store.query()] == ["u", "v"]
    assert store.query_one({"uuid": "u"}) == {"_id": before, "uuid": "u", "n": 2}
    assert [d["n"] for d in store.query({"_id": before})] == [2]


def test_newer_documents(tmp_path):
    ours, target = opened(tmp_path / "a"), opened(tmp_path / "b")
    assert ours.last_updated == datetime.min
    day = datetime(2024, 1, 1)
    ours.update([{"uuid": "u", "last_updated": day}, {"uuid": "v", "last_updated": day}])
    target.update(
        [{"uuid": "u", "last_updated": day + timedelta(1)}, {"uuid": "w", "last_updated": day}]
    )
    assert ours.last_updated == day
    assert ours.newer_in(target) == ["u"]
    assert sorted(ours.newer_in(target, exhaustive=True)) == ["u", "w"]


def test_collections_of_one_file_are_apart(tmp_path):
    jobs, data = opened(tmp_path / "s", "jobs"), opened(tmp_path / "s", "Jobs")
    jobs.update({"uuid": "u", "n": 1})
    data.update({"uuid": "u", "n": 2})
    jobs.remove_docs({})
    assert (jobs.count(), data.count()) == (0, 1)
    assert jobs != data
    assert jobs == SqliteStore(tmp_path / "s", "jobs")
    assert len({jobs, data, SqliteStore(tmp_path / "s", "jobs")}) == 2


def test_a_query_does_not_keep_writers_out(store):
    store.update([{"uuid": str(i)} for i in range(70)])
    found = []
    for document in store.query():  # jobflow removes blobs in such a loop
        store.remove_docs({"uuid": document["uuid"]})
        found.append(document)
    assert len(found) == 70
    assert store.count() == 0


def test_lookup_by_an_indexed_field_reads_no_other_row(store):
    store.update([{"uuid": str(i), "index": 1} for i in range(50)], key=["uuid", "index"])
    with store._file.reading() as connection:
        plans = []
        connection.set_trace_callback(plans.append)
        rows = document_file.candidates(connection, "jobs", {"uuid": "7", "index": 1})
        connection.set_trace_callback(None)
        (query,) = [text for text in plans if text.startswith("SELECT id FROM document")]
        plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query).fetchall())
    assert rows == [8]
    assert "document.uuid (collection=? AND <expr>=?)" in plan
    assert "SCAN document" not in plan
    with pytest.raises(NotImplementedError, match="unique"):
        store.ensure_index("name", unique=True)


# --- where it lives ---------------------------------------------------------------------------------


def test_it_can_be_named_in_json_and_pickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = JobStore(
        SqliteStore("jobs.sqlite", "jobs"),
        additional_stores={"data": SqliteStore("jobs.sqlite", "data")},
    )
    monkeypatch.chdir("/")
    again = json.loads(json.dumps(store, cls=MontyEncoder), cls=MontyDecoder)
    assert again.docs_store == store.docs_store == pickle.loads(pickle.dumps(store.docs_store))  # noqa: S301
    assert again.docs_store.key == "uuid"
    assert again.additional_stores["data"].key == "blob_uuid"
    assert again.docs_store.name == f"sqlite://{tmp_path}/jobs.sqlite/jobs"
    with again:
        again.update({"uuid": "u", "index": 1})
    assert (tmp_path / "jobs.sqlite").is_file()


def test_before_connect_and_after_close(tmp_path):
    store = SqliteStore(tmp_path / "s", "jobs", key="uuid")
    for call in (store.count, lambda: store.update({"uuid": "u"}), lambda: store.remove_docs({})):
        with pytest.raises(StoreError, match="connect"):
            call()
    with store:
        store.update({"uuid": "u"})
    with pytest.raises(StoreError, match="connect"):
        store.query_one()
    with store:
        assert store.count() == 1


def test_threads_and_a_forked_child_use_one_store(store):
    def write(first):
        for i in range(first, first + 10):
            store.update({"uuid": str(i), "index": 1}, key=["uuid", "index"])

    threads = [threading.Thread(target=write, args=(100 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = multiprocessing.get_context("fork").Process(target=write, args=(1000,))
    child.start()
    write(2000)
    child.join()
    assert child.exitcode == 0
    assert store.count() == 50


# --- jobflow ------------------------------------------------------------------------------------------


@job(data="big")
def grow(n):
    return {"big": list(range(n)), "n": n}


@job
def total(numbers):
    return {"sum": sum(numbers)}


@job
def halve(x):
    if x > 1:
        return Response(replace=halve(x // 2))
    return Response(output={"last": x}, stored_data={"note": "done"})


@job
def turn(x):
    return Response(output=x, detour=total([x, x]))


def test_a_flow_runs_on_it_and_another_process_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "jobs.sqlite"
    stores = SqliteStore("jobs.sqlite", "jobs"), SqliteStore("jobs.sqlite", "data")
    store = JobStore(stores[0], additional_stores={"data": stores[1]})
    first = grow(2000)
    added = total(first.output["big"])
    halved, turned = halve(8), turn(added.output["sum"])
    flow = Flow([first, added, halved, turned])
    run_locally(flow, store=store, create_folders=True, ensure_success=True, log=False)
    assert store.count({"uuid": halved.uuid}) == 4  # three replacements
    assert store.count() == 8  # and the detour's job
    assert stores[1].count() == 1
    assert len(repr(stores[0].query_one({"uuid": first.uuid}))) < 2000
    script = (
        "import json, sys\n"
        "from monty.json import MontyDecoder\n"
        "store = json.loads(sys.argv[1], cls=MontyDecoder)\n"
        "store.connect()\n"
        "print(json.dumps([store.get_output(u, load=True) for u in sys.argv[2:]]))\n"
    )
    uuids = [first.uuid, added.uuid, halved.uuid, turned.uuid]
    command = [sys.executable, "-c", script, json.dumps(store, cls=MontyEncoder), *uuids]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    number = sum(range(2000))
    assert json.loads(told.stdout) == [
        {"big": list(range(2000)), "n": 2000},
        {"sum": number},
        {"last": 1},
        number,
    ]
    store.remove_docs({"uuid": first.uuid})
    assert stores[1].count() == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [path.name]


# --- several writers, and kills ---------------------------------------------------------------------


def _write(path, name, count):
    store = opened(path)
    for i in range(count):
        store.update({"uuid": f"{name}-{i}", "index": 1, "n": i}, key=["uuid", "index"])
        store.update({"uuid": "shared", "index": 1, "by": name, "n": i}, key=["uuid", "index"])


@pytest.mark.slow
def test_two_writers_lose_nothing(tmp_path):
    path, context = tmp_path / "jobs.sqlite", multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, name, 500)) for name in "ab"]
    for writer in writers:
        writer.start()  # both make the file
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = opened(path)
    assert store.count() == 1001
    assert {d["uuid"] for d in store.query()} == {f"{n}-{i}" for n in "ab" for i in range(500)} | {
        "shared"
    }
    assert store.query_one({"uuid": "shared"})["n"] == 499  # the last writer's last


_ENDLESS = """
import sys
from heliodor.engines.job_store import SqliteStore
store = SqliteStore(sys.argv[1], "jobs", key="uuid")
store.connect()
print("ready", flush=True)
for batch in range(10**6):
    store.update([{"uuid": f"{batch}-{i}", "batch": batch, "text": "x" * 20000} for i in range(20)])
    print(batch, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 7, 23, 61, 140])
def test_a_killed_writer_leaves_whole_batches(tmp_path, milliseconds):
    path = tmp_path / "jobs.sqlite"
    command = [sys.executable, "-c", _ENDLESS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            if line.strip() == "2":
                break
        time.sleep(milliseconds / 1000)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.stdout]
    store = opened(path)
    batches = [d["batch"] for d in store.query(properties=["batch"])]
    last = max(told, default=2)
    assert set(batches) >= set(range(last + 1)), "what was told as stored is there"
    assert all(batches.count(batch) == 20 for batch in set(batches))
    store.update({"uuid": "after"})
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [p.name for p in tmp_path.iterdir()] == ["jobs.sqlite"]


# --- errors ------------------------------------------------------------------------------------------


def test_files_that_are_not_ours(tmp_path):
    (tmp_path / "text").write_text("uuid: 1\n" * 1000)
    with pytest.raises(StorageError, match=r"text is not a SQLite database"):
        opened(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE users (name)")
    with pytest.raises(StorageError, match="another program"):
        opened(tmp_path / "other")
    opened(tmp_path / "newer").update({"uuid": "u"})
    with sqlite3.connect(tmp_path / "newer") as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(
        StorageError, match="has format 9, written by a newer Heliodor; this one knows 1"
    ):
        opened(tmp_path / "newer")
    with pytest.raises(StorageError, match="cannot be opened"):
        opened(tmp_path / "no" / "folder")
    with pytest.raises(StorageError, match="cannot be opened"):
        opened(tmp_path)


def test_a_file_that_is_gone_is_not_made_anew(tmp_path, store):
    (tmp_path / "jobs.sqlite").unlink()
    with pytest.raises(StorageError, match="cannot be opened"):
        store.update({"uuid": "u"})
    assert not (tmp_path / "jobs.sqlite").exists()


def test_a_damaged_file(tmp_path, store):
    store.update([{"uuid": str(i), "text": "x" * 3000} for i in range(50)])
    size = (tmp_path / "jobs.sqlite").stat().st_size
    with (tmp_path / "jobs.sqlite").open("r+b") as file:
        file.seek(size // 4)
        file.write(os.urandom(size // 2))
    with pytest.raises(StorageError, match="is damaged"):
        list(store.query())


def test_a_changed_number_is_noticed(tmp_path, store):
    store.update({"uuid": "u", "energy": -10.25})
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(path.read_bytes().replace(b"-10.25", b"-90.25"))
    with pytest.raises(StorageError, match="document 1 is damaged"):
        store.query_one({"uuid": "u"})


def test_a_full_disk(store, monkeypatch):
    store.update({"uuid": "kept"})
    real = sqlite3.connect

    def small(*args, **kwargs):
        connection = real(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 20")  # SQLite's own way to SQLITE_FULL
        return connection

    monkeypatch.setattr(document_file.sqlite3, "connect", small)
    with pytest.raises(StorageError, match="the disk is full"):
        store.update([{"uuid": str(i), "text": "x" * 10_000} for i in range(20)])
    assert [d["uuid"] for d in store.query()] == ["kept"]


def test_another_process_holds_it_too_long(tmp_path, store, monkeypatch):
    monkeypatch.setattr(document_file, "_BUSY", 0.05)
    with sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="held by another process"):
            store.update({"uuid": "u"})
        assert store.count() == 0  # reading is allowed


def test_read_only_is_read_and_not_written():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "jobs.sqlite"
        store = opened(path)
        store.update({"uuid": "u"})
        path.chmod(0o444)
        Path(name).chmod(0o555)
        pid = os.fork()
        if pid == 0:  # as nobody, for root may write anywhere
            os._exit(_read_only_child(store))
        Path(name).chmod(0o755) if os.waitpid(pid, 0)[1] == 0 else pytest.fail("see the child's message")


def _read_only_child(store) -> int:
    try:
        if os.geteuid() == 0:
            os.setuid(65534)
        store.connect(force_reset=True)
        assert store.count({"uuid": "u"}) == 1
        with pytest.raises(StorageError, match="cannot be written to"):
            store.update({"uuid": "v"})
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        return 1
    return 0
