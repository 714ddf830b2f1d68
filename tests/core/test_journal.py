"""The journal of a campaign, on both kinds of database."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from heliodor.core.database import Database
from heliodor.core.journal import Journal, Kind

NAME = (
    "insert into campaign (id, name, science_digest, spec, created_at) values ({0}, 'c{0}', '', '', 0)"
)


@pytest.fixture
def database(ledger_url):
    database = Database(ledger_url)
    with database.write() as connection:
        for number in (1, 2):
            connection.execute(sa.text(NAME.format(number)))
    return database


def test_the_first_entry_of_a_key_stays(database):
    journal = Journal(database, 1)
    assert journal.add(Kind.SPENT, "job-1", {"gpu_hours": 1.5, "node_hours": 0.5})
    assert not journal.add(Kind.SPENT, "job-1", {"gpu_hours": 9})
    assert journal.add(Kind.SPENT, "job-2", {"gpu_hours": 0.25})
    assert journal.add(Kind.DECISION, "job-1", {"approved": True})
    assert journal.spent() == {"gpu_hours": 1.75, "node_hours": 0.5}
    assert [e.data for e in journal.entries(Kind.DECISION)] == [{"approved": True}]


def test_campaigns_are_apart(database):
    Journal(database, 1).add(Kind.SPENT, "j", {"dft_jobs": 1})
    assert Journal(database, 2).spent() == {}


def test_many_writers_and_one_stays(database):
    journal = Journal(database, 1)
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda i: journal.add(Kind.NOTICE, "told", {"by": i}), range(40)))
    assert sum(added) == 1
    assert len(journal.entries(Kind.NOTICE)) == 1


def test_a_ledger_from_before_gains_the_table(tmp_path):
    path = tmp_path / "old.sqlite"
    database = Database(f"sqlite:///{path}")
    with database.write() as connection:
        connection.execute(sa.text(NAME.format(1)))
        connection.execute(sa.text("drop table journal"))
        connection.execute(sa.text("update alembic_version set version_num = '0001'"))
    database.close()
    again = Journal(Database(f"sqlite:///{path}", create=False), 1)
    assert again.add(Kind.RUN, "a", {})


def test_a_meter_says_its_total_anew(database):
    journal = Journal(database, 1)
    journal.meter("run-a", {"node_hours": 1.0})
    journal.meter("run-b", {"node_hours": 0.5, "gpu_hours": 0.25})
    journal.meter("run-a", {"node_hours": 1.5})
    assert journal.spent() == {"node_hours": 2.0, "gpu_hours": 0.25}
    assert len(journal.entries(Kind.SPENT)) == 2


def test_takers_never_get_more_than_there_is(database):
    journal = Journal(database, 1)
    journal.meter("run-a", {"node_hours": 7})
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda i: journal.take(f"dft {i}", "dft_jobs", 5), range(12)))
    assert sum(granted) == 5
    assert journal.spent()["dft_jobs"] == 5
    again = [journal.take(f"dft {i}", "dft_jobs", 5) for i in range(12)]
    assert again == granted, "what was paid for is not paid for twice"
    assert journal.take("dft 99", "dft_jobs", None)
