"""What one process spends, by its meter."""

import time
from types import SimpleNamespace

import pytest

from heliodor.core.database import Database
from heliodor.core.journal import Journal
from heliodor.tasks.meter import HOUR, Meter

SECOND = 1 / HOUR


@pytest.fixture
def journal(tmp_path):
    import sqlalchemy as sa

    database = Database(f"sqlite:///{tmp_path / 'l.sqlite'}")
    with database.write() as connection:
        connection.execute(
            sa.text(
                "insert into campaign (id, name, science_digest, spec, created_at)"
                " values (1, 'c', '', '', 0)"
            )
        )
    return Journal(database, 1)


def test_overlapping_work_counts_once_and_idle_time_not(journal, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Meter(journal, "run a")
    two, four = SimpleNamespace(gpus=2), SimpleNamespace(gpus=4)
    clock[0] += 1000  # nothing runs
    with meter.using(two):
        clock[0] += 10
        with meter.using(four), meter.using():
            clock[0] += 10
        meter.beat()  # a kill from here on loses what comes now
        assert journal.spent()["gpu_hours"] == pytest.approx(60 * SECOND)
        clock[0] += 5
    with meter.using():
        clock[0] += 7
    clock[0] += 1000
    meter.beat()
    spent = journal.spent()
    assert spent["node_hours"] == pytest.approx(32 * SECOND)
    assert spent["gpu_hours"] == pytest.approx(70 * SECOND)


def test_the_number_of_gpus_is_asked_for_when_it_is_known(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Meter(journal, "run a")
    pool = SimpleNamespace(gpus=0)
    with meter.using(pool):
        clock[0] += 30
        pool.gpus = 8  # its first worker has said so
    meter.beat()
    assert journal.spent()["gpu_hours"] == pytest.approx(240 * SECOND)


def test_what_works_elsewhere_is_not_counted_here(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Meter(journal, "run a")
    with meter.using(SimpleNamespace(remote=True, gpus=8)):
        clock[0] += 50
    meter.beat()
    assert journal.spent() == {}


def test_two_runs_add_up(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for key in ("run a", "run b"):
        meter = Meter(journal, key)
        for _ in range(3):
            with meter.using():
                clock[0] += 60
            meter.beat()
    assert journal.spent() == {"node_hours": pytest.approx(0.1)}
