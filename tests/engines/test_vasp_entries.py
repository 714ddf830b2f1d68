"""MP2020 corrections of VASP's energies: its published values, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("atomate2")

from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.errors import InputError
from heliodor.core.records import DftResult, Failure, Reason
from heliodor.engines.vasp_entries import computed_entry, corrected
from heliodor.engines.vasp_recipe import VaspRecipe
from heliodor.validators.energies import mp2020_correction

# A. Wang et al., Sci. Rep. 11, 15496 (2021), table 1: eV per atom of the element.
OXIDE, FLUORIDE, SULFIDE, FE_OXIDE = -0.687, -0.462, -0.503, -2.256
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
POTENTIALS = {"Mg": "Mg_pv", "Fe": "Fe_pv", "Co": "Co", "O": "O", "F": "F", "S": "S", "Na": "Na_pv",
              "Ti": "Ti_pv", "Ni": "Ni_pv", "N": "N", "Ta": "Ta_pv"}  # fmt: skip


def result(structure: Structure, hubbards: dict[str, float] | None = None, **entry: Any) -> DftResult:
    crystal = from_structure(structure)
    symbols = dict.fromkeys(site.specie.symbol for site in structure)
    parameters = {
        "run_type": "GGA+U" if hubbards else "GGA",
        "is_hubbard": bool(hubbards),
        "hubbards": hubbards or {},
        "potcar_spec": [{"titel": f"PAW_PBE {POTENTIALS[s]} 01Jan2000", "hash": None} for s in symbols],
        "oxide_type": "oxide" if "O" in symbols else "None",
        "aspherical": True,
        "vasp_version": "6.4.2",
    }
    return DftResult(
        key=crystal.digest,
        input_digest="d" * 64,
        level=VaspRecipe().level(crystal.elements),
        crystal=crystal,
        energy=-5.0 * len(crystal),
        max_force=0.0,
        max_stress=0.0,
        converged=True,
        steps=0,
        entry=parameters | entry,
    )


def rocksalt(cation: str, anion: str, a: float = 4.3) -> Structure:
    sites = FCC + [[x + 0.5, y, z] for x, y, z in FCC]
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, sites)


def correction(given: DftResult) -> float:
    made = corrected(computed_entry(given))
    assert not isinstance(made, Failure), made
    assert made.uncorrected_energy == given.energy
    return made.correction


@pytest.mark.parametrize(
    ("structure", "hubbards", "expected"),
    [
        (rocksalt("Mg", "O"), None, 4 * OXIDE),
        (rocksalt("Na", "F", 4.6), None, 4 * FLUORIDE),
        (rocksalt("Mg", "S", 5.2), None, 4 * SULFIDE),
        (rocksalt("Fe", "O"), {"Fe": 5.3}, 4 * (OXIDE + FE_OXIDE)),
        (rocksalt("Fe", "S", 5.1), None, 4 * SULFIDE),
        (Structure(Lattice.cubic(3.015), ["Ni", "Ti"], [[0] * 3, [0.5] * 3]), None, 0.0),
        (Structure(Lattice.cubic(2.866), ["Fe", "Fe"], [[0] * 3, [0.5] * 3]), None, 0.0),
    ],
)
def test_corrections_are_the_published_ones(structure, hubbards, expected):
    assert correction(result(structure, hubbards)) == pytest.approx(expected, abs=1e-6)


def test_a_potentials_energy_is_corrected_alike():
    # A crystal's correction must not depend on whether a potential or VASP gave the energy.
    for structure, hubbards in (
        (rocksalt("Mg", "O"), None),
        (rocksalt("Fe", "O"), {"Fe": 5.3}),
        (rocksalt("Mg", "S", 5.2), None),
    ):
        given = result(structure, hubbards)
        assert correction(given) == pytest.approx(mp2020_correction(given.crystal).energy)


def test_correcting_twice_is_correcting_once():
    once = corrected(computed_entry(result(rocksalt("Mg", "O"))))
    assert not isinstance(once, Failure)
    twice = corrected(once)
    assert not isinstance(twice, Failure)
    assert twice.correction == once.correction


def test_the_entry_given_is_not_changed():
    entry = computed_entry(result(rocksalt("Fe", "O"), {"Fe": 5.3}))
    corrected(entry)
    assert entry.correction == 0
    assert "oxidation_states" not in entry.data
    assert entry.energy == -40


def test_uncertain_where_the_anions_are():
    # No balanced guess of oxidation states, and two possible anions.
    sites = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    mixed = Structure(Lattice.cubic(4.6), ["Na", "O", "F", "F"], sites)
    made = corrected(computed_entry(result(mixed)))
    assert not isinstance(made, Failure)
    assert made.data["correction_uncertain"] is True
    sure = corrected(computed_entry(result(rocksalt("Mg", "O"))))
    assert not isinstance(sure, Failure)
    assert sure.data["correction_uncertain"] is False


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (result(rocksalt("Fe", "O")), "Invalid U value of 0.0 on Fe, expected 5.3"),
        (result(rocksalt("Fe", "O"), {"Fe": 4.0}), "Invalid U value of 4.0"),
        (result(rocksalt("Mg", "O"), potcar_spec=[{"titel": "PAW_PBE Mg 01Jan2000"},
                                                  {"titel": "PAW_PBE O 01Jan2000"}]), "POTCAR"),
        (result(rocksalt("Mg", "O"), potcar_spec=[{"titel": None}]), "MP2020"),
        (result(rocksalt("Mg", "O"), run_type="PBEsol"), "invalid run type PBEsol"),
    ],
)  # fmt: skip
def test_entries_that_mp2020_does_not_take(given, words):
    made = corrected(computed_entry(given))
    assert isinstance(made, Failure)
    assert (made.key, made.reason) == (given.key, Reason.CORRECTION)
    assert words in made.detail
    assert len(made.detail) < 400


def test_another_level_is_refused():
    given = result(rocksalt("Mg", "O"))
    r2scan = replace(given, level=VaspRecipe("MP24DoubleRelaxStaticMaker").level(["Mg", "O"]))
    with pytest.raises(InputError, match=r"MgO: got an energy of r2SCAN, hull R2SCAN"):
        corrected(computed_entry(r2scan))
    own = replace(given, level=replace(given.level, code="abinit-9.6.2", hull="own"))
    with pytest.raises(InputError, match="hull own"):
        corrected(computed_entry(own))
    entry = computed_entry(given)
    del entry.data["level"]
    with pytest.raises(InputError, match="no level"):
        corrected(entry)


def test_results_that_are_no_entries():
    given = result(rocksalt("Mg", "O"))
    with pytest.raises(InputError, match="not of VASP"):
        computed_entry(replace(given, entry=None))
    with pytest.raises(InputError, match="did not converge"):
        computed_entry(replace(given, converged=False))
