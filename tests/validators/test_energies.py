"""Energies: which potential needs which correction, checked on known formation energies."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_atoms, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.errors import InputError
from heliodor.core.records import Failure, Reason
from heliodor.core.schemes import declare
from heliodor.validators.energies import (
    SCHEMES,
    elemental_energies,
    formation_energy,
    mp2020_correction,
    scheme_of,
)

CUBIC = {
    "rock salt": (225, lambda m, x: ([m, x], [[0, 0, 0], [0.5, 0.5, 0.5]])),
    "zincblende": (216, lambda m, x: ([m, x], [[0, 0, 0], [0.25, 0.25, 0.25]])),
    "fluorite": (225, lambda m, x: ([m, x], [[0, 0, 0], [0.25, 0.25, 0.25]])),
    "CsCl": (221, lambda m, x: ([m, x], [[0, 0, 0], [0.5, 0.5, 0.5]])),
    "perovskite": (
        221,
        lambda a, b, x: ([a, b, x], [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5]]),
    ),
}

# Materials Project id, prototype, elements, a (angstrom), formation energy (eV/atom). Facts from the
# Materials Project (doi:10.1063/1.4812323, CC BY 4.0), PBE / PBE+U with MP2020.
KNOWN_CUBIC = [
    ("mp-1138", "rock salt", "Li F", 4.0834, -3.165945),
    ("mp-22862", "rock salt", "Na Cl", 5.6917, -2.109608),
    ("mp-11718", "rock salt", "Rb F", 5.7389, -2.874538),
    ("mp-2472", "rock salt", "Sr O", 5.2062, -3.077091),
    ("mp-1342", "rock salt", "Ba O", 5.6149, -2.823645),
    ("mp-23703", "rock salt", "Li H", 4.0002, -0.495530),
    ("mp-631", "rock salt", "Ti C", 4.3357, -0.810004),
    ("mp-13032", "zincblende", "Mg S", 5.6981, -1.661750),
    ("mp-1018157", "zincblende", "Cr N", 4.4001, -0.662801),
    ("mp-1597", "fluorite", "U O", 5.4203, -3.750444),
    ("mp-305", "CsCl", "Ti Fe", 2.9598, -0.420837),
    ("mp-555123", "perovskite", "K Mn F", 4.2603, -3.019095),
    ("mp-560976", "perovskite", "K Ni F", 4.0692, -2.641730),
    ("mp-3614", "perovskite", "K Ta O", 4.0308, -3.077612),
    ("mp-510624", "perovskite", "Sr Fe O", 3.9132, -2.223572),
]
# The same for rutile: elements, a, c (angstrom), x of the anion.
KNOWN_RUTILE = [
    ("mp-19094", "V O", 4.5153, 3.0381, 0.2992, -2.480276),
    ("mp-19177", "Cr O", 4.4909, 2.9873, 0.3018, -2.047701),
    ("mp-556911", "Fe F", 4.7950, 3.3327, 0.3010, -2.592161),
    ("mp-23710", "Mg H", 4.5119, 3.0157, 0.3041, -0.294379),
]


def known_structures():
    """(id, structure, formation energy) of 22 oxides, fluorides, hydrides, metals and others."""
    for name, prototype, elements, a, energy in KNOWN_CUBIC:
        group, sites = CUBIC[prototype]
        species, coords = sites(*elements.split())
        yield name, Structure.from_spacegroup(group, Lattice.cubic(a), species, coords), energy
    for name, elements, a, c, x, energy in KNOWN_RUTILE:
        lattice, coords = Lattice.tetragonal(a, c), [[0, 0, 0], [x, x, 0]]
        yield name, Structure.from_spacegroup(136, lattice, elements.split(), coords), energy
    wurtzite = Lattice.hexagonal(3.2891, 5.3068)
    coords = [[1 / 3, 2 / 3, 0.0], [1 / 3, 2 / 3, 0.3793]]
    yield "mp-2133", Structure.from_spacegroup(186, wurtzite, ["Zn", "O"], coords), -1.790896
    gamma = Lattice.tetragonal(2.8241, 4.0647)
    yield "mp-1953", Structure(gamma, ["Ti", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]), -0.406945
    cuprite = Structure.from_spacegroup(
        224, Lattice.cubic(4.2878), ["Cu", "O"], [[0.25, 0.25, 0.25], [0, 0, 0]]
    )
    yield "mp-361", cuprite, -0.644492


def errors_of(model, energy_of):
    """{id: formation energy minus the Materials Project's} in eV/atom."""
    found = {}
    for name, structure, expected in known_structures():
        primitive = structure.get_primitive_structure()
        crystal = from_structure(primitive)
        result = formation_energy(model, crystal, energy_of(crystal))
        assert not isinstance(result, Failure), result
        found[name] = result.value - expected
    return found


@pytest.fixture(scope="module")
def chgnet_energy():
    pytest.importorskip("chgnet")
    from chgnet.model import CHGNet

    model = CHGNet.load(use_device="cpu", verbose=False)

    def energy(crystal):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(crystal) * float(model.predict_structure(to_structure(crystal), task="e")["e"])

    return energy


@pytest.fixture(scope="module")
def sevennet_energy():
    pytest.importorskip("sevenn")
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator("7net-0", device="cpu")

    def energy(crystal):
        atoms = to_atoms(crystal)
        atoms.calc = calculator
        return atoms.get_potential_energy()

    return cache(energy)


@pytest.mark.slow
def test_chgnet_carries_mp2020(chgnet_energy):
    errors = errors_of("chgnet-0.3.0", chgnet_energy)
    assert len(errors) == 22
    assert np.mean(np.abs(list(errors.values()))) < 0.060, errors


@pytest.mark.slow
def test_sevennet_needs_mp2020(sevennet_energy):
    errors = errors_of("sevennet-0", sevennet_energy)
    assert np.mean(np.abs(list(errors.values()))) < 0.060, errors


@pytest.mark.slow
def test_the_wrong_treatment_would_show(sevennet_energy):
    """The check above has teeth: leaving the corrections out costs hundreds of meV/atom."""
    errors = errors_of("chgnet-0.3.0", sevennet_energy)  # CHGNet's treatment of SevenNet's energies
    assert np.mean(np.abs(list(errors.values()))) > 0.2


def rock_salt(metal, anion, a):
    """Primitive cell of two atoms."""
    lattice = a / 2 * (np.ones((3, 3)) - np.eye(3))
    numbers = [ATOMIC_NUMBERS[metal], ATOMIC_NUMBERS[anion]]
    return Crystal(lattice, [[0, 0, 0], [0.5, 0.5, 0.5]], numbers)


@pytest.mark.parametrize(
    ("metal", "anion", "expected"),
    [
        # eV per anion and per transition metal: MP2020 (doi:10.1038/s41598-021-94550-5), table 1.
        ("Mg", "O", -0.687),
        ("Na", "Cl", -0.614),
        ("Li", "F", -0.462),
        ("Mg", "S", -0.503),
        ("Ti", "C", 0.0),
        ("Fe", "O", -0.687 - 2.256),
        ("Ni", "O", -0.687 - 2.541),
        ("Mn", "S", -0.503),  # +U for oxides and fluorides only
    ],
)
def test_corrections_are_those_published(metal, anion, expected):
    correction = mp2020_correction(rock_salt(metal, anion, 4.5))
    assert correction.energy == pytest.approx(expected, abs=1e-6)
    assert not correction.uncertain


def test_elements_are_not_corrected():
    oxygen = Crystal(8 * np.eye(3), [[0, 0, 0], [0.15, 0, 0]], [8, 8])
    assert mp2020_correction(oxygen).energy == 0
    reference = elemental_energies()[8]
    for model in SCHEMES:
        value = formation_energy(model, oxygen, 2 * reference, elemental_energies()).value
        assert value == pytest.approx(0)


def test_another_functional_is_refused_but_against_its_own_elements():
    crystal = rock_salt("Mg", "O", 4.21)
    assert not SCHEMES["sevennet-mf-0-r2scan"].comparable
    with pytest.raises(InputError, match="energies: own"):
        formation_energy("sevennet-mf-0-r2scan", crystal, -12.0)
    found = formation_energy("sevennet-mf-0-r2scan", crystal, -12.0, {12: -1.0, 8: -5.0})
    assert found.value == pytest.approx(-3.0)
    lacking = formation_energy("sevennet-mf-0-r2scan", crystal, -12.0, {12: -1.0})
    assert isinstance(lacking, Failure)
    assert lacking.reason is Reason.NO_REFERENCE


def test_peroxide_and_oxide_differ():
    # Li2O2, a = 3.16, c = 7.65 angstrom, P6_3/mmc (Cota, de la Mora, Acta Cryst. B61, 133 (2005)).
    peroxide = Structure.from_spacegroup(
        194,
        Lattice.hexagonal(3.16, 7.65),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.75], [1 / 3, 2 / 3, 0.149]],
    )
    assert peroxide.composition.reduced_formula == "Li2O2"
    per_oxygen = mp2020_correction(from_structure(peroxide)).energy / 4
    assert per_oxygen == pytest.approx(-0.465, abs=1e-6)


def test_doubling_the_cell_doubles_the_correction():
    structure = Structure.from_spacegroup(
        221, Lattice.cubic(4.07), ["K", "Ni", "F"], [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5]]
    )
    single = mp2020_correction(from_structure(structure)).energy
    double = mp2020_correction(
        from_structure(structure.make_supercell([2, 1, 1], in_place=False))
    ).energy
    assert double == pytest.approx(2 * single)
    assert single == pytest.approx(3 * -0.462 - 2.541)


def test_unbalanced_mixed_anions_are_flagged():
    balanced = Structure.from_spacegroup(
        129,
        Lattice.tetragonal(3.89, 6.9),
        ["Bi", "O", "Cl"],
        [[0, 0.5, 0.17], [0, 0, 0], [0, 0.5, 0.645]],
    )
    assert balanced.composition.reduced_formula == "BiClO"
    assert not mp2020_correction(from_structure(balanced)).uncertain
    unbalanced = balanced.copy()
    unbalanced.replace_species({"Bi": "Cd"})
    assert unbalanced.composition.reduced_formula == "CdClO"
    assert mp2020_correction(from_structure(unbalanced)).uncertain


def test_an_element_without_reference_is_a_failure():
    polonium = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [ATOMIC_NUMBERS["Po"]])
    result = formation_energy("sevennet-0", polonium, -3.0)
    assert isinstance(result, Failure)
    assert result.reason is Reason.NO_REFERENCE
    assert "Po" in result.detail


@pytest.mark.parametrize("energy", [float("nan"), float("inf")])
def test_an_energy_that_is_no_number_is_a_failure(energy):
    result = formation_energy("chgnet-0.3.0", rock_salt("Mg", "O", 4.2), energy)
    assert isinstance(result, Failure)
    assert result.reason is Reason.ENERGY


def test_what_pymatgen_cannot_correct_is_a_failure(monkeypatch):
    def broken(_):
        raise ArithmeticError("no bond valence")

    monkeypatch.setattr("heliodor.validators.energies.mp2020_correction", broken)
    result = formation_energy("sevennet-0", rock_salt("Mg", "O", 4.2), -50.0)
    assert isinstance(result, Failure)
    assert result.reason is Reason.CORRECTION
    assert "no bond valence" in result.detail


def test_a_user_s_potential_says_what_its_energies_are():
    """In its model name: as CHGNet's, as SevenNet's, or never beside the Materials Project's."""
    crystal = rock_salt("Mg", "O", 4.2)
    as_is, corrected = (
        formation_energy(declare("mine", kind), crystal, -11.0).value for kind in ("included", "mp2020")
    )
    assert as_is == formation_energy("chgnet-0.3.0", crystal, -11.0).value
    assert corrected == formation_energy("sevennet-0", crystal, -11.0).value
    assert as_is - corrected == pytest.approx(0.687 / 2, abs=0.001)  # MP2020's oxide correction
    with pytest.raises(InputError, match="own scheme.* another functional"):
        formation_energy(declare("mine", "own"), crystal, -11.0)


def test_unknown_potentials_are_refused_and_the_known_listed():
    with pytest.raises(InputError, match=r"mace-mp-0.*chgnet-0\.3\.0, sevennet-0"):
        scheme_of("mace-mp-0")
    with pytest.raises(InputError):
        formation_energy("pbe", rock_salt("Mg", "O", 4.2), -12.0)


def test_elemental_energies_cover_89_elements():
    energies = elemental_energies()
    assert len(energies) == 89
    assert energies[14] == pytest.approx(-5.42531803)  # silicon, mp-149
    assert all(-15 < e < 0 for e in energies.values())
