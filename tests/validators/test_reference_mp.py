"""Snapshots of the Materials Project: what is asked for, what is kept, and what of it is used.

The server is replaced by a small object that answers two questions; the entries are real. For the client
and the server's own code see `test_mp_server.py`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pydantic import SecretStr
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.entries.computed_entries import ComputedStructureEntry, ManualEnergyAdjustment

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.elements import chemsys
from heliodor.core.errors import InputError, MissingError, ReferenceUnavailableError, StorageError
from heliodor.core.levels import Level
from heliodor.core.protocols import Reference
from heliodor.core.records import DftResult, Failure, HullPoint, Judged, Reason, Relaxed
from heliodor.testing import check_reference
from heliodor.validators.distances import Distances, DistancesBySystem
from heliodor.validators.mp_client import Document, MpClient
from heliodor.validators.mp_supply import MpSupply, groups
from heliodor.validators.nearest import SurveyedBySystem
from heliodor.validators.reference_hull import KnowsElements, on_reference
from heliodor.validators.reference_mp import MpOnDemand, materials_project
from heliodor.validators.snapshots import find_snapshots, subsystems
from heliodor.validators.stability import Stability

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

    def __init__(self, entries=ENTRIES, version="2025.09.25"):
        self.entries, self.served = list(entries), version
        self.asked = []

    def version(self):
        return self.served

    def fetch(self, systems, thermo_type, version=None):
        if version not in (None, self.served):
            raise ReferenceUnavailableError(f"serves version {self.served}, not {version}")
        self.asked.append((systems, thermo_type))
        found = [e for e in self.entries if chemsys(x.symbol for x in e.composition) in systems]
        return self.served, [Document(e.data["material_id"], thermo_type, (e,)) for e in found]


@pytest.fixture
def server():
    return Server()


def reference(server, folder, elements, version=None, thermo_type="GGA_GGA+U"):
    supply = MpSupply(folder / "mp", thermo_type, server, version)
    return materials_project(supply, elements, folder)


def ids(phases):
    return {phase.material_id for phase in phases}


def test_one_query_with_all_subsystems(server, tmp_path):
    known = reference(server, tmp_path, ["O", "Mg"])
    assert server.asked == [({"Mg", "O", "Mg-O"}, "GGA_GGA+U")]
    assert isinstance(known, Reference)
    assert "2025.09.25" in known.info.name
    assert "GGA_GGA+U" in known.info.coverage
    assert known.info.n_phases == 5
    assert "CC BY 4.0" in known.info.attribution
    assert (known.info.version, known.info.hull) == ("2025.09.25", "GGA_GGA+U")


def test_formation_energies_are_those_of_a_phase_diagram(server, tmp_path):
    known = reference(server, tmp_path, ["Mg", "O"])
    diagram = PhaseDiagram(ENTRIES)
    expected = {e.data["material_id"]: diagram.get_form_energy_per_atom(e) for e in ENTRIES}
    found = {p.material_id: p.formation_energy_per_atom for p in known.entries("Mg-O")}
    assert found == pytest.approx(expected)


def test_a_snapshot_serves_offline_without_a_key(server, tmp_path):
    first = reference(server, tmp_path, ["Mg", "O"])
    again = reference(None, tmp_path, ["Mg", "O"])
    assert again.info == first.info
    assert again.entries("Mg-O") == first.entries("Mg-O")
    smaller = reference(None, tmp_path, ["Mg"])  # by the superset
    assert ids(smaller.entries(["Mg"])) == {"mp-153", "mp-154"}


def test_novelty_and_stability_by_the_snapshot(server, tmp_path):
    known_phases = reference(server, tmp_path, ["Mg", "O"])
    known, outside = known_phases.match([rock_salt(12, 8, 4.2), rock_salt(11, 17, 5.7)])
    assert (known.passed, known.match) == (False, "mp-1265")
    assert (outside.passed, outside.reason) == (None, Reason.NO_REFERENCE)
    foreign = Relaxed(
        "k", rock_salt(11, 17, 5.7), -6.8, 0.0, 0.0, 1, converged=True, model="chgnet-0.3.0"
    )
    failure = Stability(known_phases).judge(foreign)
    assert isinstance(failure, Failure)
    assert (failure.key, failure.reason) == ("k", Reason.NO_REFERENCE)
    assert "Cl" in failure.detail


def test_versions_are_kept_apart_and_the_newest_is_used(server, tmp_path):
    reference(server, tmp_path, ["Mg", "O"])
    newer = Server(version="2026.02.01")
    reference(newer, tmp_path, ["Mg", "O"], "2026.02.01")
    assert len(list((tmp_path / "mp").iterdir())) == 2
    old = reference(None, tmp_path, ["Mg", "O"], "2025.09.25")
    assert "2025.09.25" in old.info.name
    assert "2026.02.01" in reference(None, tmp_path, ["Mg", "O"]).info.name
    with pytest.raises(ReferenceUnavailableError, match=r"serves version 2026\.02\.01, not 2024"):
        reference(newer, tmp_path, ["Mg", "O"], "2024.11.14")


def test_a_snapshot_as_it_was_once_still_serves(server, tmp_path):
    import json

    import pyarrow.parquet as pq

    first = reference(server, tmp_path, ["Mg", "O"])
    (path,) = (tmp_path / "mp").iterdir()
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"heliodor"])
    (about["elements"],) = about.pop("systems")
    metadata = table.schema.metadata | {b"heliodor": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert reference(None, tmp_path, ["Mg", "O"]).entries("Mg-O") == first.entries("Mg-O")


def test_no_snapshot_and_no_key_says_what_to_do(tmp_path):
    for elements in (["Mg", "O"], []):
        with pytest.raises(ReferenceUnavailableError, match="MP_API_KEY"):
            reference(None, tmp_path, elements)
    with pytest.raises(ReferenceUnavailableError, match="of version 2024 covers Mg-O"):
        reference(None, tmp_path, ["Mg", "O"], "2024")


def test_damaged_and_foreign_files_in_the_cache_are_ignored(server, tmp_path, caplog):
    reference(server, tmp_path, ["Mg", "O"])
    (snapshot,) = (tmp_path / "mp").iterdir()
    (tmp_path / "mp" / "zz.parquet").write_bytes(b"PAR1 broken")
    assert [s.path for s in find_snapshots(tmp_path / "mp", "GGA_GGA+U")] == [snapshot]
    assert find_snapshots(tmp_path / "mp", "R2SCAN") == []
    assert "zz.parquet" in caplog.text
    snapshot.write_bytes(snapshot.read_bytes()[:-50])
    with pytest.raises(ReferenceUnavailableError):
        reference(None, tmp_path, ["Mg", "O"])


def test_a_full_disk_leaves_no_half_snapshot(server, tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heliodor.validators.snapshots.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        reference(server, tmp_path, ["Mg", "O"])
    assert list((tmp_path / "mp").iterdir()) == []


def test_an_element_without_an_entry_is_no_snapshot(tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="no GGA_GGA\\+U energy of the element O"):
        reference(Server(ENTRIES[:4]), tmp_path, ["Mg", "O"])
    assert not (tmp_path / "mp").exists()


def test_more_than_nine_elements_and_none_are_served_on_demand(server, tmp_path):
    many = ["H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Mg"]
    for elements in (many, []):
        known = reference(server, tmp_path, elements)
        assert isinstance(known, MpOnDemand)
        assert known.match([rock_salt(12, 8, 4.2)])[0].match == "mp-1265"
        assert len(known.entries(["Mg", "O"])) == 5
        assert len(known.like(((8, 1), (12, 1)))) == 2
    assert len(server.asked) == 1
    with pytest.raises(ReferenceUnavailableError, match="10 elements"):
        known.entries(many)


def test_distances_on_demand_do_not_depend_on_what_else_was_fetched(server, tmp_path):
    server.entries.append(entry("mp-23193", rock_salt(19, 17, 6.3), -7.1))
    server.entries += [entry("mp-58", Crystal(4.6 * np.eye(3), [[0, 0, 0]], [19]), -1.0)]
    server.entries += [entry("mp-59", Crystal(4.0 * np.eye(3), [[0, 0, 0]], [17]), -1.8)]
    crystals = [rock_salt(12, 8, 4.2), MG, rock_salt(19, 17, 6.2)]
    batch = [Judged(c.digest, c, None, None) for c in crystals]
    together = reference(server, tmp_path / "together", ())
    assert isinstance(together, SurveyedBySystem)
    together.match(crystals)  # one query: one file with all of them
    scorer = DistancesBySystem(together.known_in)
    found = scorer.score(batch)
    for crystal, row in zip(crystals, found, strict=True):
        alone = reference(server, tmp_path / crystal.chemsys, crystal.elements)
        assert row == Distances(alone.known).of(crystal)
        assert row.keys() == {column.name for column in scorer.columns}
    assert [row["nearest_by_structure"] for row in found] == ["mp-1265", "mp-153", "mp-23193"]
    assert [row["d_wyckoff"] for row in found] == [0, 0, 0]
    assert found[0]["amd_distance"] > found[1]["amd_distance"] == pytest.approx(0, abs=1e-6)
    beyond = rock_salt(11, 17, 5.7)  # the server does not have it
    assert scorer.score([Judged(beyond.digest, beyond, None, None)]) == [{}]
    limits = {column.name: column.limits for column in scorer.columns}
    assert "own elements only" in limits["amd_distance"]
    assert "own elements only" not in limits["d_wyckoff"]


def test_r2scan_results_stand_on_the_r2scan_hull_only(server, tmp_path):
    level = Level.of("vasp", "r2SCAN", "R2SCAN", {})
    result = DftResult("k", "d", level, rock_salt(12, 8, 4.3), -13.0, 0.0, 0.0, converged=True, steps=1)
    gga = reference(server, tmp_path, ["Mg", "O"])
    with pytest.raises(InputError, match="is a hull of GGA_GGA"):
        on_reference(gga, result, result.energy, uncertain=False)
    entries = {e.data["material_id"]: e.energy_per_atom for e in ENTRIES}
    formation = (-13.0 - entries["mp-153"] - entries["mp-12957"]) / 2
    known = {p.material_id: p.formation_energy_per_atom for p in gga.entries("Mg-O")}["mp-1265"]
    for elements in (["Mg", "O"], []):  # one snapshot; on demand
        r2scan = reference(server, tmp_path, elements, thermo_type="R2SCAN")
        assert isinstance(r2scan, KnowsElements)
        point = on_reference(r2scan, result, result.energy, uncertain=False)
        assert isinstance(point, HullPoint), point
        assert point.formation_energy_per_atom == pytest.approx(formation)
        assert point.decomposition_energy == pytest.approx(formation - known)
        assert point.corrections.startswith("none")
        assert "R2SCAN" in point.coverage
    pbe = replace(result, level=Level.of("vasp", "PBE/PBE+U", "GGA_GGA+U", {}))
    with pytest.raises(InputError, match="is a hull of R2SCAN"):
        on_reference(r2scan, pbe, pbe.energy, uncertain=False)
    # A snapshot of an earlier version of Heliodor, without the elements' energies: no number.
    old = reference(server, tmp_path, ["Mg", "O"], thermo_type="R2SCAN")
    old.snapshot = replace(old.snapshot, elements={})
    failure = on_reference(old, result, result.energy, uncertain=False)
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.NO_REFERENCE


def test_on_demand_keeps_to_its_version(server, tmp_path):
    known = reference(server, tmp_path, [])
    assert (known.info.version, known.info.n_phases) == ("2025.09.25", 0)
    server.served = "2026.02.01"
    (verdict,) = known.match([rock_salt(12, 8, 4.2)])
    assert (verdict.passed, verdict.reason) == (None, Reason.NO_REFERENCE)
    assert "serves version 2026.02.01" in verdict.detail
    with pytest.raises(ReferenceUnavailableError, match="no snapshot of version 2025"):
        reference(server, tmp_path, [], "2025.09.25")


def test_what_one_element_lacks_is_not_lost_for_the_others(server, tmp_path):
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", server)
    oxide, sulfide = frozenset(("Mg", "O")), frozenset(("Mg", "S"))
    found, lacking = supply.provide([oxide, sulfide])
    assert list(found) == [oxide]
    assert "element S" in lacking[sulfide].message
    assert len(server.asked) == 1
    assert supply.provide([sulfide])[1].keys() == {sulfide}
    assert len(server.asked) == 1, "what is not to be had is not asked for again"


def test_groups_fit_into_one_query():
    elements = "Al Ba Ca Fe Li Mg Mn Na O P S Si".split()
    systems = [frozenset(c) for c in combinations(elements, 4)]
    parts = list(groups(systems))
    assert sorted(s for part in parts for s in map(sorted, part)) == sorted(map(sorted, systems))
    assert all(len(subsystems(part)) <= 511 for part in parts)
    assert len(parts) <= 4
    assert list(groups([frozenset(elements[:9])])) == [[frozenset(elements[:9])]]


def test_the_contract(server, tmp_path):
    for elements in (["Mg", "O"], []):
        check_reference(reference(server, tmp_path, elements), rock_salt(12, 8, 4.2))


def test_a_missing_client_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mp_api.client", None)
    with pytest.raises(MissingError, match="mp-api") as caught:
        reference(MpClient(SecretStr("k" * 32)), tmp_path, ["Mg", "O"])
    assert "heliodor[mp]" in caught.value.hint
