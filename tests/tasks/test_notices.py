"""When people are told, and that they are told once."""

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from scipy.stats import fisher_exact

from heliodor.core.database import Database
from heliodor.core.journal import Journal
from heliodor.tasks import notices
from heliodor.tasks.notices import ALARM, failures_jumped, tell, tell_the_end


@pytest.fixture
def context(tmp_path, monkeypatch):
    database = Database(f"sqlite:///{tmp_path / 'l.sqlite'}")
    row = "insert into campaign (id, name, science_digest, spec, created_at) values (1, 'c', '', '', 0)"
    with database.write() as connection:
        connection.execute(sa.text(row))
    sent = []
    monkeypatch.setattr(notices, "emit_event", lambda event, **facts: sent.append((event, facts)))
    campaign = SimpleNamespace(name="c")
    return SimpleNamespace(campaign=campaign, journal=Journal(database, 1), folder=tmp_path, sent=sent)


def test_what_was_told_is_not_told_again(context):
    assert tell(context, "heliodor.sun.found", "a", "MgO", {"slot": 1})
    assert not tell(context, "heliodor.sun.found", "a", "MgO", {"slot": 1})
    assert tell(context, "heliodor.sun.found", "b", "CaO", {"slot": 2})
    tell_the_end(context, "budget of 3 hours spent")
    tell_the_end(context, "budget of 3 hours spent")
    tell_the_end(context, "budget of 5 hours spent")  # it was raised
    assert [event for event, _ in context.sent] == ["heliodor.sun.found"] * 2 + [
        "heliodor.budget.spent"
    ] * 2
    facts = context.sent[0][1]
    assert facts["resource"]["prefect.resource.id"] == "heliodor.campaign.c"
    assert facts["payload"] == {"message": "MgO", "folder": str(context.folder), "slot": 1}


@pytest.mark.parametrize(
    ("failed", "n", "before", "n_before", "alarm"),
    [
        (25, 50, 10, 200, True),
        (10, 50, 5, 1000, False),  # sure to be more, but a fifth is not alarming
        (11, 50, 5, 1000, True),
        (3, 4, 0, 10, False),  # too few to tell from chance
        (50, 50, 0, 0, False),  # nothing to compare with
        (0, 0, 0, 0, False),
        (40, 100, 400, 1000, False),  # as before
    ],
)
def test_an_alarm_is_rare_by_chance_and_large(failed, n, before, n_before, alarm):
    found = failures_jumped(failed, n, before, n_before)
    assert (found is not None) is alarm
    if n and n_before:
        table = [[failed, n - failed], [before, n_before - before]]
        significant = fisher_exact(table, alternative="greater").pvalue < ALARM
        assert alarm == (significant and failed / n > 0.2)
    if found is not None:
        assert found == failed / n
