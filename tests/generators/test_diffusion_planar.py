"""Planar nets: their geometry proved site by site, and a judge that knows them in any setting."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy.spatial.transform import Rotation

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.generators.diffusion.lattice import channels_of
from heliodor.generators.diffusion.lattice_planes import _basis_with_plane, _nearest
from heliodor.generators.diffusion.planar import LATTICES, hold, minimum_atoms, verify

# Polygons around each kind of vertex and how many sites of a cell are of that kind.
VERTICES = {
    "triangular": {(3, 3, 3, 3, 3, 3): 1},
    "honeycomb": {(6, 6, 6): 2},
    "kagome": {(3, 6, 3, 6): 3},
    "square": {(4, 4, 4, 4): 1},
    "lieb": {(8, 8, 8, 8): 1, (8, 8): 2},  # the "8" of the Lieb net is a square of edge two
    "snub_square": {(3, 3, 4, 3, 4): 4},
    "truncated_square": {(4, 8, 8): 4},
    "elongated_triangular": {(3, 3, 3, 4, 4): 2},
    "small_rhombitrihexagonal": {(3, 4, 6, 4): 6},
    "snub_hexagonal": {(3, 3, 3, 3, 6): 6},
    "truncated_hexagonal": {(3, 12, 12): 6},
    "great_rhombitrihexagonal": {(4, 6, 12): 12},
}
BOND = 2.5


def angles_of(name, polygons):
    if name == "lieb":
        return tuple(360 // len(polygons) for _ in polygons)
    return tuple(180 - 360 / n for n in polygons)


def canonical(cycle):
    """The same for all rotations and reflections of a cyclic sequence."""
    cycle = [round(float(x), 6) for x in cycle]
    turns = [tuple(d[i:] + d[:i]) for d in (cycle, cycle[::-1]) for i in range(len(cycle))]
    return min(turns)


def stars(net, reach=3):
    """Bond vectors of every site to its neighbours, from the coordinates alone."""
    grid = np.array([(p, q) for p in range(-reach, reach + 1) for q in range(-reach, reach + 1)])
    sites = np.array(net.sites)
    for site in sites:
        ends = ((sites[:, None] + grid).reshape(-1, 2) - site) @ net.cell
        length = np.linalg.norm(ends, axis=1)
        yield ends[length > 1e-9], length[length > 1e-9]


def crystal_of(name, *, height=1.9 * BOND, shift=(0.0, 0.0), fill=(), stretch=((1, 0), (0, 1))):
    """One layer of cobalt a cell, with argon at the fractional positions `fill`."""
    held = hold(name, "Co", bond_length=BOND)
    l11, l22, ratio = held.cell
    cell = np.zeros((3, 3))
    cell[:2, :2] = np.array([[l11, 0], [ratio * l11, l22]]) @ stretch
    cell[2] = [*shift, height]
    frac = np.vstack([held.frac, np.reshape(fill, (-1, 3))])
    return Crystal(cell, frac, np.array([27] * held.n_sites + [18] * len(fill)))


def displaced(crystal, atom, vector):
    cart = crystal.frac_coords @ crystal.lattice
    cart[atom] += vector
    return Crystal(crystal.lattice, cart @ np.linalg.inv(crystal.lattice), crystal.atomic_numbers)


def from_group(group, lattice, species, sites):
    return from_structure(Structure.from_spacegroup(group, lattice, species, sites))


def test_every_net_is_covered():
    assert set(VERTICES) == set(LATTICES)
    assert [minimum_atoms(name) for name in LATTICES] == [1, 2, 3, 1, 3, 4, 4, 2, 6, 6, 6, 12]


@pytest.mark.parametrize("name", LATTICES)
def test_nearest_neighbours_are_one_bond_away_in_the_right_directions(name):
    net = LATTICES[name]
    kinds = {}
    for site, (ends, length) in enumerate(stars(net)):
        near = length < 1 + 1e-6
        assert length.min() == pytest.approx(1, abs=1e-12)
        assert length[near] == pytest.approx(1, abs=1e-12)
        assert length[~near].min() > math.sqrt(2) - 1e-9
        assert near.sum() == net.coordination[site]
        directions = np.sort(np.degrees(np.arctan2(ends[near, 1], ends[near, 0])))
        key = canonical(np.diff(np.append(directions, directions[0] + 360)))
        kinds[key] = kinds.get(key, 0) + 1
    expected = {canonical(angles_of(name, p)): n for p, n in VERTICES[name].items()}
    assert kinds == expected


@pytest.mark.parametrize("name", LATTICES)
def test_sites_per_area_are_those_of_the_polygons(name):
    if name == "lieb":
        area = 4 / 3
    else:
        (polygons,) = VERTICES[name]
        area = sum(1 / (4 * math.tan(math.pi / n)) for n in polygons)  # of each polygon, a share 1/n
    net = LATTICES[name]
    assert net.area_per_site == pytest.approx(area, abs=1e-12)
    assert net.a * net.b * math.sin(math.radians(net.gamma)) == pytest.approx(area * len(net.sites))


@pytest.mark.parametrize("name", LATTICES)
def test_bonds_come_in_pairs(name):
    bonds = {tuple(b) for b in LATTICES[name].bonds.tolist()}
    assert bonds == {(j, i, -p, -q) for i, j, p, q in bonds}


@pytest.mark.parametrize("name", LATTICES)
def test_held_values_are_the_lattice_channels(name):
    held = hold(name, "Co", bond_length=BOND)
    crystal = crystal_of(name, shift=(0.4, -0.3))
    channels = channels_of(crystal.lattice, 1)
    l11, l22, ratio = held.cell
    assert channels[[0, 1, 3]] == pytest.approx([math.log(l11), math.log(l22), ratio])
    assert abs(ratio) <= 0.5 + 1e-12
    assert (held.frac[:, 2] == 0).all()
    assert ((held.frac >= 0) & (held.frac < 1)).all()
    assert _nearest(crystal.lattice, crystal.frac_coords @ crystal.lattice) == pytest.approx(BOND)


def test_the_default_bond_is_twice_the_metallic_radius():
    assert hold("square", "Fe").cell[0] == pytest.approx(2 * 1.26)
    assert hold("kagome", "Co").cell[0] == pytest.approx(2 * 2 * 1.25)
    assert hold("kagome", "Co").atomic_number == 27


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hold("kagomé", "Co"), r"lattice: 'kagomé' is not known.*honeycomb[\s\S]*mean kagome\?"),
        (lambda: minimum_atoms("cubic"), "lattice: 'cubic' is not known"),
        (lambda: hold("kagome", "Xx"), "Xx"),
        (lambda: hold("kagome", "O"), "no metallic radius is known for O[\\s\\S]*bond_length"),
        (lambda: hold("kagome", "Co", bond_length=0.9), "bond_length: 0.9"),
        (lambda: hold("kagome", "Co", bond_length=8.1), "bond_length: 8.1"),
        (lambda: hold("kagome", "Co", bond_length=math.nan), "bond_length: nan"),
        (lambda: verify(crystal_of("square"), "lib", "Co"), "did you mean lieb"),
        (lambda: verify(crystal_of("square"), "lieb", "co2"), "co2"),
        (lambda: verify(crystal_of("square"), "lieb", "Co", tolerance=0.0), "tolerance: 0.0"),
        (lambda: verify(crystal_of("square"), "lieb", "Co", tolerance=0.3), "tolerance: 0.3"),
    ],
)
def test_bad_input_is_refused_by_name(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_an_element_without_a_radius_takes_a_given_bond():
    assert hold("honeycomb", "B", bond_length=1.78).cell[0] == pytest.approx(1.78 * math.sqrt(3))


@pytest.mark.parametrize("name", LATTICES)
def test_a_held_net_is_found_as_itself_alone(name):
    crystal = crystal_of(name, shift=(0.3, 0.4))
    findings = {other: verify(crystal, other, "Co") for other in LATTICES}
    assert [other for other, finding in findings.items() if finding.found] == [name]
    assert findings[name].deviation == pytest.approx(0, abs=1e-9)
    assert findings[name].bond_length == pytest.approx(BOND)
    assert "(0 0 1)" in findings[name].detail


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(LATTICES)),
    seed=st.integers(0, 10**6),
    setting=st.sampled_from(["given", "niggli", "2x1x1", "1x1x2", "sheared"]),
    mirrored=st.booleans(),
)
def test_a_net_is_found_in_every_setting(name, seed, setting, mirrored):
    rng = np.random.default_rng(seed)
    fill = np.column_stack([rng.random((3, 2)), 0.5 + 0.2 * (rng.random(3) - 0.5)])
    crystal = crystal_of(name, height=BOND * rng.uniform(1.5, 3), shift=rng.uniform(-3, 3, 2), fill=fill)
    structure = to_structure(crystal)
    if setting == "niggli":
        structure = structure.get_reduced_structure("niggli")
    elif setting != "given":
        scale = {"2x1x1": (2, 1, 1), "1x1x2": (1, 1, 2), "sheared": [[1, 2, 0], [0, 1, 0], [1, 0, 1]]}
        structure.make_supercell(scale[setting])
    crystal = from_structure(structure)
    turn = Rotation.random(random_state=seed).as_matrix() * (-1 if mirrored else 1)
    order = rng.permutation(len(crystal))
    cart = (crystal.frac_coords @ crystal.lattice + rng.normal(0, 0.01, (len(crystal), 3)))[order] @ turn
    lattice = crystal.lattice @ turn
    frac = cart @ np.linalg.inv(lattice) + rng.random(3)
    moved = Crystal(lattice, frac, crystal.atomic_numbers[order])
    finding = verify(moved, name, "Co")
    assert finding.found
    assert finding.bond_length == pytest.approx(BOND, abs=0.03)
    assert 0 < finding.deviation < 0.1


@pytest.mark.parametrize("name", LATTICES)
def test_a_net_stretched_by_30_percent_is_refused(name):
    assert verify(crystal_of(name, stretch=np.diag([1.05, 1.0])), name, "Co").found
    finding = verify(crystal_of(name, stretch=np.diag([1.3, 1.0])), name, "Co")
    assert not finding.found
    assert not verify(crystal_of(name, stretch=np.array([[1.0, 0.0], [0.3, 1.0]])), name, "Co").found


@pytest.mark.parametrize("name", [n for n in LATTICES if minimum_atoms(n) > 1])
def test_one_site_out_of_place_is_refused(name):
    assert not verify(displaced(crystal_of(name), 0, [0.3 * BOND, 0, 0]), name, "Co").found
    assert not verify(displaced(crystal_of(name), 1, [0.1 * BOND, 0.3 * BOND, 0]), name, "Co").found


@pytest.mark.parametrize("name", [n for n in LATTICES if minimum_atoms(n) > 1])
def test_deviation_measures_buckling_in_angstrom(name):
    finding = verify(displaced(crystal_of(name), 0, [0, 0, 0.09 * BOND]), name, "Co")
    assert finding.found
    assert finding.deviation == pytest.approx(0.09 * BOND)
    finding = verify(displaced(crystal_of(name), 0, [0, 0, 0.12 * BOND]), name, "Co")
    assert not finding.found
    assert finding.deviation == pytest.approx(0.12 * BOND)
    assert verify(displaced(crystal_of(name), 0, [0, 0, 0.12 * BOND]), name, "Co", tolerance=0.13).found


def test_every_atom_of_the_element_in_the_plane_counts():
    kagome = crystal_of("kagome")
    with_centre = Crystal(
        kagome.lattice, np.vstack([kagome.frac_coords, [0.5, 0.5, 0]]), np.array([27] * 4)
    )
    assert not verify(with_centre, "kagome", "Co").found
    assert verify(with_centre, "triangular", "Co").found
    other = Crystal(with_centre.lattice, with_centre.frac_coords, np.array([27, 27, 27, 50]))
    assert verify(other, "kagome", "Co").found
    assert not verify(other, "triangular", "Co").found


def test_a_kagome_net_must_be_whole():
    crystal = crystal_of("kagome")
    mixed = Crystal(crystal.lattice, crystal.frac_coords, np.array([27, 27, 26]))
    finding = verify(mixed, "kagome", "Co")
    assert not finding.found
    assert finding.deviation == math.inf
    assert math.isnan(finding.bond_length)
    assert "needs 3" in finding.detail


@pytest.mark.parametrize("cell", [np.full((3, 3), np.nan), np.ones((3, 3)), 1e200 * np.eye(3)])
def test_a_broken_crystal_is_a_finding(cell):
    finding = verify(Crystal(cell, np.zeros((1, 3)), np.array([27])), "square", "Co")
    assert not finding.found
    assert "finite" in finding.detail


def test_coinciding_atoms_are_no_net():
    assert not verify(
        Crystal(4 * np.eye(3), np.zeros((2, 3)), np.array([27, 27])), "honeycomb", "Co"
    ).found


# Published cells; lengths in angstrom.
COSN = ("P6/mmm", Lattice.hexagonal(5.28, 4.26), ["Co", "Sn", "Sn"])
COSN = from_group(*COSN, [(0.5, 0, 0), (0, 0, 0), (1 / 3, 2 / 3, 0.5)])
MGB2 = from_group(
    "P6/mmm", Lattice.hexagonal(3.086, 3.524), ["Mg", "B"], [(0, 0, 0), (1 / 3, 2 / 3, 0.5)]
)
LICOO2 = from_group(
    "R-3m", Lattice.hexagonal(2.816, 14.05), ["Li", "Co", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.26)]
)
ZRSIS = from_group(
    "P4/nmm",
    Lattice.tetragonal(3.544, 8.055),
    ["Si", "Zr", "S"],
    [(0, 0, 0), (0, 0.5, 0.2725), (0, 0.5, 0.6225)],
)
SRTIO3 = from_group(
    "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0)]
)
U3SI2 = from_group(
    "P4/mbm",
    Lattice.tetragonal(7.33, 3.90),
    ["U", "U", "Si"],
    [(0, 0, 0), (0.181, 0.681, 0.5), (0.389, 0.889, 0)],
)
DIAMOND = from_group("Fd-3m", Lattice.cubic(3.567), ["C"], [(0, 0, 0)])
IRON = from_group("Im-3m", Lattice.cubic(2.866), ["Fe"], [(0, 0, 0)])
COPPER = from_group("Fm-3m", Lattice.cubic(3.615), ["Cu"], [(0, 0, 0)])


@pytest.mark.parametrize(
    ("crystal", "element", "nets"),
    [
        (COSN, "Co", {"kagome": 2.64}),
        (COSN, "Sn", {"honeycomb": 3.048, "triangular": 5.28}),
        (MGB2, "B", {"honeycomb": 1.782}),
        (LICOO2, "Co", {"triangular": 2.816}),
        (LICOO2, "O", {"triangular": 2.816}),
        (ZRSIS, "Si", {"square": 2.506}),
        (SRTIO3, "O", {"square": 2.761, "kagome": 2.761}),  # TiO2 planes; (111) planes of SrO3
        (U3SI2, "U", {"snub_square": 3.79}),
        (DIAMOND, "C", {}),  # its (111) bilayers are buckled honeycombs
        (IRON, "Fe", {"square": 2.866}),
        (COPPER, "Cu", {"triangular": 2.556, "square": 2.556}),
    ],
)
def test_real_crystals(crystal, element, nets):
    primitive = from_structure(to_structure(crystal).get_primitive_structure())
    for setting in (crystal, primitive):
        findings = {name: verify(setting, name, element) for name in LATTICES}
        found = {name: f.bond_length for name, f in findings.items() if f.found}
        for name, bond in nets.items():
            assert found[name] == pytest.approx(bond, abs=0.02), findings[name]
        if element != "Sn" and crystal not in (LICOO2, U3SI2):
            assert set(found) == set(nets)


def test_a_plane_of_two_elements_is_no_lieb_net_of_one():
    assert not verify(SRTIO3, "lieb", "O").found
    assert not verify(SRTIO3, "lieb", "Ti").found
    # With one element on both sites of the TiO2 plane it is one.
    one = Crystal(SRTIO3.lattice, SRTIO3.frac_coords, np.where(SRTIO3.atomic_numbers == 38, 38, 22))
    layer = (one.frac_coords[:, 2] < 0.25) & (one.atomic_numbers == 22)
    assert layer.sum() == 3
    plane = Crystal(one.lattice, one.frac_coords[layer], one.atomic_numbers[layer])
    assert verify(plane, "lieb", "Ti").bond_length == pytest.approx(3.905 / 2)


@pytest.mark.parametrize("seed", range(5))
def test_plane_bases_are_unimodular_and_in_the_plane(seed):
    rng = np.random.default_rng(seed)
    cell = np.array(Lattice(rng.normal(size=(3, 3)) * 4).get_lll_reduced_lattice().matrix)
    for _ in range(30):
        miller = rng.integers(-4, 5, 3)
        if np.gcd.reduce(miller) != 1:
            continue
        rows = _basis_with_plane(cell, miller)
        assert abs(round(np.linalg.det(rows))) == 1
        assert (rows[:2] @ miller == 0).all()
        assert rows[2] @ miller == 1


def test_nearest_distances_agree_with_pymatgen():
    structure = to_structure(U3SI2)
    expected = [min(n.nn_distance for n in site) for site in structure.get_all_neighbors(5)]
    assert _nearest(U3SI2.lattice, U3SI2.frac_coords @ U3SI2.lattice) == pytest.approx(expected)


@pytest.mark.shared
def test_known_nets_of_the_materials_project(mp_table):
    known = {
        ("CoSn", "Co", 191): {"kagome"},
        ("FeSn", "Fe", 191): {"kagome"},
        ("CaCu5", "Cu", 191): {"kagome", "honeycomb"},  # Cu on 3g, and on 2c around Ca
        ("MgCu2", "Cu", 227): {"kagome"},  # Laves phases
        ("HoNi2", "Ni", 227): {"kagome"},
        ("MgB2", "B", 191): {"honeycomb"},
        ("Ta2B", "Ta", 140): {"snub_square", "honeycomb"},  # CuAl2 type: honeycombs interpenetrate
    }
    for (formula, element, group), nets in known.items():
        rows = mp_table[(mp_table.formula == formula) & (mp_table.spacegroup == group)]
        assert len(rows) == 1
        row = rows.iloc[0]
        frac, numbers = np.reshape(row.frac_coords, (-1, 3)), np.array(row.atomic_numbers)
        crystal = Crystal(np.reshape(row.lattice, (3, 3)), frac, numbers)
        assert {n for n in LATTICES if verify(crystal, n, element).found} - {
            "triangular",
            "square",
        } == nets


def test_importing_is_light():
    code = (
        "import sys, heliodor.generators.diffusion.planar;"
        "print([m for m in ('torch', 'pymatgen', 'ase', 'prefect') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
