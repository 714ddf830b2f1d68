"""VASP inputs and Flows: the Materials Project's settings, idempotence, and what a cluster reads."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("atomate2")

from monty.json import MontyDecoder
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError, MissingError, StorageError
from heliodor.core.protocols import DftEngine
from heliodor.core.records import DftTicket, Failure, Reason
from heliodor.engines import calculation_folder
from heliodor.engines.calculation_folder import complete, place, write
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.manifest_list import write_manifest
from heliodor.engines.vasp_recipe import VaspRecipe

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def rocksalt(cation: str, a: float = 4.21) -> Crystal:
    return from_structure(
        Structure(Lattice.cubic(a), [cation] * 4 + ["O"] * 4, np.concatenate([FCC, FCC + 0.5]))
    )


@cache
def triphylite() -> Crystal:
    # Streltsov et al., Acta Cryst. B 49, 147 (1993): LiFePO4, Pnma, angstrom.
    return from_structure(
        Structure.from_spacegroup(
            "Pnma",
            Lattice.orthorhombic(10.332, 6.010, 4.692),
            ["Li", "Fe", "P", "O", "O", "O"],
            [
                [0, 0, 0],
                [0.2822, 0.25, 0.9747],
                [0.0949, 0.25, 0.4183],
                [0.0968, 0.25, 0.7428],
                [0.4571, 0.25, 0.2060],
                [0.1656, 0.0465, 0.2848],
            ],
        )
    )


def iron() -> Crystal:
    return from_structure(Structure(Lattice.cubic(2.866), ["Fe", "Fe"], [[0, 0, 0], [0.5] * 3]))


@pytest.fixture(scope="module")
def engine() -> FlowEngine:
    return FlowEngine(VaspRecipe())


def prepare(engine: FlowEngine, crystal: Crystal, folder: Path) -> tuple[Path, dict]:
    [ticket] = engine.prepare([crystal], folder)
    assert isinstance(ticket, DftTicket), ticket
    path = Path(ticket.path)
    return path, json.loads((path / "manifest.json").read_text())


def test_is_a_dft_engine(engine):
    assert isinstance(engine, DftEngine)
    assert engine.name == "vasp"


def test_oxide_has_mp_settings(engine, tmp_path):
    path, manifest = prepare(engine, triphylite(), tmp_path)
    incar = Incar.from_file(path / "vasp" / "INCAR")
    # MPRelaxSet: 520 eV; 5e-5 eV per atom of 28; U(Fe) 5.3 eV in oxides, on d states only.
    assert incar["ENCUT"] == 520
    assert incar["EDIFF"] == pytest.approx(28 * 5e-5)
    assert (incar["ISPIN"], incar["ISIF"], incar["IBRION"], incar["NSW"]) == (2, 3, 2, 99)
    poscar = Poscar.from_file(path / "vasp" / "POSCAR")
    by_species = dict(zip(poscar.site_symbols, incar["LDAUU"], strict=True))
    assert by_species == {"Li": 0, "Fe": 5.3, "P": 0, "O": 0}
    assert dict(zip(poscar.site_symbols, incar["LDAUL"], strict=True))["Fe"] == 2
    moments = dict(zip([s.specie.symbol for s in poscar.structure], incar["MAGMOM"], strict=True))
    assert moments == {"Li": 0.6, "Fe": 5, "P": 0.6, "O": 0.6}
    potentials = dict(
        zip(poscar.site_symbols, (path / "vasp/POTCAR.spec").read_text().split(), strict=True)
    )
    assert potentials == {"Li": "Li_sv", "Fe": "Fe_pv", "P": "P", "O": "O"}
    settings = manifest["settings"]
    assert settings["hubbard_u"] == {"Fe": 5.3}
    assert settings["run_type"] == "GGA+U"
    assert settings["initial_moments"] == moments
    assert settings["potcar_symbols"] == list(potentials.values())
    assert settings["potcar_functional"] == "PBE"
    # 64 k-points per reciprocal cubic angstrom, gamma-centred: with n = 64 (2 pi)^3 / V points in all,
    # (n V)^(1/3) = 25.1 angstrom is shared out as 25.1 / a, 25.1 / b, 25.1 / c, rounded down.
    kpoints = Kpoints.from_file(path / "vasp" / "KPOINTS")
    assert str(kpoints.style).lower().endswith("gamma")
    assert list(kpoints.kpts[0]) == settings["kpoints"][0] == [2, 4, 5]


def test_metal_has_no_u_and_is_magnetic(engine, tmp_path):
    path, manifest = prepare(engine, iron(), tmp_path)
    incar = Incar.from_file(path / "vasp" / "INCAR")
    assert "LDAUU" not in incar
    assert incar["MAGMOM"] == [5, 5]
    assert manifest["settings"]["run_type"] == "GGA"
    assert manifest["settings"]["hubbard_u"] == {}


def test_f_element_and_pymatgens_warning(engine, tmp_path, recwarn):
    path, _ = prepare(engine, rocksalt("Gd", 5.0), tmp_path)
    assert Incar.from_file(path / "vasp" / "INCAR")["LMAXMIX"] == 6
    assert (path / "vasp/POTCAR.spec").read_text().split() == ["Gd", "O"]
    _, manifest = prepare(engine, rocksalt("Yb", 4.9), tmp_path)
    assert manifest["settings"]["potcar_symbols"] == ["Yb_2", "O"]
    assert "Yb_2" in manifest["notes"][0]  # kept for the user, not thrown at the terminal
    assert not [w for w in recwarn if "Ytterbium" in str(w.message)]


def test_poscar_is_the_crystal_as_it_is(engine, tmp_path):
    # A supercell with one atom moved: nothing is reduced, symmetrised or standardised.
    structure = to_structure(rocksalt("Mg"))
    structure.make_supercell([1, 1, 2])
    structure.translate_sites([3], [0.01, 0.02, 0.0])
    path, _ = prepare(engine, from_structure(structure), tmp_path)
    written = Poscar.from_file(path / "vasp" / "POSCAR").structure
    np.testing.assert_allclose(written.lattice.matrix, structure.lattice.matrix, atol=1e-9)
    assert from_structure(written).digest == from_structure(structure).digest


def test_left_handed_cell_becomes_right_handed(engine, tmp_path):
    crystal = rocksalt("Mg")
    mirrored = Crystal(crystal.lattice * [1, 1, -1], crystal.frac_coords, crystal.atomic_numbers)
    path, _ = prepare(engine, mirrored, tmp_path)
    assert np.linalg.det(Poscar.from_file(path / "vasp" / "POSCAR").structure.lattice.matrix) > 0


JOBS = {
    "MPGGADoubleRelaxStaticMaker": ["MP GGA relax 1", "MP GGA relax 2", "MP GGA static"],
    "MPGGARelaxMaker": ["MP GGA relax"],
    "MPGGAStaticMaker": ["MP GGA static"],
}


def test_flows_reload_in_a_fresh_process(tmp_path):
    tickets = [FlowEngine(VaspRecipe(maker)).prepare([rocksalt("Mg")], tmp_path)[0] for maker in JOBS]
    script = (
        "import json, sys\n"
        "from monty.json import MontyDecoder\n"
        "for path in sys.argv[1:]:\n"
        "    flow = json.load(open(path), cls=MontyDecoder)\n"
        "    found = [(job.name, len(parents), job.metadata['heliodor']['key'])"
        " for job, parents in flow.iterflow()]\n"
        "    structure = next(flow.iterflow())[0].function_args[0]\n"
        "    line = [type(flow).__name__, flow.uuid, flow.name, found, structure.formula]\n"
        "    print('>', json.dumps(line))\n"
        "assert not [m for m in sys.modules if m.startswith('heliodor')]\n"
    )
    # An empty home: no pymatgen or atomate2 configuration is needed.
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", script, *(f"{ticket.path}/flow.json" for ticket in tickets)],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    lines = [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("> ")]
    for (maker, jobs), ticket, line in zip(JOBS.items(), tickets, lines, strict=True):
        kind, uuid, name, found, formula = line
        assert (kind, uuid, formula) == ("Flow", ticket.flow_uuid, "Mg4 O4")
        assert name.startswith("MgO ")
        assert [job for job, _, _ in found] == jobs
        assert [parents for _, parents, _ in found] == [0] + [1] * (len(jobs) - 1)
        assert {key for _, _, key in found} == {ticket.key}
        manifest = json.loads((Path(ticket.path) / "manifest.json").read_text())
        assert (manifest["maker"], manifest["jobs"], manifest["n_jobs"]) == (maker, jobs, len(jobs))


def test_folder_holds_what_the_flow_will_write(engine, tmp_path):
    path, _ = prepare(engine, triphylite(), tmp_path)
    flow = json.loads((path / "flow.json").read_text(), cls=MontyDecoder)
    job, _ = next(flow.iterflow())
    own = job.maker.input_set_generator.get_input_set(job.function_args[0], potcar_spec=True)
    for name in ("INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"):
        assert (path / "vasp" / name).read_text().split() == str(own[name]).split(), name


def test_static_maker_writes_static_inputs(tmp_path):
    path, _ = prepare(FlowEngine(VaspRecipe("MPGGAStaticMaker")), rocksalt("Mg"), tmp_path)
    assert Incar.from_file(path / "vasp" / "INCAR")["NSW"] == 0


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_same_crystal_is_written_once(engine, tmp_path):
    crystal = triphylite()
    [first] = engine.prepare([crystal], tmp_path)
    before = snapshot(tmp_path)
    order = np.random.default_rng(0).permutation(len(crystal))
    shuffled = Crystal(crystal.lattice, crystal.frac_coords[order], crystal.atomic_numbers[order])
    assert engine.prepare([crystal, shuffled], tmp_path) == [first, first]
    assert FlowEngine(VaspRecipe()).prepare([crystal], tmp_path) == [first]
    assert snapshot(tmp_path) == before
    assert Path(first.path).name == f"LiFePO4-{crystal.digest[:12]}"


def test_another_maker_stands_beside(engine, tmp_path):
    [relax] = engine.prepare([rocksalt("Mg")], tmp_path)
    static_engine = FlowEngine(VaspRecipe("MPGGAStaticMaker"))
    [static] = static_engine.prepare([rocksalt("Mg")], tmp_path)
    assert static.key == relax.key
    assert static.path != relax.path
    assert static.input_digest != relax.input_digest
    assert engine.prepare([rocksalt("Mg")], tmp_path) == [relax]
    assert static_engine.prepare([rocksalt("Mg")], tmp_path) == [static]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text('{"key": "'),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: (path / "flow.json").unlink(),
        lambda path: (path / "flow.json").write_text("{}"),
        lambda path: (path / "vasp" / "INCAR").write_text(""),
    ],
)
def test_half_written_folder_is_made_again(engine, tmp_path, damage):
    [ticket] = engine.prepare([rocksalt("Mg")], tmp_path)
    path = Path(ticket.path)
    (path / "notes.txt").write_text("mine")
    damage(path)
    [again] = engine.prepare([rocksalt("Mg")], tmp_path)
    assert (again.key, again.path, again.input_digest) == (ticket.key, ticket.path, ticket.input_digest)
    assert json.loads((path / "flow.json").read_text())["uuid"] == again.flow_uuid
    [aside] = tmp_path.glob("*.incomplete-*")
    assert (aside / "notes.txt").read_text() == "mine"  # nothing of the user's is deleted
    assert engine.prepare([rocksalt("Mg")], tmp_path) == [again]


@pytest.mark.slow
def test_kill_leaves_nothing_that_looks_complete(tmp_path):
    # A process that dies by SIGKILL just before the rename.
    script = (
        "import os, signal, sys, pathlib, json\n"
        "from heliodor.engines.dft_engine import FlowEngine\n"
        "from heliodor.engines.vasp_recipe import VaspRecipe\n"
        "from heliodor.core.crystal import Crystal\n"
        "pathlib.Path.rename = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "crystal = Crystal.from_bytes(bytes.fromhex(sys.argv[1]))\n"
        "FlowEngine(VaspRecipe()).prepare([crystal], pathlib.Path(sys.argv[2]))\n"
    )
    crystal = rocksalt("Mg")
    command = [sys.executable, "-c", script, crystal.to_bytes().hex(), str(tmp_path)]
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True).returncode == -9
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".")
    [ticket] = FlowEngine(VaspRecipe()).prepare([crystal], tmp_path)
    assert complete(Path(ticket.path)) is not None
    assert left.exists()  # it could belong to a live process
    old = time.time() - 2 * calculation_folder._STALE_SECONDS
    os.utime(left, (old, old))
    FlowEngine(VaspRecipe()).prepare([], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [Path(ticket.path).name]


def test_two_writers_agree_on_one_flow(engine, tmp_path):
    crystals = [rocksalt("Mg", 4.2 + 0.01 * i) for i in range(3)]
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: FlowEngine(VaspRecipe()).prepare(crystals, tmp_path), range(4))
        )
    assert all(result == results[0] for result in results)
    assert len(list(tmp_path.iterdir())) == 3


def test_losing_the_race_takes_the_winners_flow(engine, tmp_path):
    level = engine.level(["Mg", "O"])
    inputs = engine.recipe.inputs(rocksalt("Mg"), level)
    target, none = place(tmp_path, rocksalt("Mg"), inputs.digest)
    assert none is None
    texts, record = engine._calculation(rocksalt("Mg"), level, inputs)
    [winner] = engine.prepare([rocksalt("Mg")], tmp_path)
    assert record["flow_uuid"] != winner.flow_uuid
    assert write(target, texts, record)["flow_uuid"] == winner.flow_uuid
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_bad_crystals_fail_alone(engine, tmp_path):
    good = rocksalt("Mg")
    nan = Crystal(good.lattice * np.nan, good.frac_coords, good.atomic_numbers)
    flat = Crystal(good.lattice * [1, 1, 0], good.frac_coords, good.atomic_numbers)
    overlapping = Crystal(good.lattice, good.frac_coords * 0, good.atomic_numbers)
    batch = [rocksalt("Po"), good, rocksalt("Cm"), nan, flat, overlapping, iron()]
    results = engine.prepare(batch, tmp_path)
    assert [r.key for r in results] == [c.digest for c in batch]
    assert [isinstance(r, DftTicket) for r in results] == [False, True, False, False, False, False, True]
    failures = [r for r in results if isinstance(r, Failure)]
    assert {f.reason for f in failures} == {Reason.DFT_INPUT, Reason.DFT_ELEMENT}
    assert "Po: no potential in MPStaticSet" in failures[0].detail
    assert "Cm: no potential" in failures[1].detail
    assert "not finite" in failures[2].detail
    assert "flat" in failures[3].detail
    assert len(list(tmp_path.iterdir())) == 2


def test_unknown_maker():
    with pytest.raises(InputError, match=r"dft\.maker: got 'RelaxMaker'.*MPGGAStaticMaker"):
        FlowEngine(VaspRecipe("RelaxMaker"))  # atomate2's default: PBEsol


def test_missing_atomate2(monkeypatch):
    monkeypatch.setitem(sys.modules, "atomate2", None)
    with pytest.raises(MissingError, match="atomate2") as caught:
        FlowEngine(VaspRecipe("MPGGARelaxMaker"))
    assert "heliodor[vasp]" in str(caught.value)


def test_unwritable_folder_is_a_storage_error(engine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write DFT inputs"):
        engine.prepare([rocksalt("Mg")], tmp_path / "file" / "dft")


def test_many_crystals_build_the_schema_a_few_times_only(engine, tmp_path, monkeypatch):
    from jobflow.core import reference

    original, calls = reference.validate_schema_access, []

    def counted(schema, item):
        calls.append(item)
        return original(schema, item)

    monkeypatch.setattr(reference, "validate_schema_access", counted)
    crystals = [rocksalt("Mg", 4.0 + 0.01 * i) for i in range(20)]
    start = time.process_time()
    results = engine.prepare(crystals, tmp_path)
    assert time.process_time() - start < 5  # 0.7 s on a quiet machine
    assert len({r.flow_uuid for r in results}) == 20
    assert sorted(calls) == ["dir_name", "structure"]


def test_list_of_calculations(engine, tmp_path):
    results = engine.prepare([triphylite(), rocksalt("Po"), rocksalt("Yb", 4.9)], tmp_path)
    tickets = [r for r in results if isinstance(r, DftTicket)]
    gone = DftTicket("f" * 64, "vasp", str(tmp_path / "Gone-ffffffffffff"), "d" * 64, "u")
    table = write_manifest(tmp_path, [*tickets, gone])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["formula"] for r in rows] == ["LiFePO4", "YbO", ""]
    assert [r["key"] for r in rows] == [tickets[0].key, tickets[1].key, gone.key]
    assert rows[0]["hubbard_u"] == "Fe=5.3"
    assert rows[0]["potcar_symbols"] == "Li_sv Fe_pv P O"
    assert rows[1]["notes"]
    listed = json.loads((tmp_path / "manifest.json").read_text())
    assert [r["folder"] for r in listed] == [Path(t.path).name for t in [*tickets, gone]]
    assert (tmp_path / listed[0]["folder"] / "flow.json").is_file()
    # A copy of the folder lists the same, whatever the absolute paths of the tickets.
    copied = tmp_path.with_name(tmp_path.name + "-copy")
    tmp_path.rename(copied)
    assert (
        json.loads(write_manifest(copied, [*tickets, gone]).with_suffix(".json").read_text()) == listed
    )
    assert not list(copied.glob(".*"))


def test_readme_code_runs(engine, tmp_path):
    # The lines that need no VASP, as a user would paste them.
    [ticket] = engine.prepare([iron()], tmp_path)
    write_manifest(tmp_path, [ticket])
    readme = (tmp_path / "README.txt").read_text()
    code = re.search(r"(  import json\n.*?)  run_locally", readme, re.DOTALL).group(1)
    code = re.sub("^  ", "", code, flags=re.MULTILINE).replace("FOLDER", ticket.path)
    scope: dict = {}
    exec(code, scope)  # noqa: S102
    assert scope["flow"].uuid == ticket.flow_uuid
    assert {"create_folders", "ensure_success"} <= inspect.signature(
        scope["run_locally"]
    ).parameters.keys()


def test_empty_batch(engine, tmp_path):
    assert engine.prepare([], tmp_path / "dft") == []
    assert write_manifest(tmp_path / "dft", []).read_text().startswith("formula,folder,key")
