"""The parts of the report: interval, histogram, periodic table, hulls, structures."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element, Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.report.hull_plots import hull_figure
from heliodor.report.hulls import edges, lower_hull, with_elements
from heliodor.report.markup import formula, h, json_script, material, number, plain_formula, spacegroup
from heliodor.report.model import HullDiagram, HullPhase
from heliodor.report.plots import energy_class, histogram, place
from heliodor.report.stats import wilson
from heliodor.report.viewer import bonds, conventional_cell, density, element_styles, scene

# --- interval ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    # R. G. Newcombe, Stat. Med. 17, 857 (1998), table I, method 3; first and last by hand
    [(5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)],
)  # fmt: skip
def test_wilson_against_published_values(count, n, low, high):
    assert wilson(count, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_wilson_holds_the_rate_and_is_symmetric(n, share):
    count = round(n * share)
    low, high = wilson(count, n)
    assert 0 <= low <= count / n <= high <= 1
    mirrored = wilson(n - count, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_wilson_without_trials_and_with_bad_counts():
    assert wilson(0, 0) == (0.0, 1.0)
    for count, n in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(InputError):
            wilson(count, n)


# --- words and numbers ---------------------------------------------------------------------------


def test_numbers_formulas_and_symbols():
    assert number(-0.0004) == "0.000", "no minus zero"
    assert number(0.012, signed=True) == "+0.012"
    assert number(-1.5, 2) == "−1.50"
    assert number(None) == "–"
    assert formula("LiTi2O4") == "LiTi<sub>2</sub>O<sub>4</sub>"
    assert formula("Ca3(PO4)2") == "Ca<sub>3</sub>(PO<sub>4</sub>)<sub>2</sub>"
    assert plain_formula("Li2TiO3") == "Li₂TiO₃"
    assert '<span class="bar">3</span>m' in spacegroup("Fd-3m")
    assert "P6<sub>3</sub>/mmc" in spacegroup("P6_3/mmc")


def test_only_ids_of_the_materials_project_are_linked():
    assert 'href="https://materialsproject.org/materials/mp-149"' in material("mp-149")
    assert "href" not in material("wbm-1-23")
    assert "href" not in material('mp-1"onclick=x')


def test_text_is_escaped_and_markup_is_not():
    assert h("p", "<b>", h("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"
    assert h("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    assert "</script" not in json_script({"x": "</script>"}, "d")[:-9]
    with pytest.raises(ValueError, match="JSON"):
        json_script({"x": math.nan}, "d")


# --- histogram -----------------------------------------------------------------------------------


def bars(energies):
    """(count, interval text) of every bar."""
    return re.findall(r"<title>(\d+) crystals?, ([^<]*) eV/atom</title>", histogram(energies))


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=80))
@settings(max_examples=60, deadline=None)
def test_every_crystal_is_in_one_bar(energies):
    assert sum(int(count) for count, _ in bars(energies)) == len(energies)


@given(st.lists(st.floats(-0.4, 1.2), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_bars_up_to_a_threshold_hold_what_lies_up_to_it(energies):
    energies = [round(e, 4) for e in energies]
    for threshold in (0.0, 0.1):
        inside = sum(
            int(count)
            for count, text in bars(energies)
            if " to " in text and float(text.split(" to ")[1].replace("−", "-")) <= threshold + 1e-9
        )
        assert inside == sum(e <= threshold for e in energies)


def test_energies_on_an_edge_belong_below_it():
    assert bars([0.0, 0.1]) == [("1", "−0.010 to 0.000"), ("1", "0.090 to 0.100")]
    assert [energy_class(e) for e in (-0.2, 0.0, 0.01, 0.05, 0.1, 0.1001)] == [
        "e0", "e0", "e1", "e2", "e3", "e4",
    ]  # fmt: skip


def test_values_that_are_no_numbers_are_left_out():
    assert "of 1 (100.0 %)" in histogram([0.02, math.nan, math.inf])


# --- periodic table ------------------------------------------------------------------------------


def test_places_in_the_periodic_table_agree_with_pymatgen():
    places = [place(z) for z in range(1, 119)]
    assert len(set(places)) == 118
    for z in range(1, 119):
        row, column = place(z)
        element = Element(SYMBOLS[z])
        if row < 7:
            assert (row + 1, column + 1) == (element.row, element.group), SYMBOLS[z]
        else:
            assert 57 <= z <= 70 or 89 <= z <= 102


# --- hulls ---------------------------------------------------------------------------------------


def diagram(elements, entries):
    points = []
    for name, energy in entries:
        composition = Composition(name)
        fractions = tuple(composition.get_atomic_fraction(e) for e in elements)
        points.append(HullPhase(name, None, fractions, energy, 0.0, "reference"))
    return HullDiagram(elements, points)


def test_a_diagram_says_what_it_leaves_out():
    known = diagram(("Li", "O"), [("Li2O", -2.0)]).points
    crystal = HullPhase("Li2O2", None, (0.5, 0.5), -1.6, 0.02, "candidate", 7)
    text = str(hull_figure(HullDiagram(("Li", "O"), [*known, crystal], left_out=1234)))
    assert "1 reference phases · 1 candidates, the lowest of 1,235" in text


LI_O_TI = [
    ("TiO2", -3.50),
    ("Ti2O3", -3.30),
    ("TiO", -2.91),
    ("Ti2O", -2.04),
    ("Li2O", -2.07),
    ("Li2O2", -1.64),
    ("Li2TiO3", -2.98),
    ("LiTi2O4", -3.25),
    ("LiTiO2", -2.98),
    ("Li4Ti5O12", -3.10),
]


@pytest.mark.parametrize("elements", [("O", "Ti"), ("Li", "O", "Ti")])
def test_lower_hull_agrees_with_pymatgen(elements):
    inside = [(n, e) for n, e in LI_O_TI if {s.symbol for s in Composition(n)} <= set(elements)]
    phases = with_elements(diagram(elements, inside))
    facets = lower_hull(phases)
    ours = {
        frozenset(Composition(phases[i].label).reduced_formula for i in facet)
        for facet in facets.tolist()
    }
    entries = [PDEntry(Composition(n), e * Composition(n).num_atoms) for n, e in inside]
    entries += [PDEntry(Composition(s), 0.0) for s in elements]
    reference = PhaseDiagram(entries)
    theirs = {
        frozenset(reference.qhull_entries[i].composition.reduced_formula for i in facet)
        for facet in reference.facets
    }
    assert ours == theirs


def test_elements_without_an_entry_are_at_zero():
    phases = with_elements(diagram(("Li", "O"), [("Li2O", -2.07)]))
    assert [(p.label, p.formation_energy_per_atom) for p in phases[1:]] == [("Li", 0.0), ("O", 0.0)]
    assert len(edges(lower_hull(phases))) == 2


def test_a_system_without_compounds_has_one_facet():
    for elements in (("Li", "O"), ("Li", "O", "Ti"), ("Fe", "Li", "O", "P")):
        facets = lower_hull(with_elements(HullDiagram(elements, [])))
        assert facets.shape == (1, len(elements))


# --- structures ----------------------------------------------------------------------------------


def crystal(group, lattice, species, coords):
    return from_structure(
        Structure.from_spacegroup(group, lattice, species, coords).get_primitive_structure()
    )


CASES = {
    "NaCl": (
        crystal("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]),
        {"Na": {"Cl": 6}},
    ),
    "CsCl": (
        crystal("Pm-3m", Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]),
        {"Cs": {"Cl": 8}},
    ),
    "Si": (crystal("Fd-3m:2", Lattice.cubic(5.43), ["Si"], [[1 / 8] * 3]), {"Si": {"Si": 4}}),
    "rutile": (
        crystal(
            "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        ),
        {"Ti": {"O": 6}, "O": {"Ti": 3}},
    ),
    "perovskite": (
        crystal("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]),
        {"Ti": {"O": 6}, "Sr": {"O": 12}},
    ),
    "spinel": (
        crystal(
            "Fd-3m:2", Lattice.cubic(8.40), ["Li", "Ti", "O"], [[1 / 8] * 3, [0.5] * 3, [0.263] * 3]
        ),
        {"Li": {"O": 4}, "Ti": {"O": 6}, "O": {"Li": 1, "Ti": 3}},
    ),
    "Cu": (crystal("Fm-3m", Lattice.cubic(3.615), ["Cu"], [[0, 0, 0]]), {"Cu": {"Cu": 12}}),
    "Al3Ni": (
        crystal("Pm-3m", Lattice.cubic(3.57), ["Al", "Ni"], [[0, 0, 0], [0, 0.5, 0.5]]),
        {"Al": {"Ni": 12}},
    ),
}


def coordination(crystal, found):
    """One Counter of neighbour symbols per atom."""
    counts = [{} for _ in range(len(crystal))]
    symbols = [SYMBOLS[z] for z in crystal.atomic_numbers]
    for i, j, *_ in found:
        counts[i][symbols[j]] = counts[i].get(symbols[j], 0) + 1
        counts[j][symbols[i]] = counts[j].get(symbols[i], 0) + 1
    return list(zip(symbols, counts, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_bonds_give_the_textbook_coordination(name):
    case, expected = CASES[name]
    for shown in (case, conventional_cell(case)):
        for symbol, neighbours in coordination(shown, bonds(shown)):
            for other, n in expected.get(symbol, {}).items():
                assert neighbours.get(other) == n, (name, symbol, neighbours)
            if name not in ("Al3Ni", "Cu") and symbol in expected:
                assert set(neighbours) == set(expected[symbol]), "and no others"


def test_bonds_are_the_pairs_within_the_cutoff():
    case = CASES["NaCl"][0]
    structure = to_structure(case)
    for i, j, *image in bonds(case):
        length = structure[i].distance(structure[j], jimage=image)
        assert length == pytest.approx(2.82, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_conventional_cell_is_the_same_crystal(name):
    case = CASES[name][0]
    shown = conventional_cell(case)
    assert shown.reduced_composition == case.reduced_composition
    assert shown.volume / len(shown) == pytest.approx(case.volume / len(case), rel=1e-6)
    assert to_structure(shown).matches(to_structure(case), primitive_cell=True, scale=False)
    assert density(shown) == pytest.approx(float(to_structure(case).density), rel=1e-4)


def test_conventional_cell_does_not_move_atoms():
    rng = np.random.default_rng(3)
    case = CASES["spinel"][0]
    moved = Crystal(case.lattice, case.frac_coords + rng.normal(0, 0.004, (14, 3)), case.atomic_numbers)
    shown = conventional_cell(moved)
    before = np.sort(to_structure(moved).distance_matrix[np.triu_indices(14, 1)])
    after = to_structure(shown).get_primitive_structure(tolerance=1e-3)
    assert len(after) == 14
    assert np.sort(after.distance_matrix[np.triu_indices(14, 1)])[:20] == pytest.approx(
        before[:20], abs=1e-4
    )


def test_scene_lists_metals_first():
    found = scene(CASES["perovskite"][0])
    assert found["kinds"] == ["Ti", "Sr", "O"]
    assert found["metals"] == 2
    assert len(found["bonds"]) == 5 * (6 + 12)


def test_styles_are_those_of_jmol_and_cordero():
    assert element_styles(["C", "Li"]) == {"C": ("#909090", 0.76), "Li": ("#cc80ff", 1.28)}
