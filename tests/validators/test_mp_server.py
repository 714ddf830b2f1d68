"""The real client against the real server code: hulls, faults, offline use, versions, keys.

`mp_server.py` says what is real there. Waits are recorded and not waited.
"""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import replace

import pytest
from pydantic import SecretStr
from pymatgen.analysis.phase_diagram import PhaseDiagram

from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError, ReferenceUnavailableError
from heliodor.core.records import Reason
from heliodor.validators.hull import Hull
from heliodor.validators.mp_client import MpClient
from heliodor.validators.mp_patience import Patience
from heliodor.validators.mp_supply import MpSupply
from heliodor.validators.reference_mp import MpOnDemand, materials_project
from heliodor.validators.stability import Stability

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mp_server")]  # importing mp-api takes seconds

SYSTEM = ("Fe", "Li", "O")
WAITS = (1.0, 2.0, 4.0)


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now, self.waited = 0.0, []

    def sleep(self, seconds):
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(mp_server, clock):
    patience = Patience(WAITS, 5, 0.5, 60, clock.sleep, lambda: clock.now)
    return MpClient(SecretStr(mp_server.KEY), patience)


def reference(client, folder, elements=SYSTEM, thermo_type="GGA_GGA+U", version=None):
    supply = MpSupply(folder / "mp", thermo_type, client, version)
    return materials_project(supply, elements, folder)


def written(folder):
    return sorted((folder / "mp").glob("*")) if (folder / "mp").exists() else []


def test_the_hull_is_pymatgens_from_the_same_entries(client, mp_server, tmp_path):
    known = reference(client, tmp_path)
    entries = [e for e in mp_server.entries() if {x.symbol for x in e.composition} <= set(SYSTEM)]
    diagram = PhaseDiagram(entries)
    phases = {p.material_id: p for p in known.entries(SYSTEM)}
    assert len(phases) == len(entries) == 13
    hull = Hull(phases.values())
    for there in entries:
        phase = phases[there.entry_id.removesuffix("-GGA")]
        formation = diagram.get_form_energy_per_atom(there)
        assert phase.formation_energy_per_atom == pytest.approx(formation, abs=1e-6)
        states = hull.ground_states([phase.composition])
        above = phase.formation_energy_per_atom - float(states.energies[0])
        products, expected = diagram.get_decomp_and_e_above_hull(there)
        assert above == pytest.approx(expected, abs=1e-6)
        ours = {formula: share for formula, _, share in states.decomposition(0)}
        theirs = {e.composition.reduced_formula: share for e, share in products.items()}
        assert ours == pytest.approx(theirs, abs=1e-6)
    stable = [e for e in entries if diagram.get_e_above_hull(e) < 1e-8]
    assert 5 <= len(stable) < 13


def test_one_search_of_one_thermo_type_and_a_count(client, mp_server, tmp_path):
    known = reference(client, tmp_path)
    (query,) = mp_server.layer.searches()
    assert "thermo_types=GGA_GGA%2BU" in query
    assert "chemsys=Fe%2CFe-Li%2CFe-Li-O%2CFe-O%2CLi%2CLi-O%2CO" in query
    assert known.info.version == mp_server.VERSION
    assert known.info.hull == "GGA_GGA+U"
    assert "GGA_GGA+U" in known.info.coverage


def test_both_styles_of_ids_are_kept_as_text(client, tmp_path):
    names = {p.material_id for p in reference(client, tmp_path).entries(SYSTEM)}
    assert "mp-1960" in names
    assert all(type(name) is str and name.startswith("mp-") for name in names)
    assert "mp-abcdefgh" in names


def test_structures_for_novelty_come_with_the_same_query(client, mp_server, tmp_path):
    known = reference(client, tmp_path)
    crystals = [from_structure(e.structure) for e in mp_server.entries() if "Li" in e.composition]
    verdicts = known.match(crystals)
    assert [v.passed for v in verdicts] == [False] * len(crystals)
    stretched = [[4.0, 0, 0], [0, 4.9, 0], [0, 0, 6.5]]
    new = Crystal(stretched, [[0, 0, 0], [0.5, 0.1, 0.5], [0.3, 0.6, 0.1]], [3, 26, 8])
    assert known.match([new])[0].passed
    assert len(mp_server.layer.searches()) == 1


def test_a_second_use_needs_neither_server_nor_key(client, mp_server, tmp_path, monkeypatch):
    first = reference(client, tmp_path)
    asked = len(mp_server.layer.asked)
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    again = reference(None, tmp_path)
    assert again.info == first.info
    assert again.entries(SYSTEM) == first.entries(SYSTEM)
    assert {p.material_id for p in reference(None, tmp_path, ["Li"]).entries(["Li"])} == {
        "mp-135",
        "mp-51",
    }
    assert len(mp_server.layer.asked) == asked


def test_r2scan_is_a_hull_of_its_own_and_no_potentials(client, mp_server, tmp_path):
    pbe = reference(client, tmp_path)
    own = reference(client, tmp_path, ("Li", "O"), "R2SCAN")
    assert own.info.hull == "R2SCAN"
    (oxide,) = [p for p in own.entries(("Li", "O")) if len(p.composition) == 2]
    assert oxide.formation_energy_per_atom == pytest.approx((-18.20 + 2 * 2.35 + 6.05) / 3)
    assert len(mp_server.layer.searches()) == 2, "a PBE snapshot does not serve r2SCAN"
    Stability(pbe, "chgnet-0.3.0")
    for model in ("chgnet-0.3.0", "sevennet-0", "sevennet-mf-0-r2scan"):
        with pytest.raises(InputError, match="R2SCAN"):
            Stability(own, model)


@pytest.mark.parametrize("key", ["x" * 32, "too short"])
def test_a_refused_key_is_not_tried_again(mp_server, tmp_path, clock, key):
    patience = Patience(WAITS, 5, 5, 60, clock.sleep, lambda: clock.now)
    with pytest.raises(ReferenceUnavailableError, match="refused the key") as caught:
        reference(MpClient(SecretStr(key), patience), tmp_path)
    assert "MP_API_KEY" in caught.value.hint
    assert clock.waited == []
    assert written(tmp_path) == []


def test_the_key_is_shown_nowhere(client, mp_server, tmp_path, caplog):
    layer, key = mp_server.layer, mp_server.KEY
    layer.fault("thermo", *[mp_server.status(503)] * 9)  # the body of a fault repeats the key
    with caplog.at_level(logging.DEBUG), pytest.raises(ReferenceUnavailableError) as caught:
        reference(client, tmp_path)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    seen = "".join(traceback.format_exception(error)) + caplog.text + repr(client) + repr(vars(client))
    layer.reset()
    known = reference(client, tmp_path)
    seen += repr(vars(known)) + repr(known.info)
    assert key not in seen
    assert "***" in seen
    assert all(key.encode() not in path.read_bytes() for path in written(tmp_path))


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("429", [7.0]),
        ("502", [1.0]),
        ("503", [1.0]),
        ("504", [1.0]),
        ("hang", [1.0]),
        ("cut_off", [1.0]),
        ("cut_json", [1.0]),
    ],
)
def test_what_passes_is_asked_again(client, mp_server, tmp_path, clock, caplog, name, waits):
    s = mp_server
    faults = {code: s.status(int(code)) for code in ("502", "503", "504")}
    faults |= {"429": s.status(429, retry_after=7), "hang": s.hang(1.2)}
    faults |= {"cut_off": s.cut_off, "cut_json": s.cut_json}
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", client, s.VERSION)
    s.layer.fault("thermo", faults[name])
    known = materials_project(supply, SYSTEM, tmp_path)
    assert len(known.entries(SYSTEM)) == 13
    assert clock.waited == waits
    assert "asking again in" in caplog.text


@pytest.mark.parametrize(
    ("code", "says"), [(429, "asked too often"), (504, "overloaded"), (400, "did not understand")]
)
def test_what_does_not_pass_is_said(client, mp_server, tmp_path, clock, code, says):
    mp_server.layer.fault("thermo", *[mp_server.status(code)] * 9)
    with pytest.raises(ReferenceUnavailableError, match=says) as caught:
        reference(client, tmp_path)
    assert clock.waited == ([] if code == 400 else list(WAITS))
    assert caught.value.hint
    assert written(tmp_path) == []


def test_a_long_retry_after_is_not_waited_for(client, mp_server, tmp_path, clock):
    mp_server.layer.fault("thermo", mp_server.status(429, retry_after=3600))
    with pytest.raises(ReferenceUnavailableError, match=r"asks to wait 3600 s \(the limit is 60 s\)"):
        reference(client, tmp_path)
    assert clock.waited == []


def test_no_server_is_said(client, tmp_path, clock, monkeypatch):
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    with pytest.raises(ReferenceUnavailableError, match="cannot be reached") as caught:
        reference(client, tmp_path)
    assert "embedded" in caught.value.hint
    assert clock.waited == list(WAITS)


def _drop(content):
    del content["data"][3:]


def _twice(content):
    content["data"][1] = content["data"][0]


def _empty(content):
    content.update(data=[], meta={**content["meta"], "total_doc": 0})


def _no_count(content):
    content["meta"]["total_doc"] = 99


def _other_hull(content):
    content["data"][0]["thermo_type"] = "GGA_GGA+U_R2SCAN"


def _other_run_type(content):
    (document,) = content["data"][0]["entries"].values()
    document["parameters"]["run_type"] = "r2SCAN"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop, "partial answer.*3 of 13 documents"),
        (_twice, "partial answer.*twice"),
        (_empty, "partial answer"),
        (_other_hull, "not asked.*GGA_GGA\\+U_R2SCAN"),
        (_other_run_type, "not asked.*run type r2SCAN"),
    ],
)
def test_a_partial_or_foreign_answer_is_not_written(client, mp_server, tmp_path, change, says):
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", client, mp_server.VERSION)
    # "entries" is asked for by the search alone; the client asks for a second page, and gives up quietly
    mp_server.layer.fault("entries", *[mp_server.edit(change)] * 9)
    with pytest.raises(ReferenceUnavailableError, match=says):
        materials_project(supply, SYSTEM, tmp_path)
    assert written(tmp_path) == []


def test_more_counted_than_came_is_partial(client, mp_server, tmp_path):
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", client, mp_server.VERSION)
    mp_server.layer.fault("_limit=1&", *[mp_server.edit(_no_count)] * 9)
    with pytest.raises(ReferenceUnavailableError, match="13 of 99"):
        materials_project(supply, SYSTEM, tmp_path)


def test_another_chemical_system_is_not_taken(client, mp_server, tmp_path):
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", client, mp_server.VERSION)

    def swap(content):
        (found,) = content["data"][0]["entries"].values()
        for site in found["structure"]["sites"]:
            site["species"] = [{"element": "K", "occu": 1}]
            site.pop("label", None)
        found["composition"] = {"K": 1.0}

    mp_server.layer.fault("thermo", mp_server.edit(swap))
    with pytest.raises(ReferenceUnavailableError, match="chemical system K"):
        materials_project(supply, SYSTEM, tmp_path)


def test_a_database_that_changes_meanwhile_is_asked_again(client, mp_server, clock):
    mp_server.layer.fault("thermo", mp_server.new_version("2026.02.01"))
    version, documents = client.fetch({"Na", "Cl", "Cl-Na"}, "GGA_GGA+U")
    assert (version, len(documents)) == ("2026.02.01", 3)
    assert clock.waited == [1.0]


def test_a_named_version_that_is_not_served_is_refused(client, mp_server, tmp_path):
    reference(client, tmp_path)
    mp_server.layer.meta["db_version"] = "2026.02.01"
    with pytest.raises(ReferenceUnavailableError, match=r"serves version 2026\.02\.01, not 2025"):
        reference(client, tmp_path, ("Cl", "Na"), version=mp_server.VERSION)
    assert reference(client, tmp_path).info.version == mp_server.VERSION, "from the cache"
    assert reference(client, tmp_path, ("Cl", "Na")).info.version == "2026.02.01"


def test_an_element_without_an_energy_is_named(client, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="no GGA_GGA\\+U energy of the element Po"):
        reference(client, tmp_path, ("O", "Po"))
    assert written(tmp_path) == []


def test_systems_are_fetched_as_crystals_need_them(client, mp_server, tmp_path):
    known = reference(client, tmp_path, ())
    assert isinstance(known, MpOnDemand)
    assert mp_server.layer.searches() == []
    crystals = [from_structure(e.structure) for e in mp_server.entries() if len(e.composition) > 1]
    foreign = Crystal(4.0 * _cube(), [[0, 0, 0], [0.5, 0.5, 0.5]], [84, 8])
    verdicts = known.match([*crystals, foreign])
    assert [v.passed for v in verdicts[:-1]] == [False] * len(crystals)
    assert (verdicts[-1].passed, verdicts[-1].reason) == (None, Reason.NO_REFERENCE)
    assert "Po" in verdicts[-1].detail
    assert len(mp_server.layer.searches()) == 1, "all systems of a batch in one query"
    assert len(known.entries(("Cl", "Na"))) == 3
    assert known.info.n_phases == 16
    offline = reference(None, tmp_path, ())
    assert [v.passed for v in offline.match(crystals)] == [False] * len(crystals)


def test_a_server_that_goes_away_is_said_at_the_crystals(client, mp_server, tmp_path, monkeypatch):
    known = reference(client, tmp_path, ())
    assert isinstance(known, MpOnDemand)
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    (verdict,) = known.match([Crystal(4.0 * _cube(), [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])])
    assert (verdict.passed, verdict.reason) == (None, Reason.NO_REFERENCE)
    assert "cannot be reached" in verdict.detail
    monkeypatch.setenv("MP_API_ENDPOINT", mp_server.address)
    assert len(known.entries(("Cl", "Na"))) == 3


def _cube():
    import numpy as np

    return np.eye(3)


def test_the_live_server(tmp_path):
    key = os.environ.get("MP_API_KEY")
    if not key or os.environ.get("HELIODOR_LIVE_TESTS") != "1":
        pytest.skip("set MP_API_KEY and HELIODOR_LIVE_TESTS=1 to ask the Materials Project itself")
    known = reference(MpClient(SecretStr(key)), tmp_path, ("Mg", "O"))
    oxide = [p for p in known.entries(("Mg", "O")) if p.composition == ((8, 1), (12, 1))]
    lowest = min(p.formation_energy_per_atom for p in oxide)
    assert lowest == pytest.approx(-3.04, abs=0.1)
    assert [SYMBOLS[z] for z, _ in oxide[0].composition] == ["O", "Mg"]
    assert replace(known.info, date="").version
