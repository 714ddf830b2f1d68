"""What DFT found, as those who learn from it read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from heliodor.cli import app
from heliodor.core.campaign import parse_campaign
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.ledger import Work
from heliodor.core.levels import Level
from heliodor.core.records import (
    Candidate,
    DftResult,
    DftTicket,
    Frame,
    Origin,
    Outcome,
    Stage,
    Status,
)
from heliodor.core.settings import load_settings
from heliodor.engines.dft_results import result_of, result_record, write_result
from heliodor.engines.finished import finished_results
from heliodor.flows import export_dft as flow
from heliodor.flows.build import open_ledger, remember
from heliodor.flows.export_dft import export_dft
from heliodor.generators.diffusion.data import packed
from heliodor.report.training_sets import KBAR
from heliodor.tasks.verify import Competitor, Plan, verdict
from heliodor.validators.reference_embedded import EmbeddedReference

PBE = Level.of("abinit-9.6.2", "PBE", "own", {"cutoff_eV": 680})
FINER = Level.of("abinit-9.6.2", "PBE", "own", {"cutoff_eV": 800})
CAMPAIGN = parse_campaign(
    {
        "name": "oxides",
        "generator": {"kind": "substitution"},
        "relaxer": {"kind": "chgnet"},
        "dft": {"kind": "vasp", "run": True},
    }
)


def rock_salt(a: float, numbers: Sequence[int] = (12, 8)) -> Crystal:
    """Not quite: the second atom is off its site, so that there are forces."""
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, [[0, 0, 0], [0.49, 0.5, 0.51]], np.array(numbers))


def computed(crystal: Crystal, energy: float, level: Level = PBE) -> DftResult:
    """Energy in eV per cell."""
    forces = ((0.01, -0.02, 0.03), (-0.01, 0.02, -0.03))
    stress = ((0.001, 0.0004, 0.0), (0.0004, -0.002, 0.0005), (0.0, 0.0005, 0.003))
    return DftResult(
        key=crystal.digest,
        input_digest=f"{crystal.digest}{level.digest}",
        level=level,
        crystal=crystal,
        energy=energy,
        max_force=0.037,
        max_stress=0.003,
        converged=True,
        steps=3,
        magnetization=0.5,
        band_gap=4.4,
        forces=forces,
        stress=stress,
    )


MG, O = computed(rock_salt(4.5, (12, 12)), -900.0), computed(rock_salt(4.0, (8, 8)), -865.0)
MGO = computed(rock_salt(4.21), -888.5)
OWN = computed(rock_salt(4.9), -888.32)


def keep(result: DftResult, folder: Path) -> DftResult:
    """Put a result where a calculation would, with a manifest."""
    place = folder / "dft" / f"{result.crystal.formula}-{result.input_digest[:12]}-{result.level.digest}"
    place.mkdir(parents=True)
    manifest = {"key": result.key, "input_digest": result.input_digest, "flow_uuid": "u", "files": {}}
    (place / "manifest.json").write_text(json.dumps(manifest))
    kept = replace(result, path=str(place))
    write_result(place, kept)
    return kept


def ticket(result: DftResult) -> DftTicket:
    return DftTicket(result.key, "abinit", result.path, result.input_digest, "u")


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Path:
    """A campaign with one verdict, and a calculation at another level."""
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    kept = [keep(r, folder) for r in (MG, O, MGO, OWN)]
    keep(computed(rock_salt(4.5, (12, 12)), -899.0, FINER), folder)
    remember(CAMPAIGN, folder)
    ledger = open_ledger(CAMPAIGN, folder, load_settings())
    proposed = rock_salt(4.85)
    hull = {
        "energy_above_hull": 0.02,
        "decomposition_energy": 0.02,
        "formation_energy_per_atom": -3.0,
        "decomposition": [["MgO", "mp-1265", 1.0]],
        "level": "chgnet-0.3.0",
    }
    candidate = Candidate(proposed, Origin("substitution", "1", 0, 0))
    assess = Outcome(0, Stage.ASSESS, Status.PASSED, data={"hull": hull})
    names = [("Mg", "element"), ("O", "element"), ("MgO", "mp-1265")]
    phases = zip(names, kept[:3], strict=True)
    competitors = [Competitor(ident, name, "reference", ticket(r)) for (name, ident), r in phases]
    plan = Plan(Work(0, candidate, assess), proposed, hull, ticket(kept[3]), tuple(competitors))
    judged = verdict(plan, {r.input_digest: r for r in kept}, EmbeddedReference(), 0.1)
    relaxed = Outcome(0, Stage.RELAX, Status.PASSED, crystal=proposed)
    ledger.add([(0, candidate)], PROVENANCE)
    ledger.record([relaxed, assess, judged], PROVENANCE)
    return folder


PROVENANCE = ("p", {"versions": {}, "platform": "", "machine": ""})


def test_one_folder_per_level_with_candidates_and_phases(campaign, tmp_path):
    coarse, fine = sorted(export_dft(campaign, tmp_path / "out"), key=lambda found: -found.crystals)
    assert (coarse.level, coarse.crystals, coarse.with_forces, coarse.verdicts) == (PBE, 4, 4, 1)
    assert (fine.level, fine.crystals, fine.verdicts) == (FINER, 1, 0)
    listed = json.loads((tmp_path / "out" / "levels.json").read_text())
    assert {Level.from_dict(entry["level"]) for entry in listed} == {PBE, FINER}
    images = ase.io.read(tmp_path / "out" / coarse.folder / "sevennet.extxyz", ":")
    assert {image.info["dft_level"] for image in images} == {PBE.digest}


def test_ase_reads_energy_forces_and_stress_of_the_results(campaign, tmp_path):
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    images = ase.io.read(tmp_path / found.folder / "sevennet.extxyz", ":")
    by_energy = {round(image.get_potential_energy(), 6): image for image in images}
    assert set(by_energy) == {-900.0, -865.0, -888.5, -888.32}
    image = by_energy[-888.32]
    assert image.cell.volume == pytest.approx(OWN.crystal.volume)
    np.testing.assert_allclose(image.get_forces(), OWN.forces)
    np.testing.assert_allclose(image.get_stress(voigt=False), OWN.stress)


def test_chgnets_file_has_kbar_with_vasps_sign(campaign, tmp_path):
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    content = json.loads((tmp_path / found.folder / "chgnet.json").read_text())
    [label] = content[f"MgO-{OWN.key[:12]}"].values()
    assert label["energy_per_atom"] == pytest.approx(OWN.energy / 2)
    assert label["stress"][0][0] == pytest.approx(-1.602, abs=0.001)  # 0.001 eV/angstrom^3, to shrink
    assert label["magmom"] is None


@pytest.mark.slow
def test_chgnet_reads_its_file_in_its_own_units(campaign, tmp_path):
    dataset = pytest.importorskip("chgnet.data.dataset")
    from chgnet.graph import CrystalGraphConverter

    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    path = tmp_path / found.folder / "chgnet.json"
    converter = CrystalGraphConverter(atom_graph_cutoff=6, bond_graph_cutoff=3)
    read = dataset.StructureJsonData(str(path), converter, targets="efsm", shuffle=False)
    graphs, targets = dataset.collate_graphs([read[i] for i in range(len(read))])
    assert read.failed_idx == []
    assert len(graphs) == 4
    n = [name for name, _ in read.keys].index(f"MgO-{OWN.key[:12]}")
    assert float(targets["e"][n]) == pytest.approx(OWN.energy / 2)
    np.testing.assert_allclose(targets["f"][n], OWN.forces, rtol=1e-5)
    np.testing.assert_allclose(targets["s"][n], 160.2177 * np.array(OWN.stress), rtol=1e-5)  # GPa
    assert targets["m"][n] is None


@pytest.mark.slow
def test_chgnet_gets_back_its_own_stress(campaign, tmp_path):
    """A result made by CHGNet itself: the sign of a squeezed crystal comes round."""
    pytest.importorskip("chgnet")
    from chgnet.model import CHGNet
    from pymatgen.core import Structure

    from heliodor.core.convert import to_structure

    crystal = rock_salt(4.0)
    said = CHGNet.load(verbose=False).predict_structure(to_structure(crystal))
    gpa = np.array(said["s"], dtype=float)
    assert np.trace(gpa) < -10  # squeezed: negative in ASE's sign
    result = replace(
        computed(crystal, 2 * float(said["e"])),
        forces=tuple(map(tuple, np.array(said["f"], dtype=float).tolist())),
        stress=tuple(map(tuple, (gpa / (KBAR / 10)).tolist())),
    )
    keep(result, campaign)
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    content = json.loads((tmp_path / found.folder / "chgnet.json").read_text())
    [label] = content[f"MgO-{crystal.digest[:12]}"].values()
    assert Structure.from_dict(label["structure"]).volume == pytest.approx(crystal.volume)
    np.testing.assert_allclose(-0.1 * np.array(label["stress"]), gpa, rtol=1e-6)


@pytest.mark.slow
def test_sevennet_reads_its_file(campaign, tmp_path):
    dataload = pytest.importorskip("sevenn.train.dataload")
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    read = dataload.ase_reader(str(tmp_path / found.folder / "sevennet.extxyz"))
    atoms = next(a for a in read if a.info["name"] == f"MgO-{OWN.key[:12]}")
    assert atoms.info["y_energy"] == pytest.approx(OWN.energy)
    np.testing.assert_allclose(atoms.arrays["y_force"], OWN.forces)
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = OWN.stress
    np.testing.assert_allclose(atoms.info["y_stress"], [-xx, -yy, -zz, -xy, -yz, -xz])


def test_the_generator_packs_the_table(campaign, tmp_path):
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    path = tmp_path / found.folder / "structures.parquet"
    read = packed(path)
    assert len(read) == 4
    assert {"dft_band_gap", "dft_energy_above_hull", "dft_formation_energy_per_atom"} <= set(read.labels)
    table = pd.read_parquet(path).set_index("material_id")
    own, phase = (table.loc[f"MgO-{r.key[:12]}"] for r in (OWN, MGO))
    # (-888.5 - (-450 - 432.5)) / 2; the other lies 0.18 eV per cell above it.
    assert phase["dft_formation_energy_per_atom"] == pytest.approx(-3.0)
    assert phase["dft_energy_above_hull"] == 0
    assert own["dft_energy_above_hull"] == pytest.approx(0.09)
    assert own["dft_magnetization_per_atom"] == pytest.approx(0.25)


def test_verdicts_are_compared_with_the_potential(campaign, tmp_path):
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    [line] = pd.read_csv(tmp_path / found.folder / "potential_against_dft.csv").to_dict("records")
    assert line["verdict"] == "metastable"
    assert line["decomposition_energy_dft"] == pytest.approx(0.09)
    assert line["decomposition_energy_potential"] == pytest.approx(0.02)
    assert line["volume_per_atom_dft"] / line["volume_per_atom_potential"] == pytest.approx(
        (4.9 / 4.85) ** 3
    )


def test_what_another_campaign_computed_is_there_too(campaign, tmp_path):
    place = next((campaign / "dft").glob(f"*{FINER.digest}"))
    shared = tmp_path / "cache" / "dft"
    shared.mkdir(parents=True)
    (place / "result.json").rename(shared / f"{computed(MG.crystal, 0.0, FINER).input_digest}.json")
    assert len(finished_results(campaign / "dft")) == 4
    assert len(finished_results(campaign / "dft", shared)) == 5


def test_damaged_foreign_and_failed_calculations_are_left_out(campaign):
    places = sorted((campaign / "dft").iterdir())
    (places[0] / "result.json").write_text('{"energy": 1')
    (places[1] / "result.json").unlink()
    (places[2] / "manifest.json").unlink()
    record = json.loads((places[3] / "result.json").read_text())
    (places[3] / "result.json").write_text(json.dumps(record | {"input_digest": "other"}))
    assert len(finished_results(campaign / "dft")) == 1


def test_results_without_forces_are_in_the_table_only(campaign, tmp_path):
    keep(replace(computed(rock_salt(4.3), -888.4), forces=None), campaign)
    found = max(export_dft(campaign, tmp_path), key=lambda found: found.crystals)
    assert (found.crystals, found.with_forces) == (5, 4)
    assert len(json.loads((tmp_path / found.folder / "chgnet.json").read_text())) == 4


def test_forces_and_stress_survive_the_result_file():
    assert result_of(json.loads(json.dumps(result_record(OWN)))) == OWN


def test_nothing_computed_is_said_before_anything_is_written(campaign, tmp_path):
    for path in (campaign / "dft").glob("*/result.json"):
        path.unlink()
    with pytest.raises(InputError, match="has a result"):
        export_dft(campaign, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(campaign, tmp_path):
    ended = CliRunner().invoke(app, ["export-dft", str(campaign), "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    assert "4 crystals" in ended.output
    assert PBE.name in ended.output.replace("\n", " ")


def test_steps_stand_under_the_name_of_their_crystal(campaign, tmp_path, monkeypatch):
    step = Frame(rock_salt(4.7), -888.0, ((0, 0, 0.2), (0, 0, -0.2)), OWN.stress)
    steps = {OWN.input_digest: [step, step], FINER.digest: [step]}
    monkeypatch.setattr(flow, "relaxation_path", lambda _, digest: steps.get(digest, []))
    plain = max(export_dft(campaign, tmp_path / "plain"), key=lambda found: found.crystals)
    assert plain.steps == 0
    found = max(export_dft(campaign, tmp_path, steps=True), key=lambda found: found.crystals)
    assert (found.crystals, found.with_forces, found.steps) == (4, 4, 2)
    name = f"MgO-{OWN.key[:12]}"
    content = json.loads((tmp_path / found.folder / "chgnet.json").read_text())
    assert list(content[name]) == [f"{name}-0", f"{name}-1", f"{name}-2"]
    assert content[name][f"{name}-0"]["energy_per_atom"] == pytest.approx(OWN.energy / 2)
    assert content[name][f"{name}-1"]["energy_per_atom"] == -444.0
    assert content[name][f"{name}-1"]["force"][0] == [0, 0, 0.2]
    images = ase.io.read(tmp_path / found.folder / "sevennet.extxyz", ":")
    assert [image.info["name"] for image in images].count(name) == 3
    assert len(images) == 6
    assert len(pd.read_parquet(tmp_path / found.folder / "structures.parquet")) == 4
