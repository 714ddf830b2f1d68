from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from heliodor.core import schema
from heliodor.core.campaign import parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.database import Database
from heliodor.core.errors import InputError, StorageError
from heliodor.core.ledger import Ledger
from heliodor.core.records import Candidate, Failure, Origin, Outcome, Reason, Stage, Status

PROVENANCE = ("p1", {"test": True})
CAMPAIGN = {"name": "t", "generator": {"kind": "random"}}


def candidate(i: int) -> Candidate:
    crystal = Crystal(np.eye(3) * (4 + 0.01 * i), [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    return Candidate(crystal, Origin("test", "1", 0, i))


def open_ledger(url: str, **options) -> Ledger:
    return Ledger(Database(url), parse_campaign(CAMPAIGN), **options)


def fill(ledger: Ledger, n: int) -> range:
    ledger.add([(i, candidate(i)) for i in range(n)], PROVENANCE)
    return range(n)


def passed(stage: Stage, slots, **extra) -> list[Outcome]:
    return [Outcome(s, stage, Status.PASSED, **extra) for s in slots]


def test_migrations_make_the_tables_of_the_schema(ledger_url):
    database = Database(ledger_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_opening_twice_changes_nothing(ledger_url):
    fill(open_ledger(ledger_url), 3)
    assert len(open_ledger(ledger_url).candidates(range(5))) == 3


def test_a_ledger_of_a_newer_version_is_refused_and_kept(ledger_url):
    fill(open_ledger(ledger_url), 3)
    database = Database(ledger_url)
    with database.write() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StorageError, match="newer version"):
        Database(ledger_url)
    with database.write() as connection:
        connection.execute(sa.text(f"update alembic_version set version_num = '{schema.HEAD}'"))
    assert len(open_ledger(ledger_url).candidates(range(5))) == 3


def test_what_goes_in_comes_out(ledger_url):
    ledger = open_ledger(ledger_url)
    fill(ledger, 2)
    data = {"energy": -1.2345678901234567, "text": "ok"}
    ledger.record(
        [Outcome(1, Stage.SCREEN, Status.PASSED, data=data, crystal=candidate(5).crystal)], PROVENANCE
    )
    (outcome,) = ledger.outcomes(Stage.SCREEN)
    assert outcome.data == data
    assert outcome.crystal == candidate(5).crystal
    assert outcome.provenance == "p1"
    assert abs(outcome.at - time.time()) < 60
    assert ledger.candidates([1])[1] == candidate(1)
    assert ledger.provenances() == {"p1": {"test": True}}


def test_add_and_record_keep_the_first(ledger_url):
    ledger = open_ledger(ledger_url)
    fill(ledger, 2)
    ledger.add([(0, candidate(9))], PROVENANCE)
    assert ledger.candidates([0])[0] == candidate(0)
    ledger.record(passed(Stage.SCREEN, [0], data={"n": 1}), PROVENANCE)
    ledger.record([Outcome(0, Stage.SCREEN, Status.REJECTED, Reason.KNOWN)], PROVENANCE)
    (outcome,) = ledger.outcomes(Stage.SCREEN)
    assert outcome.status is Status.PASSED


def test_stages_follow_one_another(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = fill(ledger, 4)
    assert ledger.claim(Stage.RELAX, slots, 10) == []
    work = ledger.claim(Stage.SCREEN, slots, 10)
    assert [w.slot for w in work] == [0, 1, 2, 3]
    assert ledger.claim(Stage.SCREEN, slots, 10) == []
    outcomes = [*passed(Stage.SCREEN, [0, 2]), Outcome(1, Stage.SCREEN, Status.REJECTED, Reason.KNOWN)]
    ledger.record(outcomes, PROVENANCE)
    assert [w.slot for w in ledger.claim(Stage.RELAX, slots, 10)] == [0, 2]
    assert ledger.unfinished(slots, Stage.SCREEN) == 1
    assert ledger.unfinished(slots, Stage.RELAX) == 3
    assert ledger.counts()[Stage.SCREEN, Status.REJECTED, Reason.KNOWN] == 1


def test_a_later_failure_does_not_hide_what_stands(ledger_url):
    ledger = open_ledger(ledger_url)
    fill(ledger, 4)
    refuted, lost = (Status.REJECTED, Reason.UNSTABLE), (Status.FAILED, Reason.DFT_KILLED)
    passed_, again = (Status.PASSED, None), (Status.FAILED, Reason.DFT_FAILED)
    tried = {
        0: [passed_, lost],
        1: [passed_, lost, refuted],
        2: [lost, again],
        3: [refuted, lost, again],
    }
    for slot, ways in tried.items():
        for attempt, (status, reason) in enumerate(ways, 1):
            ledger.record([Outcome(slot, Stage.VERIFY, status, reason, attempt)], PROVENANCE)
    standing = {o.slot: (o.attempt, o.status) for o in ledger.outcomes(Stage.VERIFY)}
    assert standing == {
        0: (1, Status.PASSED),
        1: (3, Status.REJECTED),
        2: (2, Status.FAILED),
        3: (1, Status.REJECTED),
    }
    failed = {o.slot: (o.attempt, o.reason) for o in ledger.failed_since(Stage.VERIFY, range(4))}
    assert failed == {0: (2, Reason.DFT_KILLED), 3: (3, Reason.DFT_FAILED)}
    counts = {key[1:]: n for key, n in ledger.counts().items() if key[0] is Stage.VERIFY}
    assert counts == {
        (Status.PASSED, None): 1,
        (Status.REJECTED, Reason.UNSTABLE): 2,
        (Status.FAILED, Reason.DFT_FAILED): 1,
    }


def test_generation_stops_at_the_generators_end(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = range(10)
    assert ledger.claim_generate(slots, 4) == [0, 1, 2, 3]
    assert ledger.claim_generate(slots, 4) == [4, 5, 6, 7]
    unreadable = Failure("", Reason.UNREADABLE, "truncated", Origin("files", "1", 0, 2, "x.cif"))
    end = Failure("", Reason.EXHAUSTED)
    ledger.add([(0, candidate(0)), (1, candidate(1)), (2, unreadable), (3, end)], PROVENANCE)
    assert ledger.claim_generate(slots, 4) == []
    assert ledger.exhausted_at() == 3
    assert ledger.unfinished(slots, Stage.SCREEN) == 2
    assert [w.slot for w in ledger.claim(Stage.SCREEN, slots, 9, ordered=True)] == [0, 1]
    (failure,) = [o for o in ledger.outcomes(Stage.GENERATE) if o.reason == Reason.UNREADABLE]
    assert failure.data == {"detail": "truncated", "source": "x.cif"}


def test_ordered_claims_wait_for_earlier_slots_and_for_each_other(ledger_url):
    ledger, other = open_ledger(ledger_url), open_ledger(ledger_url)
    slots = range(6)
    ledger.add([(i, candidate(i)) for i in (0, 1, 3, 4, 5)], PROVENANCE)
    work = ledger.claim(Stage.SCREEN, slots, 10, ordered=True)
    assert [w.slot for w in work] == [0, 1]
    ledger.add([(2, candidate(2))], PROVENANCE)
    assert other.claim(Stage.SCREEN, slots, 10, ordered=True) == []
    ledger.record(passed(Stage.SCREEN, [0, 1]), PROVENANCE)
    assert [w.slot for w in other.claim(Stage.SCREEN, slots, 2, ordered=True)] == [2, 3]


def test_failed_work_is_tried_again_only_when_asked(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = fill(ledger, 2)
    ledger.record(passed(Stage.SCREEN, slots), PROVENANCE)
    failed = Outcome(0, Stage.RELAX, Status.FAILED, Reason.TIME_LIMIT)
    ledger.record([failed, *passed(Stage.RELAX, [1])], PROVENANCE)
    assert ledger.claim(Stage.RELAX, slots, 9) == []
    (work,) = ledger.claim(Stage.RELAX, slots, 9, attempts=2)
    assert (work.slot, work.attempt) == (0, 2)
    ledger.record(passed(Stage.RELAX, [0], attempt=2), PROVENANCE)
    assert [o.status for o in ledger.outcomes(Stage.RELAX)] == [Status.PASSED, Status.PASSED]
    assert ledger.counts()[Stage.RELAX, Status.PASSED, None] == 2


def test_leases_lapse_and_are_renewed(ledger_url, monkeypatch):
    later, now = 0, Database.now
    monkeypatch.setattr(Database, "now", lambda *of: now(*of) + later)
    ledger = open_ledger(ledger_url, lease_seconds=600)
    other = open_ledger(ledger_url, lease_seconds=600)
    slots = fill(ledger, 2)
    assert len(ledger.claim(Stage.SCREEN, slots, 9)) == 2
    later = 400
    ledger.leases.renew()
    later = 800
    assert other.claim(Stage.SCREEN, slots, 9) == []
    later = 1200
    assert len(other.claim(Stage.SCREEN, slots, 9)) == 2


def test_release_gives_back(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = fill(ledger, 2)
    ledger.claim(Stage.SCREEN, slots, 9)
    ledger.leases.release()
    assert len(ledger.claim(Stage.SCREEN, slots, 9)) == 2


CLAIMER = """
    import sys, time
    from heliodor.core.campaign import parse_campaign
    from heliodor.core.database import Database
    from heliodor.core.ledger import Ledger
    from heliodor.core.records import Outcome, Stage, Status
    campaign = parse_campaign({"name": "t", "generator": {"kind": "random"}})
    ledger = Ledger(Database(sys.argv[1]), campaign)
    mine = 0
    while work := ledger.claim(Stage.SCREEN, range(300), 7):
        if sys.argv[2] == "hang":
            print(len(work), flush=True)
            time.sleep(600)
        done = [Outcome(w.slot, Stage.SCREEN, Status.PASSED, data={"by": sys.argv[2]}) for w in work]
        ledger.record(done, ("p", {}))
        mine += len(work)
    print(mine)
"""


def claimer(url: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CLAIMER), url, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_claims_are_atomic_across_processes(ledger_url):
    ledger = open_ledger(ledger_url)
    fill(ledger, 300)
    processes = [claimer(ledger_url, str(i)) for i in range(4)]
    mine = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(mine) == 300, "a slot was worked on twice or not at all"
    assert len(ledger.outcomes(Stage.SCREEN)) == 300


def test_what_a_killed_process_held_comes_back_at_once(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = fill(ledger, 20)
    process = claimer(ledger_url, "hang")
    assert process.stdout is not None
    held = int(process.stdout.readline())
    assert ledger.leases.release_dead() == 0, "a living process lost its leases"
    assert len(ledger.leases.active_owners()) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ledger.leases.release_dead() == held
    assert len(ledger.claim(Stage.SCREEN, slots, 99)) == 20


def test_threads_share_a_ledger(ledger_url):
    ledger = open_ledger(ledger_url)
    slots = fill(ledger, 100)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ledger.claim(Stage.SCREEN, slots, 10), range(12)))
    claimed = [w.slot for work in found for w in work]
    assert sorted(claimed) == list(slots)


def test_the_same_name_with_other_science_is_refused(ledger_url):
    open_ledger(ledger_url)
    changed = parse_campaign({**CAMPAIGN, "seed": 5, "budget": {"candidates": 3}})
    with pytest.raises(InputError, match="seed: 0, now 5"):
        Ledger(Database(ledger_url), changed)
    bigger = parse_campaign({**CAMPAIGN, "budget": {"candidates": 3}})
    Ledger(Database(ledger_url), bigger)


def test_two_campaigns_share_a_database(ledger_url):
    fill(open_ledger(ledger_url), 3)
    other = Ledger(Database(ledger_url), parse_campaign({**CAMPAIGN, "name": "other"}))
    assert other.counts() == {}
    assert other.claim_generate(range(3), 3) == [0, 1, 2]


def test_a_full_disk_is_said_and_what_was_recorded_stays(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'l.sqlite'}")
    ledger = Ledger(database, parse_campaign(CAMPAIGN))
    fill(ledger, 3)

    @sa.event.listens_for(database.engine, "checkout")
    def _limit(connection, *_):
        connection.execute("pragma max_page_count = 30")

    with pytest.raises(StorageError, match="full"):
        ledger.add([(i, candidate(i)) for i in range(3, 2000)], PROVENANCE)
    assert len(open_ledger(f"sqlite:///{tmp_path / 'l.sqlite'}").outcomes(Stage.GENERATE)) == 3


def test_a_finished_process_leaves_one_file(tmp_path):
    url = f"sqlite:///{tmp_path / 'l.sqlite'}"
    fill(open_ledger(url), 300)
    process = claimer(url, "1")
    process.communicate(timeout=60)
    del process
    gc.collect()
    assert [p.name for p in tmp_path.iterdir()] == ["l.sqlite"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot make the folder"):
        Database(f"sqlite:///{tmp_path / 'file' / 'l.sqlite'}")


def test_a_file_that_is_no_ledger(tmp_path):
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database(f"sqlite:///{path}")


def test_passwords_are_never_shown():
    url = "postgresql+psycopg://me:s3cret@127.0.0.1:1/none"
    with pytest.raises(StorageError) as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y"])
def test_other_urls_are_refused(url):
    with pytest.raises(InputError, match="ledger"):
        Database(url)
