"""A campaign keeps to the version of the Materials Project that it was begun with."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from heliodor.core.campaign import parse_campaign
from heliodor.core.errors import InputError, ReferenceUnavailableError
from heliodor.core.records import Failure, Outcome, Reason, Stage, Status
from heliodor.core.settings import Settings
from heliodor.flows.build import open_ledger
from heliodor.flows.fetch import fetch
from heliodor.flows.pinned import reference_of, refuse_changed_version
from heliodor.validators.matching import MatcherSettings
from heliodor.validators.mp_client import Document
from heliodor.validators.snapshots import write_snapshot

NACL = frozenset(("Na", "Cl"))


def document(name, elements, energy):
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]][: len(elements)]
    entry = ComputedStructureEntry(Structure(Lattice.cubic(3.0), elements, sites), energy)
    return Document(name, "GGA_GGA+U", (entry,))


DOCUMENTS = [
    document("mp-127", ["Na"], -1.3),
    document("mp-22848", ["Cl"], -1.8),
    document("mp-22862", ["Na", "Cl"], -6.8),
]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delenv("HELIODOR_LEDGER_URL", raising=False)
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))
    return Settings()


def snapshot(settings, version):
    return write_snapshot(settings.cache / "mp", [NACL], version, "GGA_GGA+U", DOCUMENTS)


def campaign(**changes):
    content = {
        "name": "salt",
        "space": {"elements": ["Na", "Cl"], "max_atoms": 4},
        "generator": {"kind": "substitution"},
        "relaxer": {"kind": "none"},
        "reference": {"kind": "mp"},
        **changes,
    }
    return parse_campaign(content)


def begin(plan, folder, settings, reference):
    """A first outcome, as the screen stage records it."""
    ledger = open_ledger(plan, folder, settings)
    nothing = Failure("", Reason.GENERATION, "")
    ledger.add([(0, nothing)], ("g", {}))
    record = {"reference": asdict(reference.info)}
    ledger.record([Outcome(0, Stage.SCREEN, Status.PASSED, None, 1, {})], ("p", record))
    return ledger


def test_a_newer_snapshot_changes_nothing_for_a_campaign_under_way(settings, tmp_path):
    plan, folder = campaign(), tmp_path / "run"
    folder.mkdir()
    old = snapshot(settings, "2025.09.25")
    first = reference_of(plan, folder, MatcherSettings(), settings)
    ledger = begin(plan, folder, settings, first)
    snapshot(settings, "2026.02.01")
    again = reference_of(plan, folder, MatcherSettings(), settings)
    assert again.info == first.info
    other = reference_of(plan, tmp_path / "other", MatcherSettings(), settings)
    assert other.info.version == "2026.02.01"
    refuse_changed_version(again.info, ledger)
    with pytest.raises(InputError, match=r"begun with version 2025\.09\.25.*this is 2026\.02\.01"):
        refuse_changed_version(other.info, ledger)

    old.path.unlink()
    with pytest.raises(InputError, match=r"'salt' was begun with version 2025\.09\.25") as caught:
        reference_of(plan, folder, MatcherSettings(), settings)
    assert str(settings.cache) in caught.value.hint
    assert (folder / "ledger.sqlite").exists()


def test_a_new_campaign_without_anything_is_told_what_to_do(settings, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="no key to fetch one"):
        reference_of(campaign(), tmp_path, MatcherSettings(), settings)


def test_the_campaign_file_is_refused_before_any_work():
    with pytest.raises(InputError, match="R2SCAN, whose hull no potential's"):
        campaign(reference={"kind": "mp", "thermo_type": "R2SCAN"}, relaxer={"kind": "chgnet"})
    with pytest.raises(InputError, match="GGA_GGA\\+U_R2SCAN"):
        campaign(reference={"kind": "mp", "thermo_type": "GGA_GGA+U_R2SCAN"})
    ten = ["H", "Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg"]
    with pytest.raises(InputError, match="got 10, all in every crystal"):
        campaign(space={"elements": ten})
    assert campaign(space={"elements": ten, "subsystems": True})
    own = {"kind": "mp", "thermo_type": "R2SCAN", "energies": "own"}
    assert campaign(reference=own, relaxer={"kind": "chgnet"})
    explicit = campaign(reference={"kind": "mp", "thermo_type": "GGA_GGA+U"})
    assert explicit.science_digest() == campaign().science_digest()


class Served:
    """Has sodium chloride in one version."""

    def __init__(self):
        self.asked = []

    def version(self):
        return "2026.02.01"

    def fetch(self, systems, _thermo_type, _version=None):
        self.asked.append(systems)
        return "2026.02.01", DOCUMENTS


def test_fetch_takes_the_version_that_is_served_now(settings, monkeypatch):
    served = Served()
    monkeypatch.setattr("heliodor.validators.mp_client.MpClient", lambda _key: served)
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    snapshot(settings, "2025.09.25")
    text = fetch(("Cl", "Na"), "GGA_GGA+U")
    assert "2026.02.01" in text
    assert "1 of 1 chemical systems of Cl-Na" in text
    assert fetch(("Cl", "Na"), "GGA_GGA+U") == text
    assert served.asked == [{"Cl", "Na", "Cl-Na"}]
    assert "2 of 2" in fetch(("Cl", "Na"), "GGA_GGA+U", up_to=1)


def test_fetch_refuses_what_is_too_much(settings):
    ten = tuple("H Li Be B C N O F Na Mg".split())
    with pytest.raises(InputError, match="at most 9 together"):
        fetch(ten, "GGA_GGA+U")
    many = tuple(f"E{i}" for i in range(80))
    with pytest.raises(InputError, match="85,400 chemical systems"):
        fetch(many, "GGA_GGA+U", up_to=3)
    with pytest.raises(ReferenceUnavailableError, match="MP_API_KEY|no key"):
        fetch(("Na", "Cl"), "GGA_GGA+U")
