"""`heliodor screen --reference mp` and `reference fetch` against the Materials Project's server code."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from pymatgen.io.cif import CifWriter

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mp_server")]


@pytest.fixture
def crystals(mp_server, tmp_path):
    """Salt, an oxide, and one that the server does not have: each of another chemical system."""
    folder = tmp_path / "crystals"
    folder.mkdir()
    known = {e.entry_id: e.structure for e in mp_server.entries()}
    structures = [known["mp-22862-GGA"], known["mp-1960-GGA"], known["mp-22862-GGA"].copy()]
    structures[2].replace_species({"Na": "Li"})
    for name, structure in zip(("salt", "oxide", "new"), structures, strict=True):
        (folder / f"{name}.cif").write_text(str(CifWriter(structure)))
    return folder


def test_screen_fetches_what_the_input_needs_and_goes_on_offline(
    heliodor, mp_server, crystals, tmp_path
):
    command = ("screen", crystals, "--relaxer", "none", "--reference", "mp", "--out")
    wrong = heliodor(*command, "wrong", MP_API_ENDPOINT=mp_server.address, MP_API_KEY="w" * 32)
    assert wrong.returncode == 3
    assert "refused the key" in wrong.stderr
    assert "w" * 32 not in wrong.stdout + wrong.stderr

    online = {"MP_API_ENDPOINT": mp_server.address, "MP_API_KEY": mp_server.KEY}
    done = heliodor(*command, "out", **online)
    assert done.returncode == 0, done.stderr
    assert mp_server.KEY not in done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "out" / "crystals.parquet").set_index("formula")
    assert table["novel"].to_dict() == {"NaCl": False, "Li2O": False, "LiCl": True}
    assert len(mp_server.layer.searches()) == 1
    assert table["nearest_by_structure"].to_dict() == {"NaCl": "mp-22862", "Li2O": "mp-1960"} | {
        "LiCl": table["nearest_by_structure"]["LiCl"]  # an element's
    }
    assert table["amd_distance"][["NaCl", "Li2O"]].max() < 1e-3

    asked = len(mp_server.layer.asked)
    offline = heliodor(*command, "again")
    assert offline.returncode == 0, offline.stderr
    again = pd.read_parquet(tmp_path / "again" / "crystals.parquet").set_index("formula")
    assert again["novel"].to_dict() == table["novel"].to_dict()
    assert len(mp_server.layer.asked) == asked

    fetched = heliodor("reference", "fetch", "Fe-Li-O", **online)
    assert fetched.returncode == 0, fetched.stderr
    assert "1 of 1 chemical systems of Fe-Li-O" in fetched.stdout
    stable = heliodor("hull", "--chemsys", "Fe-Li-O", "--reference", "mp", "--json")
    assert stable.returncode == 0, stable.stderr
    assert "LiFeO2" in stable.stdout
    r2scan = ("hull", "--chemsys", "Li-O", "--reference", "mp", "--thermo-type", "R2SCAN", "--json")
    own = heliodor(*r2scan, **online)
    assert own.returncode == 0, own.stderr
    phases = {row["formula"]: row for row in json.loads(own.stdout)}
    assert set(phases) == {"Li", "O2", "Li2O"}
    # By hand: a cell of Li2O against two of Li and half of O2, eV/atom.
    expected = (-18.20 + 2 * 2.35 + 12.1 / 2) / 3
    assert phases["Li2O"]["formation_energy_per_atom"] == pytest.approx(expected)
    assert phases["Li2O"]["hull"] == "R2SCAN"
    refused = heliodor("hull", "--chemsys", "Li-O", "--thermo-type", "R2SCAN")
    assert refused.returncode == 2
    assert "--reference mp" in refused.stderr
