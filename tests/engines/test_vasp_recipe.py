"""VASP inputs against the Materials Project's own rules, for crystals of varied chemistry."""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
import sys
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pytest

pytest.importorskip("atomate2")
pytest.importorskip("pymatgen.io.validation")

from monty.json import MontyEncoder
from monty.serialization import loadfn
from pymatgen.core import Lattice, Structure
from pymatgen.io.validation.check_potcar import CheckPotcar
from pymatgen.io.validation.common import PotcarSummaryStats, VaspFiles, VaspInputSafe
from pymatgen.io.validation.validation import VaspValidator
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
from pymatgen.io.vasp.sets import MPRelaxSet, MPStaticSet

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.levels import Level
from heliodor.engines.recipe import Inputs
from heliodor.engines.vasp_inputs import MAKERS
from heliodor.engines.vasp_recipe import VaspRecipe

DOUBLE, R2SCAN = "MPGGADoubleRelaxStaticMaker", "MP24DoubleRelaxStaticMaker"
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CSCL = [[0, 0, 0], [0.5, 0.5, 0.5]]
PEROVSKITE = [*CSCL, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def fcc(a: float, species: list[str], sites: list) -> Structure:
    """In the primitive cell of a face-centred lattice."""
    return Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), species, sites)


def cubic(a: float, species: list[str], sites: list) -> Structure:
    return Structure(Lattice.cubic(a), species, sites)


def corundum() -> Structure:
    u, x = 0.3553, 0.5559
    metal = [[v] * 3 for v in (u, 0.5 - u, 0.5 + u, 1 - u)]
    half = [np.roll([x, 0.5 - x, 0.25], n).tolist() for n in range(3)]
    oxygen = half + [[-v for v in site] for site in half]
    return Structure(Lattice.rhombohedral(5.43, 55.3), ["Fe"] * 4 + ["O"] * 6, metal + oxygen)


def pyrite() -> Structure:
    u = 0.385
    half = [[u, u, u], [0.5 + u, 0.5 - u, -u], [-u, 0.5 + u, 0.5 - u], [0.5 - u, -u, 0.5 + u]]
    sulfur = half + [[-v for v in site] for site in half]
    return cubic(5.418, ["Fe"] * 4 + ["S"] * 8, FCC + sulfur)


@cache
def candidates() -> dict[str, Structure]:
    """20 crystals at about their measured lattice constants (angstrom)."""
    a, b = 0.306, 0.5 - 0.306
    rutile = [*CSCL, [a, a, 0], [-a, -a, 0], [0.5 + a, b, 0.5], [b, 0.5 + a, 0.5]]
    return {
        "W": Structure(Lattice(1.5825 * (np.ones((3, 3)) - 2 * np.eye(3))), ["W"], [[0, 0, 0]]),
        "Fe": Structure(Lattice(1.433 * (np.ones((3, 3)) - 2 * np.eye(3))), ["Fe"], [[0, 0, 0]]),
        "Al": cubic(4.05, ["Al"] * 4, FCC),
        "NiTi": cubic(3.015, ["Ni", "Ti"], CSCL),
        "SmCo5": Structure(
            Lattice.hexagonal(5.0, 3.97), ["Sm"] + ["Co"] * 5,
            [[0, 0, 0], [1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5] * 3],
        ),
        "MgO": fcc(4.212, ["Mg", "O"], CSCL),
        "NiO": cubic(4.177, ["Ni"] * 4 + ["O"] * 4, FCC + [[x + 0.5, y, z] for x, y, z in FCC]),
        "Fe2O3": corundum(),
        "LiCoO2": Structure(
            Lattice.rhombohedral(4.96, 32.99), ["Li", "Co", "O", "O"],
            [[0.5] * 3, [0] * 3, [0.2395] * 3, [-0.2395] * 3],
        ),
        "LaMnO3": cubic(3.9, ["La", "Mn", "O", "O", "O"], PEROVSKITE) * (2, 2, 2),
        "BaTiO3": cubic(4.0, ["Ba", "Ti", "O", "O", "O"], PEROVSKITE),
        "Gd2O3": Structure(
            Lattice.hexagonal(3.86, 6.16), ["Gd", "Gd", "O", "O", "O"],
            [[1 / 3, 2 / 3, 0.24], [2 / 3, 1 / 3, 0.76], [0, 0, 0],
             [1 / 3, 2 / 3, 0.64], [2 / 3, 1 / 3, 0.36]],
        ),
        "CeO2": fcc(5.411, ["Ce", "O", "O"], [[0] * 3, [0.25] * 3, [0.75] * 3]),
        "CoF2": Structure(Lattice.tetragonal(4.695, 3.179), ["Co"] * 2 + ["F"] * 4, rutile),
        "KMnF3": cubic(4.19, ["K", "Mn", "F", "F", "F"], PEROVSKITE),
        "NaCl": fcc(5.64, ["Na", "Cl"], CSCL),
        "ZnS": fcc(5.41, ["Zn", "S"], [[0] * 3, [0.25] * 3]),
        "FeS2": pyrite(),
        "LaOF": Structure(
            Lattice.tetragonal(4.09, 5.84), ["La", "La", "O", "O", "F", "F"],
            [[0, 0.5, 0.22], [0.5, 0, 0.78], [0, 0, 0], [0.5, 0.5, 0], [0, 0, 0.5], [0.5] * 3],
        ),
        "FeOCl": Structure(
            Lattice.orthorhombic(3.78, 3.30, 7.92), ["Fe", "Fe", "O", "O", "Cl", "Cl"],
            [[0, 0.5, 0.116], [0.5, 0, 0.884], [0, 0, 0.952], [0.5, 0.5, 0.048],
             [0, 0, 0.33], [0.5, 0.5, 0.67]],
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def potcar_stats() -> dict:
    """pymatgen's fingerprints of VASP's potentials; read once, where the validator reads them anew."""
    return loadfn(resources.files("pymatgen.io.vasp") / "potcar-summary-stats.json.bz2", cls=None)


def fingerprints(stats: dict, functional: str, symbols: list[str]) -> list[PotcarSummaryStats]:
    found = []
    for symbol in symbols:
        title, known = next(
            (t, p) for t, all_of in stats[functional].items() for p in all_of if p["symbol"] == symbol
        )
        date = title.removeprefix(f"PAW_PBE{symbol}")
        found.append(
            PotcarSummaryStats(
                keywords=known["keywords"],
                stats=known["stats"],
                titel=f"PAW_PBE {symbol} {date}",
                lexch="PE",
            )
        )
    return found


def reasons(stats: dict, files: dict[str, str], functional: str, expected_set: str) -> list[str]:
    """Why pymatgen-io-validation would keep a calculation with these inputs out of the database."""
    kpoints = files.get("KPOINTS")
    vasp_files = VaspFiles(
        user_input=VaspInputSafe(
            incar=Incar.from_str(files["INCAR"]),
            kpoints=Kpoints.from_str(kpoints) if kpoints else None,
            structure=Poscar.from_str(files["POSCAR"]).structure,
            potcar=fingerprints(stats, functional, files["POTCAR.spec"].split()),
            potcar_functional=functional,
        )
    )
    assert vasp_files.valid_input_set_name == expected_set
    return VaspValidator.from_vasp_input(vasp_files=vasp_files).reasons


@cache
def jobs_of(maker: str) -> list[Any]:
    """The jobs of a Flow; their makers and input sets are the same for every crystal."""
    recipe = VaspRecipe(maker)
    crystal = from_structure(candidates()["MgO"])
    flow = recipe.flow(crystal, recipe.level(crystal.elements))
    return [job for job, _ in flow.iterflow()]


def job_inputs(maker: str, structure: Structure) -> dict[str, tuple[dict[str, str], str]]:
    """job -> files and POTCAR functional, as each job of the Flow would write them for a structure."""
    made = {}
    for job in jobs_of(maker):
        generator = job.maker.input_set_generator
        given = to_structure(from_structure(structure))
        written = copy.deepcopy(generator).get_input_set(given, potcar_spec=True)
        files = {name: str(part) for name, part in written.items() if part is not None}
        made[job.name] = files, generator.user_potcar_functional
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("maker", "sets"),
    [
        (DOUBLE, ["MPRelaxSet", "MPRelaxSet", "MPStaticSet"]),
        # The PBEsol pre-relaxation gives no energy: the validator knows PBEsol only of an older
        # protocol (MPScanRelaxSet, GGA_COMPAT unset, other potentials), and would refuse it for that.
        pytest.param(R2SCAN, [None, "MP24RelaxSet", "MP24StaticSet"], marks=pytest.mark.slow),
    ],
)
def test_each_job_passes_the_materials_projects_validation(maker, sets, potcar_stats, monkeypatch):
    monkeypatch.setattr(CheckPotcar, "potcar_summary_stats", potcar_stats)
    for name, structure in candidates().items():
        jobs = job_inputs(maker, structure)
        assert len(jobs) == len(sets)
        for (job, (files, functional)), expected_set in zip(jobs.items(), sets, strict=True):
            if expected_set is not None:
                found = reasons(potcar_stats, files, functional, expected_set)
                assert found == [], (name, job)


def test_candidates_are_20_sane_crystals():
    found = candidates()
    assert len(found) == 20
    assert {len(structure) for structure in found.values()} >= {1, 40}
    assert all(structure.is_valid(tol=1.6) for structure in found.values())
    assert {name for name, s in found.items() if s.reduced_formula != name} <= {"FeOCl", "NiTi"}


@pytest.mark.filterwarnings("ignore")
def test_the_validation_sees_what_is_wrong(potcar_stats, monkeypatch):
    monkeypatch.setattr(CheckPotcar, "potcar_summary_stats", potcar_stats)
    files, functional = job_inputs(DOUBLE, candidates()["Fe2O3"])["MP GGA static"]
    assert reasons(potcar_stats, files, functional, "MPStaticSet") == []
    wrong = {
        "ENCUT": {"INCAR": files["INCAR"].replace("ENCUT = 520", "ENCUT = 400")},
        "LDAU": {"INCAR": files["INCAR"].replace("LDAUU = 5.3", "LDAUU = 4.0")},
        "kpoints": {"KPOINTS": files["KPOINTS"].replace(files["KPOINTS"].split("\n")[3], "2 2 2")},
        "PSEUDOPOTENTIALS": {"POTCAR.spec": files["POTCAR.spec"].replace("Fe_pv", "Fe")},
    }
    for word, change in wrong.items():
        found = reasons(potcar_stats, {**files, **change}, functional, "MPStaticSet")
        assert len(found) == 1, (word, found)
        assert word in found[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("maker", [DOUBLE, "MPGGAStaticMaker", R2SCAN])
def test_inputs_are_the_sets_own(maker):
    """Against pymatgen's sets themselves, not atomate2's makers of them."""
    recipe = VaspRecipe(maker)
    plain = {DOUBLE: MPRelaxSet, "MPGGAStaticMaker": MPStaticSet}
    for name, structure in candidates().items():
        crystal = from_structure(structure)
        inputs = recipe.inputs(crystal, recipe.level(crystal.elements))
        assert {"vasp/INCAR", "vasp/POSCAR", "vasp/POTCAR.spec"} <= inputs.files.keys()
        incar = Incar.from_str(inputs.files["vasp/INCAR"])
        if maker == R2SCAN:
            assert (incar["GGA"].upper(), incar["ENCUT"], incar["KSPACING"]) == ("PS", 680, 0.22)
            assert "vasp/KPOINTS" not in inputs.files
            assert inputs.settings["run_type"] == "R2SCAN"
            assert "LDAUU" not in incar
            continue
        own = plain[maker](structure=to_structure(crystal), force_gamma=True)
        tags = ("ENCUT", "EDIFF", "ISPIN", "ISMEAR", "SIGMA", "LASPH", "PREC", "NSW", "ISIF", "IBRION",
                "LDAU", "LDAUU", "LDAUL", "LDAUJ", "LDAUTYPE", "LMAXMIX", "MAGMOM")  # fmt: skip
        assert {t: incar.get(t) for t in tags} == {t: own.incar.get(t) for t in tags}, name
        grid = Kpoints.from_str(inputs.files["vasp/KPOINTS"]).kpts[0]
        assert np.prod(grid) >= np.prod(own.kpoints.kpts[0]), name
        assert inputs.files["vasp/POTCAR.spec"].split() == own.potcar_symbols, name


def test_hubbard_u_and_high_spin_only_where_the_materials_project_has_them():
    recipe = VaspRecipe()
    found = {}
    for name, structure in candidates().items():
        crystal = from_structure(structure)
        settings = recipe.inputs(crystal, recipe.level(crystal.elements)).settings
        if settings["hubbard_u"]:
            found[name] = settings["hubbard_u"]
        assert settings["run_type"] == ("GGA+U" if settings["hubbard_u"] else "GGA")
        for symbol in {"Fe", "Mn", "Ni"} & set(crystal.elements):
            assert settings["initial_moments"][symbol] == 5
    # Oxides and fluorides of V, Cr, Mn, Fe, Co, Ni, Mo, W only: not metals, not sulfides. FeOCl is
    # taken for an oxide, as its most electronegative element is oxygen.
    assert found == {
        "NiO": {"Ni": 6.2},
        "Fe2O3": {"Fe": 5.3},
        "LiCoO2": {"Co": 3.32},
        "LaMnO3": {"Mn": 3.9},
        "CoF2": {"Co": 3.32},
        "KMnF3": {"Mn": 3.9},
        "FeOCl": {"Fe": 5.3},
    }


def test_levels_are_one_for_all_elements_and_differ_by_maker():
    levels = {maker: VaspRecipe(maker).level(["Fe", "O"]) for maker in MAKERS}
    assert len({level.digest for level in levels.values()}) == 4
    assert VaspRecipe().level(["Li", "P"]) == levels[DOUBLE]
    assert {m: (level.functional, level.hull) for m, level in levels.items()} == {
        DOUBLE: ("PBE/PBE+U", "GGA_GGA+U"),
        "MPGGARelaxMaker": ("PBE/PBE+U", "GGA_GGA+U"),
        "MPGGAStaticMaker": ("PBE/PBE+U", "GGA_GGA+U"),
        R2SCAN: ("r2SCAN", "R2SCAN"),
    }
    settings = levels[R2SCAN].as_dict()["settings"]
    assert (settings["encut"], settings["potcar_functional"]) == (680, "PBE_64")
    assert Level.from_dict(json.loads(json.dumps(levels[DOUBLE].as_dict()))) == levels[DOUBLE]


def test_elements_that_cannot_be_computed():
    assert VaspRecipe().unsupported(["Fe", "Cm", "O"]) == {"Cm": "no potential in MPStaticSet"}
    with pytest.raises(InputError, match="Cm: no potential"):
        VaspRecipe().level(["Cm", "O"])
    assert "no elemental entry" in VaspRecipe(R2SCAN).unsupported(["Po"])["Po"]
    with pytest.raises(InputError, match=r"dft\.maker: got 'RelaxMaker'"):
        VaspRecipe("RelaxMaker")


def inputs_of(recipe: VaspRecipe, crystal: Crystal) -> Inputs:
    return recipe.inputs(crystal, recipe.level(crystal.elements))


def test_one_digest_for_one_calculation():
    crystal = from_structure(candidates()["CoF2"])
    order = np.random.default_rng(0).permutation(len(crystal))
    shuffled = Crystal(crystal.lattice, crystal.frac_coords[order], crystal.atomic_numbers[order])
    recipe = VaspRecipe()
    first = inputs_of(recipe, crystal)
    assert inputs_of(VaspRecipe(**recipe.options), shuffled).digest == first.digest
    others = [inputs_of(VaspRecipe(maker), crystal).digest for maker in MAKERS]
    assert len({*others}) == 4
    assert first.digest in others


@pytest.mark.parametrize("damage", ["nan", "flat"])
def test_cells_that_are_none(damage):
    crystal = from_structure(candidates()["MgO"])
    factor = np.full(3, np.nan) if damage == "nan" else np.array([1, 1, 0])
    broken = Crystal(crystal.lattice * factor, crystal.frac_coords, crystal.atomic_numbers)
    with pytest.raises(ValueError, match="not finite|flat"):
        VaspRecipe().inputs(broken, VaspRecipe().level(["Mg", "O"]))


def test_custodian_handles_errors_within_each_job():

    from atomate2.vasp.run import DEFAULT_HANDLERS, run_vasp

    assert inspect.signature(run_vasp).parameters["handlers"].default is DEFAULT_HANDLERS
    crystal = from_structure(candidates()["MgO"])
    handlers = inputs_of(VaspRecipe(), crystal).settings["custodian"]
    assert {"VaspErrorHandler", "UnconvergedErrorHandler", "FrozenJobErrorHandler"} <= {*handlers}
    for maker in (DOUBLE, R2SCAN):
        for job in jobs_of(maker):
            assert job.maker.run_vasp_kwargs == {}  # so nothing replaces them


@pytest.mark.slow
def test_flows_reload_in_a_fresh_process_and_end_with_the_energy(tmp_path):
    crystal = from_structure(candidates()["MgO"])
    uuids = {}
    for maker in MAKERS:
        recipe = VaspRecipe(maker)
        flow = recipe.flow(crystal, recipe.level(crystal.elements))
        (tmp_path / f"{maker}.json").write_text(json.dumps(flow, cls=MontyEncoder))
        uuids[maker] = flow.uuid
    script = (
        "import json, sys\n"
        "from monty.json import MontyDecoder\n"
        "for maker in sys.argv[1:]:\n"
        "    flow = json.load(open(maker + '.json'), cls=MontyDecoder)\n"
        "    jobs = [job for job, _ in flow.iterflow()]\n"
        "    sets = [type(j.maker.input_set_generator).__name__ for j in jobs]\n"
        "    last = flow.output.uuid == jobs[-1].uuid\n"
        "    print('>', json.dumps([flow.uuid, last, sets]))\n"
        "assert not [m for m in sys.modules if m.startswith('heliodor')]\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", script, *MAKERS],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    lines = [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith(">")]
    assert dict(zip(MAKERS, lines, strict=True)) == {
        DOUBLE: [uuids[DOUBLE], True, ["MPRelaxSet", "MPRelaxSet", "MPStaticSet"]],
        "MPGGARelaxMaker": [uuids["MPGGARelaxMaker"], True, ["MPRelaxSet"]],
        "MPGGAStaticMaker": [uuids["MPGGAStaticMaker"], True, ["MPStaticSet"]],
        R2SCAN: [uuids[R2SCAN], True, ["MP24RelaxSet", "MP24RelaxSet", "MP24StaticSet"]],
    }
