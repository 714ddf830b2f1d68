"""Steps of relaxations, from each code's documents and files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from heliodor.core.convert import to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.records import DftTicket
from heliodor.engines.abinit_history import history
from heliodor.engines.calculation import job_store
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.mlip_recipe import MlipRecipe
from heliodor.engines.recipe import StepReader
from heliodor.engines.relaxation_path import relaxation_path

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
MAGNESIA = Crystal(4.21 * FCC, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([12, 8]))
KBAR = 1602.1766208  # in one eV/angstrom^3


def document(lattices: list[float], folder: Path) -> dict:
    """What atomate2 keeps of an ASE relaxation through these lattice constants."""
    steps = [
        {
            "mol_or_struct": to_structure(
                Crystal(a * FCC, MAGNESIA.frac_coords, MAGNESIA.atomic_numbers)
            ).as_dict(),
            "energy": -12 + (a - 4.25) ** 2,
            "forces": [[0.0, 0.0, 0.1], [0.0, 0.0, -0.1]],
            "stress": (-KBAR * 0.01 * np.eye(3)).tolist(),  # kbar, VASP's sign
        }
        for a in lattices
    ]
    output = {**steps[-1], "n_steps": len(steps), "ionic_steps": steps}
    structure = steps[-1]["mol_or_struct"]
    return {
        "state": "successful",
        "output": output,
        "structure": structure,
        "dir_name": f"host:{folder}",
    }


@pytest.mark.skipif(find_spec("chgnet") is None, reason="chgnet is not installed")
def test_steps_of_a_finished_calculation(tmp_path):
    recipe = MlipRecipe()
    assert isinstance(recipe, StepReader)
    [ticket] = FlowEngine(recipe).prepare([MAGNESIA], tmp_path)
    assert isinstance(ticket, DftTicket)
    folder, digest = Path(ticket.path), ticket.input_digest
    assert relaxation_path(folder, digest) == []  # it has not run

    outputs = {
        "relax": document([4.21, 4.24, 4.25], folder),
        "static": document([4.25], folder),
        "earlier": document([4.1, 4.2], folder),  # of an attempt that was given up
    }
    with job_store(folder / "jobs.sqlite") as store:
        for uuid, output in outputs.items():
            store.update({"uuid": uuid, "index": 1, "output": output}, key=["uuid", "index"])
    progress = {"mends": [], "done": ["relax", "static"], "seconds": 1.0}
    (folder / "progress.json").write_text(json.dumps(progress))
    path = relaxation_path(folder, digest)
    assert [frame.energy for frame in path] == pytest.approx([-12 + 0.04**2, -12 + 0.01**2])
    assert path[0].crystal == MAGNESIA
    assert path[0].energy_per_atom == path[0].energy / 2
    np.testing.assert_allclose(path[0].forces, [[0, 0, 0.1], [0, 0, -0.1]])
    np.testing.assert_allclose(path[0].stress, 0.01 * np.eye(3))
    assert relaxation_path(folder, "of other inputs") == []
    (folder / "jobs.sqlite").write_text("no database")
    assert relaxation_path(folder, digest) == []


@pytest.mark.filterwarnings("ignore")
def test_vasp_leaves_out_what_did_not_converge_and_other_functionals(vasp_outputs, tmp_path):
    pytest.importorskip("atomate2")
    from emmet.core.tasks import TaskDoc
    from monty.json import jsanitize
    from pymatgen.io.vasp.inputs import Incar

    from heliodor.engines.vasp_recipe import VaspRecipe

    recipe = VaspRecipe()
    structure = to_structure(MAGNESIA)
    titles = ["PAW_PBE Mg_pv 13Apr2007", "PAW_PBE O 08Apr2002"]
    made = recipe._maker.first_set().get_input_set(structure, potcar_spec=True)
    forces, stress = [[0, 0, 0.1], [0, 0, -0.1]], np.diag([16.02176634, 0, 0])

    def steps(name: str, **changes: object) -> list:
        incar = Incar({**made["INCAR"], **changes})
        folder = vasp_outputs(
            tmp_path / name, structure, titles, incar, made["KPOINTS"],
            energy=-11.9, electronic=(100, 12, 9), forces=forces, stress=stress,
        )  # fmt: skip
        found = jsanitize(TaskDoc.from_directory(folder), strict=True)
        return recipe.steps(json.loads(json.dumps(found)), folder)

    kept = steps("pbe")
    assert len(kept) == 2  # the first ran into NELM
    assert kept[0].energy == -11.9
    np.testing.assert_allclose(kept[0].forces, forces)
    np.testing.assert_allclose(kept[0].stress, np.diag([-0.01, 0, 0]), atol=1e-9)
    assert steps("pbesol", GGA="PS") == []


def test_abinits_history(tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    bohr, hartree = 0.529177210903, 27.211386245988
    energies, entropies = [-4.2110, -4.2115], [0.050, 0.060]
    stresses = [[1e-5, 2e-5, 3e-5, 4e-6, 5e-6, 6e-6], [0.0] * 6]
    with netcdf.Dataset(tmp_path / "out_GSR.nc", "w") as file:
        file.createVariable("e_entropy", "f8", ())[...] = -0.005 * entropies[-1]
    assert history(tmp_path) == []  # a static calculation
    with netcdf.Dataset(tmp_path / "out_HIST.nc", "w") as file:
        for name, size in {"time": 2, "natom": 2, "npsp": 2, "xyz": 3, "six": 6}.items():
            file.createDimension(name, size)
        columns = {
            "rprimd": (("time", "xyz", "xyz"), [8.0 * FCC, 7.9 * FCC]),
            "xred": (("time", "natom", "xyz"), [[[0] * 3, [-0.5] * 3]] * 2),
            "etotal": (("time",), energies),
            "entropy": (("time",), entropies),
            "fcart": (("time", "natom", "xyz"), [[[0, 0, 1e-3], [0, 0, -1e-3]]] * 2),
            "strten": (("time", "six"), stresses),
            "znucl": (("npsp",), [12, 8]),
            "typat": (("natom",), [1, 2]),
        }
        for name, (dimensions, values) in columns.items():
            file.createVariable(name, "f8", dimensions)[:] = np.array(values, dtype=float)
    first, last = history(tmp_path)
    # kT = 0.005 hartree; half of -TS comes off the free energy.
    assert first.energy == pytest.approx((-4.2110 + 0.5 * 0.005 * 0.050) * hartree)
    assert last.energy == pytest.approx((-4.2115 + 0.5 * 0.005 * 0.060) * hartree)
    assert first.crystal == Crystal(8.0 * bohr * FCC, MAGNESIA.frac_coords, np.array([12, 8]))
    assert first.forces[0][2] == pytest.approx(1e-3 * hartree / bohr)
    unit = hartree / bohr**3
    expected = unit * np.array([[10, 6, 5], [6, 20, 4], [5, 4, 30]]) * 1e-6
    np.testing.assert_allclose(first.stress, expected)
