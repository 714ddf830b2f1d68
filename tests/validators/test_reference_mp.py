"""Snapshots of the Materials Project: what is asked, what is kept, and how faults are told.

The client is replaced by a small object with the two members that are used; the entries are real.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import SecretStr
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.entries.computed_entries import ComputedStructureEntry, ManualEnergyAdjustment

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError, MissingError, ReferenceUnavailableError, StorageError
from heliodor.core.protocols import Reference
from heliodor.core.records import Failure, Reason, Relaxed
from heliodor.validators.reference_mp import MpReference
from heliodor.validators.snapshots import find_snapshot
from heliodor.validators.stability import Stability

KEY = SecretStr("k" * 31 + "Q")
FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def rock_salt(metal, anion, a):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [metal, anion])


def entry(name, crystal, energy, correction=0.0):
    adjustments = [ManualEnergyAdjustment(correction)] if correction else []
    return ComputedStructureEntry(
        to_structure(crystal),
        energy,
        energy_adjustments=adjustments,
        entry_id=f"{name}-GGA",
        data={"material_id": name},
    )


MG = Crystal(
    [[3.2, 0, 0], [-1.6, 2.7713, 0], [0, 0, 5.2]], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [12, 12]
)
O2 = Crystal(8 * np.eye(3), [[0, 0, 0], [0.154, 0, 0]], [8, 8])
ENTRIES = [
    entry("mp-1265", rock_salt(12, 8, 4.25), -11.97, correction=-0.687),
    entry(
        "mp-2", Crystal(2.6 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8]), -10.4, correction=-0.687
    ),
    entry("mp-153", MG, -3.19),
    entry("mp-154", Crystal(2.9 * np.eye(3), [[0, 0, 0]], [12]), -1.2),
    entry("mp-12957", O2, -9.89),
]


class Server:
    """Counts what it is asked."""

    def __init__(self, entries=(), version="2025.09.25", error=None):
        self.entries, self.version, self.error = list(entries), version, error
        self.asked = []

    @contextmanager
    def connect(self, key):
        assert key == KEY.get_secret_value()

        def get_entries_in_chemsys(elements, additional_criteria):
            self.asked.append((elements, additional_criteria))
            if self.error is not None:
                raise self.error
            return self.entries

        yield SimpleNamespace(db_version=self.version, get_entries_in_chemsys=get_entries_in_chemsys)


@pytest.fixture
def server():
    return Server(ENTRIES)


def no_network(_key):
    raise AssertionError("the network was used")


def test_one_query_of_one_thermo_type(server, tmp_path):
    reference = MpReference(KEY, tmp_path, ["O", "Mg"], connect=server.connect)
    assert server.asked == [(["Mg", "O"], {"thermo_types": ["GGA_GGA+U"]})]
    assert isinstance(reference, Reference)
    assert "2025.09.25" in reference.info.name
    assert "GGA_GGA+U" in reference.info.coverage
    assert reference.info.n_phases == 5
    assert "CC BY 4.0" in reference.info.attribution


def test_formation_energies_are_those_of_a_phase_diagram(server, tmp_path):
    reference = MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    diagram = PhaseDiagram(ENTRIES)
    expected = {e.data["material_id"]: diagram.get_form_energy_per_atom(e) for e in ENTRIES}
    found = {p.material_id: p.formation_energy_per_atom for p in reference.entries("Mg-O")}
    assert found == pytest.approx(expected)


def test_a_snapshot_serves_offline_without_a_key(server, tmp_path):
    first = MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    again = MpReference(None, tmp_path, "Mg-O", connect=no_network)
    assert again.info == first.info
    assert [p.material_id for p in again.entries("Mg-O")] == [
        p.material_id for p in first.entries("Mg-O")
    ]
    smaller = MpReference(None, tmp_path, ["Mg"], connect=no_network)  # by the superset
    assert {p.material_id for p in smaller.entries(["Mg"])} == {"mp-153", "mp-154"}


def test_novelty_and_stability_by_the_snapshot(server, tmp_path):
    reference = MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    known, outside = reference.match([rock_salt(12, 8, 4.2), rock_salt(11, 17, 5.7)])
    assert (known.passed, known.match) == (False, "mp-1265")
    assert (outside.passed, outside.reason) == (None, Reason.NO_REFERENCE)
    foreign = Relaxed(
        "k", rock_salt(11, 17, 5.7), -6.8, 0.0, 0.0, 1, converged=True, model="chgnet-0.3.0"
    )
    failure = Stability(reference).judge(foreign)
    assert isinstance(failure, Failure)
    assert (failure.key, failure.reason) == ("k", Reason.NO_REFERENCE)
    assert "Cl" in failure.detail


def test_versions_are_kept_apart_and_the_newest_is_used(server, tmp_path):
    MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    newer = Server(ENTRIES, version="2026.02.01")
    MpReference(KEY, tmp_path, "Mg-O", "2026.02.01", connect=newer.connect)
    assert len(list((tmp_path / "mp").iterdir())) == 2
    old = MpReference(None, tmp_path, "Mg-O", "2025.09.25", connect=no_network)
    assert "2025.09.25" in old.info.name
    assert "2026.02.01" in MpReference(None, tmp_path, "Mg-O", connect=no_network).info.name
    with pytest.raises(ReferenceUnavailableError, match=r"serves version 2026\.02\.01, not 2024"):
        MpReference(KEY, tmp_path, "Mg-O", "2024.11.14", connect=newer.connect)


def test_no_snapshot_and_no_key_says_what_to_do(tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="MP_API_KEY") as caught:
        MpReference(None, tmp_path, "Mg-O", connect=no_network)
    assert "Mg-O" in caught.value.message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("REST query returned with error status code 401: Invalid API key"),
            "refused the key",
        ),
        (RuntimeError("error status code 429"), "asked too often"),
        (RuntimeError("error status code 504: Gateway Time-out"), "overloaded"),
        (TimeoutError("read timed out"), "did not answer in time"),
        (ConnectionError("Failed to resolve 'api.materialsproject.org'"), "cannot be reached"),
        (OSError("Generic S3 error"), "could not answer"),
        (ValueError("Expecting value: line 1 column 1 (char 0)"), "could not answer"),
    ],
)
def test_faults_are_told_and_leave_nothing_behind(tmp_path, error, says):
    server = Server(error=error)
    with pytest.raises(ReferenceUnavailableError, match=says) as caught:
        MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    assert caught.value.hint
    assert not (tmp_path / "mp").exists()


def test_the_key_is_shown_nowhere(tmp_path, caplog):
    key = KEY.get_secret_value()
    server = Server(error=RuntimeError(f"401 for https://api/?API_KEY={key} header X-API-KEY: {key}"))
    with caplog.at_level(logging.DEBUG), pytest.raises(ReferenceUnavailableError) as caught:
        MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    reference = MpReference(KEY, tmp_path, "Mg-O", connect=Server(ENTRIES).connect)
    seen = f"{caught.value} {caught.value!r} {caplog.text} {reference!r} {vars(reference)!r}"
    assert key not in seen
    assert all(key.encode() not in p.read_bytes() for p in (tmp_path / "mp").iterdir())


def test_an_empty_answer_is_no_snapshot(tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="no entries"):
        MpReference(KEY, tmp_path, "Mg-O", connect=Server([]).connect)


def test_damaged_and_foreign_files_in_the_cache_are_ignored(server, tmp_path, caplog):
    MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    (snapshot,) = (tmp_path / "mp").iterdir()
    (tmp_path / "mp" / "zz.parquet").write_bytes(b"PAR1 broken")
    assert find_snapshot(tmp_path / "mp", ["Mg"]).path == snapshot
    assert "zz.parquet" in caplog.text
    snapshot.write_bytes(snapshot.read_bytes()[:-50])
    with pytest.raises(ReferenceUnavailableError):
        MpReference(None, tmp_path, "Mg-O", connect=no_network)


def test_a_full_disk_leaves_no_half_snapshot(server, tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heliodor.validators.snapshots.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    assert list((tmp_path / "mp").iterdir()) == []


def test_elements_without_an_entry_are_counted(tmp_path):
    server = Server(ENTRIES[:3])  # no oxygen
    reference = MpReference(KEY, tmp_path, "Mg-O", connect=server.connect)
    assert {p.material_id for p in reference.entries("Mg-O")} == {"mp-153"}
    assert len(reference.like(((8, 1), (12, 1)))) == 2
    assert "2 without an energy" in reference.info.coverage


def test_too_many_elements_are_refused(tmp_path):
    with pytest.raises(InputError, match="at most 9"):
        MpReference(KEY, tmp_path, "H-He-Li-Be-B-C-N-O-F-Ne", connect=no_network)


def test_a_missing_client_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mp_api.client", None)
    with pytest.raises(MissingError, match="mp-api") as caught:
        MpReference(KEY, tmp_path, "Mg-O")
    assert "heliodor[mp]" in caught.value.hint
