"""Lattice decoration: conditions by construction, no repeats, sensible chemistry and volumes."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.core.protocols import Generator
from heliodor.core.records import Candidate, Conditions
from heliodor.generators.charge import charge_balanced, oxidation_states
from heliodor.generators.ordering import ordered_derivatives
from heliodor.generators.prototypes import load_prototypes, make_prototype, same_fingerprint
from heliodor.generators.similarity import log_substitution
from heliodor.generators.substitution import SubstitutionGenerator, _windows
from heliodor.generators.volume import atomic_volumes, cell_volume

LI_MN_O = Conditions(("Li", "Mn", "O"))


def write_prototypes(path, structures):
    path.write_text(json.dumps([s.as_dict() for s in structures]))
    return str(path)


def rock_salt(a="Na", b="Cl", length=5.64):
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def perovskite():
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], sites)


@pytest.fixture(scope="module")
def li_mn_o():
    generator = SubstitutionGenerator()
    return generator, list(generator.generate(300, seed=3, conditions=LI_MN_O))


def test_is_a_generator():
    assert isinstance(SubstitutionGenerator(), Generator)


def test_hundreds_of_distinct_crystals_that_obey(li_mn_o):
    _, items = li_mn_o
    assert len(items) == 300
    assert len({c.key for c in items}) == 300
    assert all(LI_MN_O.admits(c.crystal) for c in items)
    assert [c.origin.index for c in items] == list(range(300))
    counts = [Counter(SYMBOLS[z] for z in c.crystal.atomic_numbers) for c in items]
    assert all(charge_balanced(c) for c in counts)


def test_no_obvious_repeats(li_mn_o):
    _, items = li_mn_o
    structures = [to_structure(c.crystal) for c in items[:120]]
    groups = StructureMatcher().group_structures(structures)
    # The matcher's tolerances are wide: a few near repeats are the uniqueness check's work.
    assert len(groups) >= 0.85 * len(structures)


def test_any_position_again(li_mn_o):
    generator, items = li_mn_o
    fresh = SubstitutionGenerator()
    part = list(fresh.generate(7, seed=3, conditions=LI_MN_O, start=60))
    assert part == items[60:67]
    assert list(generator.generate(2, seed=3, conditions=LI_MN_O, start=298)) == items[298:]


def test_seed_changes_the_order_only(tmp_path):
    source = write_prototypes(tmp_path / "p.json", [rock_salt(), perovskite()])
    generator = SubstitutionGenerator(source, charge_balanced=False)
    conditions = Conditions(("Ca", "Sr", "O"), max_atoms=8)
    streams = [list(generator.generate(10_000, seed=s, conditions=conditions)) for s in (0, 1)]
    keys = [[c.key for c in stream] for stream in streams]
    assert keys[0] != keys[1]
    assert len(keys[0]) == len(set(keys[0])) < 10_000  # exhausted
    # Of equivalent decorations each order meets another one first, so compare what they are.
    first, second = (Counter((c.crystal.formula, len(c.crystal)) for c in s) for s in streams)
    assert first == second


def test_swapping_equivalent_roles_gives_one_crystal(tmp_path):
    source = write_prototypes(tmp_path / "p.json", [rock_salt(), rock_salt("Mg", "O", 4.2)])
    generator = SubstitutionGenerator(source, charge_balanced=False)
    items = list(generator.generate(10, seed=0, conditions=Conditions(("Mg", "O"), max_atoms=2)))
    assert len(items) == 1
    # but the perovskite's A and B sites differ
    source = write_prototypes(tmp_path / "q.json", [perovskite()])
    generator = SubstitutionGenerator(source, charge_balanced=False)
    items = list(generator.generate(50, seed=0, conditions=Conditions(("Ca", "O", "Ti"), max_atoms=5)))
    assert len([c for c in items if "split" not in c.origin.source]) == 6


def test_composition_is_met_and_reproduces_the_known_crystal():
    conditions = Conditions(composition=(("Ca", 1), ("O", 3), ("Ti", 1)))
    items = list(SubstitutionGenerator().generate(40, seed=0, conditions=conditions))
    assert len(items) > 10
    assert {c.crystal.formula for c in items} == {"CaTiO3"}
    cubic = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.89), ["Ca", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    matcher = StructureMatcher()
    found = [c for c in items if matcher.fit(cubic, to_structure(c.crystal))]
    assert found
    assert all(abs(c.crystal.volume / len(c.crystal) * 5 / 3.89**3 - 1) < 0.2 for c in found)


@settings(max_examples=12, deadline=None)
@given(
    elements=st.lists(
        st.sampled_from(["Na", "Mg", "Al", "Ti", "Fe", "O", "S", "Cl"]), min_size=1, max_size=4
    ),
    require_all=st.booleans(),
    max_atoms=st.integers(1, 24),
    balanced=st.booleans(),
    seed=st.integers(0, 5),
)
def test_conditions_hold_by_construction(elements, require_all, max_atoms, balanced, seed):
    conditions = Conditions(tuple(sorted(set(elements))), require_all, max_atoms)
    generator = SubstitutionGenerator(charge_balanced=balanced)
    generator._library = LIBRARY
    try:
        items = list(generator.generate(30, seed=seed, conditions=conditions))
    except InputError:
        assert max_atoms < 8 or balanced
        return
    assert all(isinstance(c, Candidate) and conditions.admits(c.crystal) for c in items)
    assert len({c.key for c in items}) == len(items)


LIBRARY = load_prototypes("aflow")


def test_large_element_sets_start_at_once():
    elements = tuple("Li Na K Mg Ca Sr Ba Al Si P Ti V Cr Mn Fe Co Ni Cu Zn O S F Cl N".split())
    generator = SubstitutionGenerator()
    log_substitution()
    began = time.process_time()
    items = list(generator.generate(200, seed=0, conditions=Conditions(elements, require_all=False)))
    assert time.process_time() - began < 15  # 1 s on an idle core; all of them would take minutes
    assert len({c.key for c in items}) == 200
    assert len({c.crystal.chemsys for c in items}) > 50


def test_no_restriction_at_all():
    items = list(SubstitutionGenerator().generate(20, seed=0, conditions=Conditions()))
    assert len({c.crystal.chemsys for c in items}) > 10


def test_likely_substitutions_come_first():
    conditions = Conditions(("Ba", "O", "Zr"))
    generator = SubstitutionGenerator(charge_balanced=False)
    items = list(generator.generate(180, seed=0, conditions=conditions))
    anions = ("O->O", "S->O", "F->O", "Cl->O", "Se->O", "N->O", "Te->O")
    apt = [any(a in c.origin.source for a in anions) for c in items]
    assert sum(apt[:40]) > 1.5 * sum(apt[-40:])
    assert sum(apt[:40]) >= 20


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (Conditions(("Li", "O"), max_atoms=1), "no prototype"),
        (Conditions(("Ar", "O")), "Ar"),
        (Conditions(composition=(("Li", 5), ("O", 1))), "balance"),
        (Conditions(("Li", "Mn", "O"), composition=(("Mn", 1), ("O", 1))), "disagree"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_call(conditions, said):
    with pytest.raises(InputError, match=said):
        SubstitutionGenerator().generate(1, seed=0, conditions=conditions)


def test_bad_prototype_files(tmp_path):
    def ask(source):
        return SubstitutionGenerator(str(source)).generate(1, seed=0, conditions=Conditions(("Mg", "O")))

    with pytest.raises(InputError, match="no file"):
        ask(tmp_path / "nothing.json")
    (tmp_path / "a.cif").write_text("data_x")
    with pytest.raises(InputError, match="unknown type"):
        ask(tmp_path / "a.cif")
    (tmp_path / "cut.json").write_text('[{"sites": [')
    with pytest.raises(InputError, match="no JSON"):
        ask(tmp_path / "cut.json")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="no table"):
        ask(tmp_path / "no.parquet")
    disordered = Structure(Lattice.cubic(4), [{"Mg": 0.5, "Ca": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])
    with pytest.raises(InputError, match="no ordered"):
        ask(write_prototypes(tmp_path / "d.json", [disordered]))


def test_prototypes_from_a_table(tmp_path):
    crystal = from_structure(perovskite())
    row = {
        "material_id": "mp-5229",
        "atomic_numbers": crystal.atomic_numbers.tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        "lattice": crystal.lattice.ravel().tolist(),
    }
    pd.DataFrame([row]).to_parquet(tmp_path / "t.parquet")
    generator = SubstitutionGenerator(str(tmp_path / "t.parquet"))
    items = list(generator.generate(1, seed=0, conditions=Conditions(("Ba", "Zr", "O"), max_atoms=5)))
    assert items[0].origin.source.startswith("mp-5229: ")
    assert items[0].crystal.formula == "BaZrO3"


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula",
    ["NaCl", "LiFePO4", "LiMn2O4", "Mn3O4", "BaTiO3", "FeS2", "GaAs", "CaC2", "Na2SnS3", "TiAl3", "Mg"],
)
def test_known_compounds_balance(formula):
    from pymatgen.core import Composition

    assert charge_balanced({s: int(n) for s, n in Composition(formula).get_el_amt_dict().items()})


@pytest.mark.parametrize(
    "counts", [{"Li": 5, "O": 1}, {"Mn": 1, "O": 5}, {"Na": 1, "Cl": 2}, {"O": 1, "F": 1}]
)
def test_impossible_compounds_do_not_balance(counts):
    assert not charge_balanced(counts)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.dictionaries(
        st.sampled_from(["Li", "Ca", "Al", "Ti", "O", "F", "S"]), st.integers(1, 6), min_size=1
    ),
    times=st.integers(2, 5),
)
def test_balance_depends_on_ratios_only(counts, times):
    assert charge_balanced(counts) == charge_balanced({s: n * times for s, n in counts.items()})


def test_oxidation_states_are_known():
    states = oxidation_states()
    assert states["O"] == (-2,)
    assert states["Li"] == (1,)
    assert {2, 3, 4} <= set(states["Mn"])


def test_similarity_is_chemistry():
    table = log_substitution()
    z = {s: SYMBOLS.index(s) for s in ("Na", "K", "O", "S", "Fe", "Cl")}
    assert table[z["K"], z["Na"]] > table[z["O"], z["Na"]]
    assert table[z["S"], z["O"]] > table[z["Fe"], z["O"]]
    assert np.isfinite(table).all()
    assert (table <= 0).all()


@pytest.mark.slow
def test_similarity_agrees_with_pymatgens_model():
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    model, table = SubstitutionProbability(), log_substitution()
    ions = {s: [ion for ion in model.species if ion.symbol == s] for s in ("Na", "Fe", "O", "S", "Tl")}
    for new, news in ions.items():
        for old, olds in ions.items():
            likeliest = max(model.cond_prob(a, b) for a in news for b in olds)
            found = table[SYMBOLS.index(new), SYMBOLS.index(old)]
            assert found == pytest.approx(np.log(likeliest), abs=1e-12), (new, old)


@pytest.mark.parametrize(
    ("counts", "volume"),  # cubic angstrom per formula, experiment (ICSD cell constants)
    [
        ({"Mg": 1, "O": 1}, 4.212**3 / 4),
        ({"Na": 1, "Cl": 1}, 5.640**3 / 4),
        ({"Sr": 1, "Ti": 1, "O": 3}, 3.905**3),
        ({"Ni": 3, "Al": 1}, 3.572**3),
        ({"Cu": 1}, 3.615**3 / 4),
        ({"Ca": 1, "F": 2}, 5.463**3 / 4),
    ],
)
def test_volumes_of_known_crystals(counts, volume):
    assert cell_volume(counts) == pytest.approx(volume, rel=0.2)


def test_volume_table_is_whole():
    assert len(atomic_volumes()) == 86
    assert all(2 < v < 130 for pair in atomic_volumes().values() for v in pair)


@pytest.mark.shared
def test_volumes_of_the_materials_project(mp_table):
    some = mp_table.sample(2000, random_state=1)
    ratios = []
    for numbers, lattice in zip(some.atomic_numbers, some.lattice, strict=True):
        counts = Counter(SYMBOLS[z] for z in numbers)
        if counts.keys() <= atomic_volumes().keys():
            ratios.append(cell_volume(counts) / abs(np.linalg.det(np.reshape(lattice, (3, 3)))))
    ratios = np.array(ratios)
    assert abs(np.median(ratios) - 1) < 0.02
    assert (abs(ratios - 1) < 0.2).mean() > 0.93


@pytest.mark.shared
def test_a_large_table_of_prototypes(data_folder):
    generator = SubstitutionGenerator(str(data_folder / "materials_project.parquet"))
    items = list(generator.generate(50, seed=0, conditions=Conditions(("Na", "Sn", "S"))))
    assert len({c.key for c in items}) == 50
    assert all(c.crystal.chemsys == "Na-S-Sn" for c in items)


def test_fingerprint_ignores_cell_origin_and_scale():
    structure = perovskite()
    prototype = make_prototype(
        "p", structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers
    )
    larger = structure.copy()
    larger.make_supercell([[1, 1, 0], [1, -1, 0], [0, 0, 1]])
    larger.scale_lattice(3 * larger.volume)
    moved = make_prototype("q", larger.lattice.matrix, larger.frac_coords + 0.3, larger.atomic_numbers)
    np.testing.assert_allclose(moved.fingerprint, prototype.fingerprint, atol=1e-6)
    swapped = prototype.fingerprint[np.ix_([0, 2, 1], [0, 2, 1])]
    assert not same_fingerprint(prototype.fingerprint, swapped)


def test_ordered_derivatives_of_rock_salt():
    structure = rock_salt("Mg", "O", 4.2)
    prototype = make_prototype(
        "B1", structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers
    )
    derivatives = ordered_derivatives(prototype, max_atoms=4)
    # In the doubled cell a face-centred lattice has two orderings, L1_0 and L1_1 (Hart and Forcade,
    # Phys. Rev. B 77, 224115 (2008)); they sit on the cation or on the anion.
    assert len(derivatives) == 4
    assert {d.counts for d in derivatives} == {(1, 2, 1), (2, 1, 1)}
    alpha_nafeo2 = Structure.from_spacegroup(  # layered, as LiCoO2
        "R-3m",
        Lattice.hexagonal(2.97, 2.97 * np.sqrt(24)),
        ["Na", "Fe", "O"],
        [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.25]],
    )
    matcher = StructureMatcher()
    made = [
        Structure(d.lattice, [["Na", "O", "Fe"][r] for r in d.roles], d.frac_coords) for d in derivatives
    ]
    assert any(matcher.fit_anonymous(alpha_nafeo2, s) for s in made)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7, 10_001, 25_000])
def test_windows_visit_every_number_once(total):
    visited = [i for w in _windows(total, np.random.default_rng(0)) for i in w]
    assert sorted(visited) == list(range(total))
