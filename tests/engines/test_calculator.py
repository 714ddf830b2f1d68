"""Any ASE calculator as a relaxer: found, refused with a reason, the same numbers as by ASE itself."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from heliodor.core.campaign import parse_campaign
from heliodor.core.choices.relaxers import AseChoice, ChgnetChoice
from heliodor.core.convert import from_atoms, to_atoms
from heliodor.core.errors import InputError
from heliodor.core.records import Failure, Reason, Relaxed
from heliodor.engines import calculator as door
from heliodor.engines.calculator import CalculatorPotential, find_factory
from heliodor.engines.mlip import MlipRelaxer
from heliodor.engines.neighbors import find_neighbors
from heliodor.testing import check_evaluator, check_relaxer

EMT_CHOICE = AseChoice(
    kind="ase",
    calculator="ase.calculators.emt:EMT",
    model="emt",
    elements=("Cu", "Au", "Al", "Ni"),
    corrections="own",
    cutoff=5.0,
)


class Stressless(Calculator):
    implemented_properties = ("energy", "forces")


def alloys():
    cells = [bulk("Cu", a=3.7), bulk("Au", a=4.0, cubic=True), bulk("CuAu", "cesiumchloride", a=3.1)]
    for seed, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=seed)
    return [from_atoms(atoms) for atoms in cells]


def test_the_numbers_are_the_calculator_s():
    potential = CalculatorPotential(EMT_CHOICE)
    batch = alloys()
    found = potential.evaluate([(c, find_neighbors(c, potential.cutoff)) for c in batch])
    for crystal, one in zip(batch, found, strict=True):
        atoms = to_atoms(crystal)
        atoms.calc = EMT()
        assert one.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert np.allclose(one.forces, atoms.get_forces(), atol=1e-10)
        assert np.allclose(one.stress, atoms.get_stress(voigt=False), atol=1e-10)


def test_emt_relaxes_in_the_workers():
    """Copper at EMT's own lattice constant, 3.59 angstrom; the contract of relaxers and evaluators."""
    relaxer = MlipRelaxer("ase", EMT_CHOICE, 1)
    try:
        check_relaxer(relaxer, alloys())
        check_evaluator(relaxer, alloys())
        results = {r.key: r for r in relaxer.relax([*alloys(), from_atoms(bulk("Ag"))])}
    finally:
        relaxer.close()
    copper = results[alloys()[0].digest]
    assert copper.converged
    assert copper.model == "emt [own scheme]"
    assert (4 * copper.crystal.volume) ** (1 / 3) == pytest.approx(3.59, abs=0.02)
    (silver,) = [r for r in results.values() if isinstance(r, Failure)]
    assert silver.reason == Reason.ELEMENT
    assert relaxer.provenance["package"].startswith("ase ")


@pytest.mark.slow
def test_a_calculator_that_fails_costs_one_crystal(tmp_path, monkeypatch):
    """A module of the user's own, with options for its factory."""
    source = tmp_path / "mine.py"
    source.write_text(
        "from ase.calculators.lj import LennardJones\n"
        "class Grumpy(LennardJones):\n"
        "    def calculate(self, atoms, properties, changes):\n"
        "        if len(atoms) == 1:\n"
        "            raise RuntimeError('SCF did not converge')\n"
        "        super().calculate(atoms, properties, changes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    choice = AseChoice(
        kind="ase",
        calculator="mine:Grumpy",
        options={"sigma": 2.3, "epsilon": 0.2, "rc": 6.0, "smooth": True},
        model="lj",
        corrections="own",
    )
    single, double = from_atoms(bulk("Ar", a=3.7)), from_atoms(bulk("Cu", a=3.7).repeat((2, 1, 1)))
    relaxer = MlipRelaxer("ase", choice, 1)
    results = {r.key: r for r in relaxer.relax([single, double])}
    relaxer.close()
    assert results[single.digest].reason == Reason.WORKER_DIED
    assert "SCF did not converge" in results[single.digest].detail
    assert isinstance(results[double.digest], Relaxed)
    assert results[double.digest].converged


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:Calc", "module 'nowhere.at_all' cannot be imported"),
        ("ase.calculators.emt:EMTT", "got 'ase.calculators.emt:EMTT', but .*no attribute 'EMTT'"),
        ("ase.calculators.emt:parameters", "which is a dict"),
        ("my-mace", "entry points of heliodor.calculators: none is installed"),
    ],
)
def test_what_is_not_there_is_said_before_work_starts(name, message):
    with pytest.raises(InputError, match=message):
        MlipRelaxer("ase", EMT_CHOICE.model_copy(update={"calculator": name}))


def test_a_calculator_without_stress_is_refused():
    with pytest.raises(InputError, match="does not compute stress"):
        door._refuse_without_stress("mine", Stressless.implemented_properties)
    choice = EMT_CHOICE.model_copy(update={"calculator": "ase.calculators.tip3p:TIP3P"})
    with pytest.raises(InputError, match="'ase.calculators.tip3p:TIP3P' does not compute stress"):
        MlipRelaxer("ase", choice)


@pytest.mark.slow
def test_options_that_do_not_fit_are_said_by_the_worker():
    choice = EMT_CHOICE.model_copy(
        update={"calculator": "ase.io:read", "options": {"filename": "/nowhere.cif"}}
    )
    relaxer = MlipRelaxer("ase", choice)
    with pytest.raises(InputError, match="could not be made with options .*nowhere.cif"):
        list(relaxer.relax(alloys()[:1]))
    relaxer.close()


def test_an_entry_point_is_found_by_name(monkeypatch):
    class Point:
        name = "emt"

        @staticmethod
        def load():
            return EMT

    monkeypatch.setattr(
        door.metadata, "entry_points", lambda group: [Point] if group == door.GROUP else []
    )
    assert find_factory("emt") is EMT


def test_the_campaign_file_must_say_how_energies_compare():
    content = {
        "name": "mine",
        "generator": {"kind": "random"},
        "relaxer": {"kind": "ase", "calculator": "ase.calculators.emt:EMT", "model": "emt"},
    }
    with pytest.raises(InputError, match=r"relaxer.corrections: missing"):
        parse_campaign(content)
    content["relaxer"]["corrections"] = "own"
    assert parse_campaign(content).relaxer.cutoff == 6.0
    content["relaxer"]["elements"] = ["Cu", "Xx"]
    with pytest.raises(InputError, match="no such element: 'Xx'"):
        parse_campaign(content)


@pytest.mark.slow
def test_chgnet_through_the_door_is_chgnet():
    pytest.importorskip("chgnet")
    starts = [from_atoms(bulk("NaCl", "rocksalt", a=5.5)), from_atoms(bulk("MgO", "rocksalt", a=4.3))]
    choice = AseChoice(
        kind="ase",
        calculator="chgnet.model.dynamics:CHGNetCalculator",
        options={"use_device": "cpu", "verbose": False},
        model="chgnet-by-ase",
        corrections="included",
    )
    energies = {}
    for relaxer in (
        MlipRelaxer("ase", choice, 1),
        MlipRelaxer("chgnet", ChgnetChoice(kind="chgnet", device="cpu"), 1),
    ):
        energies[relaxer.name] = {r.key: r.energy for r in relaxer.relax(starts)}
        relaxer.close()
    for start in starts:
        ours, theirs = energies["chgnet"][start.digest], energies["ase"][start.digest]
        assert theirs == pytest.approx(ours, abs=1e-4 * len(start))
