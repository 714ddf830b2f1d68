"""GPAW and a potential in DFT's place: the same Flow shape, the same answers as the calculators."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from heliodor.core.choices.dft import MlipDftChoice
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError, MissingError
from heliodor.core.records import Reason
from heliodor.engines import ase_flow, gpaw
from heliodor.engines.gpaw import GpawRecipe
from heliodor.engines.mlip_recipe import MlipRecipe
from heliodor.engines.recipe import Parsed, Recipe, Unfinished
from heliodor.engines.recipes import recipe_for, recipe_of

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
MAGNESIA = Crystal(4.21 * FCC, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([12, 8]))
SILICON = Crystal(5.43 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), np.array([14, 14]))


def run(recipe: Recipe, start: Crystal, folder: Path) -> list[Parsed | Unfinished]:
    """Both jobs' documents, parsed."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    os.environ["OMP_NUM_THREADS"] = "1"
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    flow = recipe.flow(start, recipe.level(start.elements))
    run_locally(flow, store=store, create_folders=True, root_dir=folder, ensure_success=True, log=False)
    return [
        recipe.parse(store.get_output(job.uuid, which="last", load=True)) for job, _ in flow.iterflow()
    ]


def lattice_constant(relaxed: Crystal) -> float:
    return float((4 * relaxed.volume) ** (1 / 3))


# A potential


@pytest.mark.skipif(find_spec("chgnet") is None, reason="chgnet is not installed")
def test_level_of_a_potential():
    recipe = recipe_for(MlipDftChoice(kind="mlip"))
    assert recipe.options == {"potential": "chgnet"}
    level = recipe.level(["Mg", "O"])
    assert (level.code, level.functional, level.hull) == ("chgnet-0.3.0", "PBE/PBE+U (learned)", "own")
    assert level == recipe.level(["Si"])  # nothing depends on the elements
    assert list(recipe.unsupported(["Po", "O"])) == ["Po"]
    with pytest.raises(InputError, match="not trained on Po"):
        recipe.level(["Po"])
    with pytest.raises(InputError, match="no potential 'emt'"):
        recipe_of("mlip", {"potential": "emt"})


@pytest.mark.skipif(find_spec("chgnet") is None, reason="chgnet is not installed")
def test_cells_that_a_potential_answers_with_nonsense():
    recipe = MlipRecipe()
    level = recipe.level(["Mg", "O"])
    assert recipe.inputs(MAGNESIA, level).digest != recipe.inputs(SILICON, level).digest
    near = Crystal(MAGNESIA.lattice, np.array([[0, 0, 0], [0.02, 0, 0]]), MAGNESIA.atomic_numbers)
    nan = Crystal(MAGNESIA.lattice * np.nan, MAGNESIA.frac_coords, MAGNESIA.atomic_numbers)
    for bad in (near, nan):
        with pytest.raises(ValueError, match=r"."):
            recipe.inputs(bad, level)


def test_documents():
    for bad in ({}, {"state": "successful", "output": {}}, {"state": "successful", "output": None}):
        found = ase_flow.parse(bad)
        assert isinstance(found, Unfinished)
        assert found.reason is Reason.DFT_FAILED
    found = ase_flow.parse({"state": "failed", "output": {"n_steps": 200}})
    assert found == Unfinished(Reason.DFT_NOT_CONVERGED, "not relaxed within 200 steps")


def test_words_of_a_calculator(tmp_path):
    (tmp_path / "gpaw.txt").write_text("GPAW\n\nToo many\nelectrons \n")
    found = ase_flow.explain(tmp_path, RuntimeError("no"))
    assert found.detail == "RuntimeError: no; last line of gpaw.txt: electrons"
    assert ase_flow.explain(tmp_path, MemoryError()).reason is Reason.DFT_KILLED


@pytest.mark.slow
@pytest.mark.skipif(find_spec("chgnet") is None, reason="chgnet is not installed")
def test_a_potential_in_the_place_of_dft(tmp_path):
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    from heliodor.core.convert import to_structure
    from heliodor.engines.neighbors import find_neighbors
    from heliodor.engines.potentials import load

    recipe = MlipRecipe()
    relaxed, static = run(recipe, MAGNESIA, tmp_path)
    assert isinstance(relaxed, Parsed)
    assert isinstance(static, Parsed)
    assert lattice_constant(static.crystal) == pytest.approx(4.25, rel=0.02)
    assert static.energy == pytest.approx(relaxed.energy, abs=1e-4)
    assert relaxed.steps > 1
    assert static.max_stress < 1e-3
    # Units and sign of the stress, away from the minimum, against the potential itself.
    from heliodor.core.choices.relaxers import MlipChoice

    job = (
        recipe.flow(SILICON, recipe.level(["Si"]))
        .jobs[1]
        .maker.make(
            to_structure(Crystal(0.97 * SILICON.lattice, SILICON.frac_coords, SILICON.atomic_numbers))
        )
    )
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(job, store=store, create_folders=True, root_dir=tmp_path, log=False)
    found = recipe.parse(store.get_output(job.uuid, which="last", load=True))
    assert isinstance(found, Parsed)
    potential = load("chgnet", "cpu", MlipChoice()).potential
    [own] = potential.evaluate([(found.crystal, find_neighbors(found.crystal, potential.cutoff))])
    assert np.allclose(found.stress, own.stress, atol=1e-4)
    assert own.stress[0, 0] < -0.01  # pressed: it wants to grow
    assert found.energy == pytest.approx(own.energy, abs=1e-4)


# GPAW


def test_gpaw_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(gpaw, "find_spec", lambda name: None if name == "gpaw" else object())
    with pytest.raises(MissingError, match=r"heliodor\[gpaw\]"):
        GpawRecipe()


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gpaw") is None or find_spec("gpaw_data") is None, reason="GPAW is not installed"
)
@pytest.mark.parametrize(
    ("start", "density", "constant"), [(SILICON, 150, 5.431), (MAGNESIA, 60, 4.212)]
)
def test_lattice_constants_with_gpaw(tmp_path, start, density, constant):
    recipe = GpawRecipe(kpoint_density=density)
    assert recipe.level(start.elements).hull == "own"
    relaxed, static = run(recipe, start, tmp_path)
    assert isinstance(relaxed, Parsed)
    assert isinstance(static, Parsed)
    assert lattice_constant(static.crystal) == pytest.approx(constant, rel=0.02)
    assert static.energy == pytest.approx(relaxed.energy, abs=0.01)
