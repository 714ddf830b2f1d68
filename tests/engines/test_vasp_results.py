"""Results of VASP: from task documents, and from folders brought home; what is wrong is a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("atomate2")

import ase
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar, Poscar
from pymatgen.io.vasp.outputs import Vasprun

from heliodor.core.convert import from_structure
from heliodor.core.records import Reason
from heliodor.engines.recipe import Parsed, Unfinished
from heliodor.engines.vasp_recipe import VaspRecipe

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
WUSTITE = Structure(
    Lattice.cubic(4.33), ["Fe"] * 4 + ["O"] * 4, FCC + [[x + 0.5, y, z] for x, y, z in FCC]
)
TITLES = ["PAW_PBE Fe_pv 02Aug2007", "PAW_PBE O 08Apr2002"]
STATIC, R2SCAN = VaspRecipe("MPGGAStaticMaker"), VaspRecipe("MP24DoubleRelaxStaticMaker")


@pytest.fixture
def write(vasp_outputs, tmp_path) -> Any:
    """Writes a static calculation of FeO, with the inputs of the set unless a test changes them."""

    def written(name: str = "run", recipe: VaspRecipe = STATIC, **changes: Any) -> Path:
        made = recipe._maker.last_set().get_input_set(WUSTITE, potcar_spec=True)
        incar = Incar({**made["INCAR"], **changes.pop("incar", {})})
        incar = Incar({name: value for name, value in incar.items() if value is not None})
        kpoints = made["KPOINTS"]
        if grid := changes.pop("grid", None):
            kpoints.kpts = [grid]
        titles = changes.pop("titles", TITLES)
        return vasp_outputs(tmp_path / name, WUSTITE, titles, incar, kpoints, **changes)

    return written


def document(folder: Path) -> dict[str, Any]:
    """The task document as a job store gives it back."""
    from emmet.core.tasks import TaskDoc

    return json.loads(json.dumps(jsanitize(TaskDoc.from_directory(folder), strict=True)))


def unfinished(found: Parsed | Unfinished, reason: Reason = Reason.DFT_FAILED) -> str:
    assert isinstance(found, Unfinished), found
    assert found.reason == reason
    assert found.mend is None  # custodian has tried what can be tried
    return found.detail


@pytest.mark.filterwarnings("ignore")
def test_a_finished_calculation(write):
    forces, stress = np.zeros((8, 3)), np.diag([-3, 1, 16.02176634])
    forces[3] = [0.03, 0.04, 0.0]
    folder = write(energy=-55.5, moment=16.0, gap=1.7, forces=forces, stress=stress)
    parsed = STATIC.parse(document(folder))
    assert isinstance(parsed, Parsed)
    assert parsed.crystal == from_structure(WUSTITE)
    assert (parsed.energy, parsed.converged, parsed.steps) == (-55.5, True, 0)
    assert parsed.max_force == pytest.approx(0.05)  # eV/angstrom
    assert np.linalg.norm(parsed.forces, axis=1).max() == pytest.approx(0.05)
    assert parsed.max_stress == pytest.approx(0.01)  # 16.02 kbar = 1.602 GPa = 0.01 eV/angstrom^3
    assert (parsed.magnetization, parsed.band_gap) == (16.0, pytest.approx(1.7))
    assert parsed.entry is not None
    assert json.loads(json.dumps(parsed.entry)) == {
        "run_type": "GGA+U",
        "is_hubbard": True,
        "hubbards": {"Fe": 5.3},
        "potcar_spec": [{"titel": title, "hash": None} for title in TITLES],
        "oxide_type": "oxide",
        "aspherical": True,
        "vasp_version": "6.4.2",
    }
    assert STATIC.parse_folder(folder) == parsed
    assert STATIC.parse_folder(folder.parent) == parsed  # found below


@pytest.mark.filterwarnings("ignore")
def test_parsing_leaves_the_document_as_it_is(write):
    given = document(write())
    before = json.dumps(given)
    STATIC.parse(given)
    assert json.dumps(given) == before


@pytest.mark.filterwarnings("ignore")
def test_the_name_that_newer_vasp_gives_to_pbe(write):
    # VASP 6.4.3 writes the functional of the potentials where older versions write "--".
    parsed = STATIC.parse_folder(write(gga="PE"))
    assert isinstance(parsed, Parsed)
    assert parsed.entry is not None
    assert parsed.entry["run_type"] == "GGA+U"


@pytest.mark.filterwarnings("ignore")
def test_r2scan(write):
    spacing = (7, 7, 7)  # 2 pi / 4.33 / 0.22 = 6.6
    parsed = R2SCAN.parse_folder(write(recipe=R2SCAN, divisions=spacing))
    assert isinstance(parsed, Parsed)
    assert parsed.entry is not None
    assert (parsed.entry["run_type"], parsed.entry["hubbards"]) == ("R2SCAN", {})
    assert "k-points" in unfinished(R2SCAN.parse_folder(write("coarse", R2SCAN, divisions=(2, 2, 2))))


@pytest.mark.filterwarnings("ignore")
def test_relaxations_count_their_steps_and_give_no_static_energy(write):
    relaxed = {"NSW": 99, "IBRION": 2, "ISIF": 3}
    folder = write(incar=relaxed, electronic=(30, 12, 8))
    parsed = STATIC.parse(document(folder))  # within the Flow: the job before the static one
    assert isinstance(parsed, Parsed)
    assert parsed.steps == 3
    assert "a relaxation" in unfinished(STATIC.parse_folder(folder))
    assert isinstance(VaspRecipe("MPGGARelaxMaker").parse_folder(folder), Parsed)


@pytest.mark.filterwarnings("ignore")
def test_what_did_not_converge_is_said(write):
    electrons = write("electrons", electronic=(100,))
    geometry = write("geometry", incar={"NSW": 3, "IBRION": 2}, electronic=(20, 10, 10))
    for found in (STATIC.parse_folder(electrons), STATIC.parse(document(electrons))):
        assert unfinished(found, Reason.DFT_NOT_CONVERGED) == (
            "the electrons did not converge in 100 steps (NELM)"
        )
    found = STATIC.parse(document(geometry))
    assert "the geometry did not converge in 3 steps" in unfinished(found, Reason.DFT_NOT_CONVERGED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"incar": {"ENCUT": 400.0}}, "ENCUT is 400 eV, not 520"),
        ({"incar": {"ISPIN": 1}}, "not spin-polarised"),
        ({"incar": {"GGA": "PS"}}, "the functional is PBEsol"),
        ({"incar": {"METAGGA": "R2SCAN"}}, "the functional is R2SCAN"),
        ({"grid": (4, 4, 4)}, "64 k-points in the grid; the set has 216"),
        ({"titles": ["PAW_PBE Fe 06Sep2000", TITLES[1]]}, "the potential is Fe, not Fe_pv"),
        ({"titles": ["PAW Fe_pv 02Aug2007", "PAW O 22Mar2012"]}, "not of PBE"),
    ],
)
def test_another_level_is_refused(write, changes, words):
    assert words in unfinished(STATIC.parse_folder(write(**changes)))


@pytest.mark.filterwarnings("ignore")
def test_a_wider_cutoff_and_a_finer_grid_are_taken(write):
    assert isinstance(STATIC.parse_folder(write(incar={"ENCUT": 600.0}, grid=(8, 8, 8))), Parsed)


@pytest.mark.filterwarnings("ignore")
def test_truncated_and_foreign_files(write, tmp_path):
    folder = write()
    whole = (folder / "vasprun.xml").read_text()
    for part in (whole[: len(whole) // 2], whole[:-20], "", "Total energy: -55.5 Ry\n"):
        (folder / "vasprun.xml").write_text(part)
        assert "truncated or not its own" in unfinished(STATIC.parse_folder(folder))
    (folder / "vasprun.xml").write_text(whole)
    (folder / "OUTCAR").write_text("")
    assert "truncated or not its own" in unfinished(STATIC.parse_folder(folder))
    (folder / "OUTCAR").unlink()
    assert "OUTCAR must be there too" in unfinished(STATIC.parse_folder(folder))
    assert STATIC.parse_folder(tmp_path / "nothing") is None


@pytest.mark.filterwarnings("ignore")
def test_documents_that_are_none(write):
    whole = document(write())
    broken: list[dict[str, Any]] = [{}, {"energy": -1.0}, {**whole, "calcs_reversed": []}]
    broken += [{**whole, "calcs_reversed": None}, {**whole, "output": None}]
    for output in broken:
        assert "cannot be read" in unfinished(STATIC.parse(output))
    infinite = {**whole, "output": {**whole["output"], "energy": float("inf")}}
    assert unfinished(STATIC.parse(infinite)) == "the energy is inf"


@pytest.mark.filterwarnings("ignore")
def test_a_real_file_of_vasp(vasp_outputs, tmp_path):
    # ASE ships a vasprun.xml of VASP 6.3.0: diamond with LDA potentials, which emmet calls "GGA".
    real = Path(ase.__file__).parent / "test" / "testdata" / "vasp" / "vasprun_pstress.xml"
    if not real.is_file():
        pytest.skip("this ASE has no VASP files")
    run = Vasprun(real, parse_potcar_file=False)
    vasp_outputs(
        tmp_path, run.final_structure, ["PAW C 22Mar2012"], Incar({"ENCUT": 400.0}), None,
        divisions=(4, 4, 4), only=("OUTCAR", "CONTCAR"),
    )  # fmt: skip
    shutil.copy(real, tmp_path / "vasprun.xml")
    assert document(tmp_path)["run_type"] == "GGA"
    assert "'PAW C 22Mar2012' is not of PBE" in unfinished(STATIC.parse(document(tmp_path)))
    # The same file with the potential renamed is read, to the last digit that VASP printed.
    text = real.read_text().replace("PAW C 22Mar2012", "PAW_PBE C 08Apr2002")
    (tmp_path / "vasprun.xml").write_text(text)
    parsed = STATIC.parse(document(tmp_path))
    assert isinstance(parsed, Parsed)
    assert parsed.energy == pytest.approx(-20.24010135, abs=1e-9)
    kbar = np.array(run.ionic_steps[-1]["stress"])
    assert parsed.max_stress == pytest.approx(np.abs(kbar).max() / 1602.176634)
    np.testing.assert_allclose(parsed.stress, -kbar / 1602.176634)  # VASP's sign, and ASE's
    np.testing.assert_allclose(parsed.forces, run.ionic_steps[-1]["forces"])
    assert parsed.entry is not None
    assert parsed.entry["vasp_version"] == "6.3.0"


@pytest.mark.filterwarnings("ignore")
def test_a_job_that_raised_is_explained(write, tmp_path):
    from custodian.custodian import ReturnCodeError

    unconverged = write("unconverged", electronic=(100,))
    error = RuntimeError("Job was not successful")
    assert "electrons" in unfinished(STATIC.explain(unconverged, error), Reason.DFT_NOT_CONVERGED)

    empty = tmp_path / "empty"
    empty.mkdir()
    found = STATIC.explain(empty, FileNotFoundError(2, "No such file or directory: 'vasp_std'"))
    assert "VASP_CMD in ~/.atomate2.yaml" in unfinished(found)

    killed = ReturnCodeError("Job return code is -9. Terminating...", raises=True)
    (empty / "custodian.json").write_text(
        json.dumps([{"corrections": [{"errors": ["brmix"]}, {"errors": ["zpotrf"]}]}])
    )
    detail = unfinished(STATIC.explain(empty, killed), Reason.DFT_KILLED)
    assert "custodian had mended: brmix, zpotrf" in detail

    truncated = write("truncated")
    (truncated / "vasprun.xml").write_text("<modeling>")
    assert "ValueError: no" in unfinished(STATIC.explain(truncated, ValueError("no")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_flow_runs_with_atomate2s_test_double(vasp_outputs, tmp_path, monkeypatch):
    """Every job writes its inputs, "runs", and hands its files and structure to the next."""
    from atomate2.utils.testing.vasp import monkeypatch_vasp
    from jobflow import run_locally
    from jobflow.core.store import JobStore
    from maggma.stores import MemoryStore

    recipe = VaspRecipe()
    crystal = from_structure(WUSTITE)
    flow = recipe.flow(crystal, recipe.level(crystal.elements))
    relaxed = WUSTITE.copy().scale_lattice(80.0)
    paths = {}
    for i, (job, _) in enumerate(flow.iterflow()):
        made = job.maker.input_set_generator.get_input_set(WUSTITE, potcar_spec=True)
        place = tmp_path / "double" / str(i)
        outputs = vasp_outputs(
            place / "outputs", relaxed, TITLES, made["INCAR"], made["KPOINTS"],
            energy=-55.0 - i, electronic=(9,) if i == 2 else (15, 9), moment=16.0,
        )  # fmt: skip
        for name in ("WAVECAR", "CHGCAR"):
            (outputs / name).write_text("")
        (place / "inputs").mkdir()
        start = WUSTITE if i == 0 else relaxed
        texts = {"INCAR": made["INCAR"], "KPOINTS": made["KPOINTS"], "POSCAR": Poscar(start)}
        for name, part in {**texts, "POTCAR.spec": made["POTCAR.spec"]}.items():
            (place / "inputs" / name).write_text(str(part))
            (outputs / name).write_text(str(part))
        paths[job.name] = str(i)
    checked = {"incar_settings": ["ENCUT", "ISPIN", "LDAUU", "NSW", "LASPH"]}
    checked["check_inputs"] = ["incar", "poscar", "potcar"]
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    for play in monkeypatch_vasp(monkeypatch, tmp_path / "double"):
        play(paths, dict.fromkeys(paths, checked))
        run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, ensure_success=True)
    jobs = [job.uuid for job, _ in flow.iterflow()]
    first, second, last = (recipe.parse(store.get_output(uuid, load=True)) for uuid in jobs)
    assert isinstance(first, Parsed)
    assert isinstance(second, Parsed)
    assert isinstance(last, Parsed)
    assert [p.energy for p in (first, second, last)] == [-55.0, -56.0, -57.0]
    assert [p.steps for p in (first, second, last)] == [2, 2, 0]
    assert last.crystal.volume == pytest.approx(80.0)
    assert last.entry is not None
    assert last.entry["hubbards"] == {"Fe": 5.3}
