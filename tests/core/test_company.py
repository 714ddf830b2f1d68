"""Several processes on one campaign, and a campaign file that is edited while it lasts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from heliodor.core.campaign import Campaign, parse_campaign
from heliodor.core.database import Database
from heliodor.core.errors import InputError
from heliodor.core.ledger import Ledger
from heliodor.core.owner import in_words


def campaign(**changes: object) -> Campaign:
    return parse_campaign({"name": "c", "generator": {"kind": "substitution"}, **changes})


def ledger_in(folder: Path, **changes: object) -> Ledger:
    return Ledger(Database(f"sqlite:///{folder / 'ledger.sqlite'}"), campaign(**changes))


def test_what_changed_is_named_and_only_that(tmp_path):
    ledger_in(tmp_path)
    with pytest.raises(InputError) as caught:
        ledger_in(
            tmp_path,
            space={"max_atoms": 24},
            relaxer={"kind": "chgnet", "fmax": 0.1, "time_limit": 9},
            budget={"candidates": 7},
            review={"scores": False},
        )
    said = str(caught.value)
    assert "space.max_atoms: 20, now 24" in said
    assert "relaxer.fmax: 0.05, now 0.1" in said
    listed = [line.strip() for line in said.splitlines() if ", now " in line]
    assert len(listed) == 2, "the rest may change, or did not"


def test_budget_review_select_dft_and_machine_limits_may_change(tmp_path):
    begun = ledger_in(tmp_path)
    free = {
        "budget": {"candidates": 7, "sun": 1},
        "review": {"phonons": True},
        "select": {"top": 3},
        "dft": {"kind": "none"},
        "relaxer": {"kind": "chgnet", "time_limit": 9, "memory_limit_gb": 2, "device": "cpu"},
    }
    assert ledger_in(tmp_path, **free).campaign_id == begun.campaign_id


OTHER = """
import sys
from heliodor.core.campaign import parse_campaign
from heliodor.core.database import Database
from heliodor.core.ledger import Ledger

campaign = parse_campaign({"name": "c", "generator": {"kind": "substitution"}})
ledger = Ledger(Database(sys.argv[1], create=False), campaign)
print(len(ledger.leases.enter()), flush=True)
sys.stdin.readline()
ledger.leases.release()
print("left", flush=True)
sys.stdin.readline()
"""


def test_who_works_on_a_campaign_is_seen_from_the_first_moment(tmp_path):
    ledger = ledger_in(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, f"sqlite:///{tmp_path / 'ledger.sqlite'}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "0\n"
        [seen] = ledger.leases.active_owners()
        assert f"process {other.pid}, since 20" in in_words(seen)
        assert ledger.leases.enter(alone=True) == {seen}
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "left\n"
        assert ledger.leases.enter(alone=True) == set()
    finally:
        other.kill()
        other.communicate()


def test_a_process_is_no_company_for_itself(tmp_path):
    first, second = ledger_in(tmp_path), ledger_in(tmp_path)
    first.leases.enter()
    assert second.leases.enter(alone=True) == set()
