"""`heliodor verify`: verdicts by calculations that run, and kills that cost nothing that had ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.inputs import Incar, Kpoints

from heliodor.core.campaign import parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.ledger import Ledger
from heliodor.core.records import Outcome, Stage, Status
from heliodor.core.settings import load_settings
from heliodor.flows.build import reopen
from heliodor.flows.verify import _same
from heliodor.flows.verify_finalists import with_dft
from heliodor.validators.energies import elemental_energies
from heliodor.validators.hull import ELEMENT_ID

pytestmark = pytest.mark.slow

FCC = Lattice([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def fcc(a: float, *species: str) -> Structure:
    """One species: fcc; two: B3; that is what the positions say."""
    sites = [[0, 0, 0], [0.25] * 3][: len(species)]
    return Structure(Lattice(a * FCC.matrix), species, sites)


def l1_2(a: float, corner: str, faces: str) -> Structure:
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Structure(Lattice.cubic(a), [corner, faces, faces, faces], sites)


ALUMINIUM = fcc(4.05, "Al")
LITHIUM = Structure(Lattice.cubic(3.44), ["Li", "Li"], [[0, 0, 0], [0.5] * 3])
B32 = Structure(  # the NaTl type: two diamond lattices
    Lattice(6.37 * FCC.matrix), ["Al", "Al", "Li", "Li"], [[0] * 3, [0.25] * 3, [0.5] * 3, [0.75] * 3]
)

# Known phases. Energies by hand, such that LiAl lies on the hull: -0.2 eV/atom against the elements.
KNOWN = [(ALUMINIUM, "al", 0.0), (LITHIUM, "li", 0.0), (B32, "lial", -0.2)]


@pytest.fixture
def campaign(tmp_path, write_campaign) -> Path:
    """LiAl3 against a table of structures."""
    elements = elemental_energies()
    entries = [
        ComputedStructureEntry(
            structure,
            sum(elements[z] for z in structure.atomic_numbers) + formation * len(structure),
            entry_id=name,
            data={"formation_energy_per_atom": formation},
        ).as_dict()
        for structure, name, formation in KNOWN
    ]
    (tmp_path / "known.json").write_text(json.dumps(entries))
    folder = tmp_path / "proposed"
    folder.mkdir()
    l1_2(4.02, "Li", "Al").to(str(folder / "a.cif"))
    return write_campaign(
        "verified",
        space={"elements": ["Al", "Li"], "subsystems": True},
        generator={"kind": "files", "paths": [str(folder)]},
        reference={"kind": "file", "path": str(tmp_path / "known.json")},
        review={"scores": False},
        select={"max_energy_above_hull": 1.0, "top": 1},
        dft={"kind": "abinit", "kpoint_density": 120},
        budget={"candidates": 1, "round_size": 1},
    )


def verdicts(folder: Path) -> dict[int, Outcome]:
    ledger: Ledger
    ledger, _ = reopen(folder, load_settings())
    return {o.slot: o for o in ledger.outcomes(Stage.VERIFY)}


def jobs_run(folder: Path) -> dict[str, int]:
    """How many jobs ran in each calculation's folder."""
    return {
        p.name: len(list(p.glob("attempt-*/job_*"))) for p in (folder / "dft").iterdir() if p.is_dir()
    }


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("abinit") is None, reason="no ABINIT on this machine")
def test_a_campaign_ends_with_verdicts_and_repeats_nothing(heliodor, environment, campaign, tmp_path):
    """From proposal to verdict in one command, killed at the calculations and run again."""
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "heliodor.cli", "run", str(campaign), "--out", str(folder)]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while len(list(folder.glob("dft/*/result.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ended = {p.parent.name for p in folder.glob("dft/*/result.json")}
    assert verdicts(folder) == {}

    again = heliodor("run", campaign, "--out", folder)
    assert again.returncode == 0, again.stderr
    assert "level: PBE, abinit-" in again.stdout
    jobs = jobs_run(folder)
    assert len(jobs) == 4, "the crystal, two elements and LiAl"
    assert ended <= jobs.keys()
    assert set(jobs.values()) == {2}, (
        "relaxation and static once each; none that ended, and none that outlived the kill, again"
    )
    [outcome] = verdicts(folder).values()
    assert outcome.status in (Status.PASSED, Status.REJECTED), outcome
    data = outcome.data
    assert data["verdict"] in again.stdout
    assert data["level"]["code"].startswith("abinit-")
    assert data["result"]["max_force"] < 0.05
    assert data["compared"]["volume_ratio"] == pytest.approx(1, abs=0.1)
    assert {p["material_id"] for p in data["phases"]} >= {ELEMENT_ID}
    hull = data["hull"]
    assert hull["energy_above_hull"] == max(0.0, hull["decomposition_energy"])
    assert "by DFT" in (folder / "report.html").read_text()


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_vasp_that_ran_elsewhere(heliodor, campaign, vasp_outputs, tmp_path):
    """Written, computed somewhere else, copied back: judged once, on the reference's hull."""
    pytest.importorskip("atomate2")
    content = yaml.safe_load(campaign.read_text())
    content["dft"] = {"kind": "vasp", "maker": "MPGGAStaticMaker"}
    campaign.write_text(yaml.safe_dump(content))
    folder = tmp_path / "elsewhere"
    done = heliodor("run", campaign, "--out", folder)
    assert done.returncode == 0, done.stderr
    [place] = [p for p in (folder / "dft").iterdir() if p.is_dir()]

    def verify() -> dict:
        done = heliodor("verify", folder, "--json")
        assert done.returncode == 0, done.stderr
        [row] = json.loads(done.stdout)
        return row

    waiting = heliodor("verify", folder)
    assert "not computed" in waiting.stdout
    assert "copy it back" in waiting.stdout
    assert verdicts(folder) == {}

    asked = Structure.from_file(place / "vasp" / "POSCAR")
    titles = {"Li": "PAW_PBE Li_sv 10Sep2004", "Al": "PAW_PBE Al 04Jan2001"}
    incar, kpoints = (
        kind.from_file(place / "vasp" / kind.__name__.upper()) for kind in (Incar, Kpoints)
    )
    elements = elemental_energies()
    energy = sum(elements[z] for z in asked.atomic_numbers) - 0.05 * len(asked)

    def came_back(structure: Structure = asked) -> None:
        kinds = dict.fromkeys(site.specie.symbol for site in structure)
        vasp_outputs(
            place / "vasp", structure, [titles[k] for k in kinds], incar, kpoints, energy=energy
        )

    came_back(B32)  # another crystal's files
    row = verify()
    assert row["verdict"] == "failed"
    assert "is not the crystal that was asked for" in row["detail"]
    assert verdicts(folder)[0].attempt == 1
    assert not (place / "result.json").exists()

    came_back()
    row = verify()
    assert row["verdict"] == "metastable"
    assert row["energy_above_hull"] == pytest.approx(0.05)  # the hull there: half of LiAl's -0.2
    assert row["corrections"].startswith("MP2020")
    before = verdicts(folder)[0]
    assert before.attempt == 2
    assert before.data["result"]["entry"]["run_type"] == "GGA"
    assert verify() == row
    assert verdicts(folder)[0] == before
    assert len(list((folder / "dft").glob("*.incomplete-*"))) == 0


def test_an_engine_without_results_is_refused():
    content = {"name": "c", "generator": {"kind": "random"}, "dft": {"kind": "none"}}
    with pytest.raises(InputError, match="computes nothing that could be judged") as refused:
        with_dft(parse_campaign(content), None)
    assert "--dft abinit" in (refused.value.hint or "")
    assert with_dft(parse_campaign(content), {"kind": "mlip"}).dft.kind == "mlip"
    r2scan = {"kind": "vasp", "maker": "MP24DoubleRelaxStaticMaker"}
    made = with_dft(parse_campaign(content | {"dft": r2scan}), {"kind": "vasp", "run": True}).dft
    assert (made.maker, made.run) == (r2scan["maker"], True)
    assert not with_dft(parse_campaign(content | {"dft": r2scan}), {"run": False}).dft.run


def test_a_crystal_is_not_its_own_competitor():
    a = Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([11]))
    b = Crystal(np.eye(3) * 4.05, np.zeros((1, 3)) + 0.1, np.array([11]))
    c = Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([19]))
    bcc = Crystal(np.eye(3) * 5, np.array([[0, 0, 0], [0.5] * 3]), np.array([11, 11]))
    assert _same(a, b)
    assert not _same(a, c)
    assert not _same(a, bcc)
