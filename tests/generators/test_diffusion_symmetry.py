"""Templates: the crystals they hold, their projections, their keys, their library."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.generators.diffusion.data import reduced
from heliodor.generators.diffusion.lattice import channels_of, metric_rotation
from heliodor.generators.diffusion.symmetry import TemplateLibrary, find_template, p1

ROWS, COLUMNS = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)


def _of(group, lattice, species, coords):
    return from_structure(Structure.from_spacegroup(group, lattice, species, coords))


# name: (crystal, number, atoms, orbits, free coordinates, free lattice parameters)
# Counts from the International Tables: Wyckoff letters and multiplicities are given beside each.
CASES = {
    "rock salt, 4a 4b": (
        _of("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        (225, 2, 2, 0, 1),
    ),
    "perovskite, 1a 1b 3c": (
        _of("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]),
        (221, 5, 3, 0, 1),
    ),
    "rutile, 2a 4f": (
        _of("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        (136, 6, 2, 1, 2),
    ),
    "wurtzite, 2b 2b": (
        _of(
            "P6_3mc",
            Lattice.hexagonal(3.25, 5.207),
            ["Zn", "O"],
            [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.3819]],
        ),
        (186, 4, 2, 2, 2),
    ),
    "baddeleyite, 4e 4e 4e": (
        _of(
            "P2_1/c",
            Lattice.monoclinic(5.15, 5.21, 5.32, 99.2),
            ["Zr", "O", "O"],
            [[0.275, 0.040, 0.208], [0.070, 0.332, 0.345], [0.450, 0.757, 0.479]],
        ),
        (14, 12, 3, 9, 4),
    ),
    "tetragonal BaTiO3, 1a 1b 1b 2c": (
        _of(
            "P4mm",
            Lattice.tetragonal(3.99, 4.04),
            ["Ba", "Ti", "O", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.53], [0.5, 0.5, -0.05], [0.5, 0, 0.47]],
        ),
        (99, 5, 4, 4, 2),
    ),
    "hcp magnesium, 2c": (
        _of("P6_3/mmc", Lattice.hexagonal(3.21, 5.21), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
        (194, 2, 1, 0, 2),
    ),
    "spinel, 8a 16d 32e": (
        _of("Fd-3m", Lattice.cubic(8.083), ["Mg", "Al", "O"], [[0] * 3, [0.625] * 3, [0.3874] * 3]),
        (227, 14, 3, 1, 1),
    ),
    "quartz, left or right, 3a 6c": (
        _of(
            "P3_121",
            Lattice.hexagonal(4.913, 5.405),
            ["Si", "O"],
            [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.7858 - 1 / 3]],
        ),
        (152, 9, 2, 4, 2),
    ),
}


def _found(name):
    return find_template(reduced(CASES[name][0]))


def _spacegroup(lattice, frac, numbers, symprec=1e-3):
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_symmetry_dataset((lattice, frac, numbers), symprec=symprec)


def _vector(lattice):
    return (lattice @ lattice.T)[ROWS, COLUMNS]


def _moved(crystal, shift, order):
    return Crystal(crystal.lattice, (crystal.frac_coords + shift)[order], crystal.atomic_numbers[order])


@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_international_tables(name):
    template, crystal = _found(name)
    number, atoms, orbits, free, lattice = CASES[name][1]
    assert template.spacegroup == number
    assert (len(template), len(crystal)) == (atoms, atoms)
    assert template.n_orbits == orbits
    assert template.sizes.sum() == atoms
    assert template.freedom.sum() == free
    assert template.lattice_freedom == lattice


@pytest.mark.parametrize("name", CASES)
def test_template_holds_its_crystal(name):
    template, crystal = _found(name)
    again = template.coordinates(crystal.frac_coords[template.representatives])
    gap = again - crystal.frac_coords
    assert np.abs(gap - np.rint(gap)).max() < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_every_crystal_of_the_template_has_its_space_group(name):
    """Random parameters and a random metric, projected: spglib finds the group, or one above it."""
    template, crystal = _found(name)
    rng = np.random.default_rng(3)
    for _ in range(3):
        start = crystal.frac_coords[template.representatives]
        frac = template.coordinates(start + rng.normal(0, 0.04, (template.n_orbits, 3)))
        strained = crystal.lattice @ (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
        vector = template.metric @ _vector(strained)
        metric = np.empty((3, 3))
        metric[ROWS, COLUMNS] = metric[COLUMNS, ROWS] = vector
        # One species for each orbit: no accidental symmetry by equal atoms.
        dataset = _spacegroup(np.linalg.cholesky(metric), frac, template.orbit + 1)
        fewest = len(_spacegroup(crystal.lattice, crystal.frac_coords, template.orbit + 1).rotations)
        assert len(dataset.rotations) >= fewest
        if template.freedom.sum():  # generic parameters: no more than the group itself
            assert dataset.number == template.spacegroup


@pytest.mark.parametrize("name", CASES)
def test_projections(name):
    template, crystal = _found(name)
    assert np.allclose(template.free @ template.free, template.free, atol=1e-12)
    assert np.allclose(template.free, template.free.transpose(0, 2, 1))
    assert np.allclose(template.metric @ template.metric, template.metric, atol=1e-12)
    vector = _vector(crystal.lattice)
    assert np.allclose(template.metric @ vector, vector, atol=1e-9)
    assert (template.rotation[template.representatives] == np.eye(3)).all()
    assert np.allclose(np.abs(np.linalg.det(template.rotation)), 1)
    for rotation in template.rotation:  # each R_i is a symmetry of the cell
        assert np.allclose(metric_rotation(rotation.astype(float)) @ vector, vector, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_symmetrised_crystal_is_the_crystal(name):
    """Noise of 0.01 angstrom is taken out: pymatgen matches, nothing moves far, the group is exact."""
    rng = np.random.default_rng(5)
    clean = reduced(CASES[name][0])
    noise = rng.uniform(-0.01, 0.01, clean.frac_coords.shape) @ np.linalg.inv(clean.lattice)
    noisy = Crystal(
        clean.lattice @ (np.eye(3) + rng.normal(0, 1e-3, (3, 3))),
        clean.frac_coords + noise,
        clean.atomic_numbers,
    )
    template, crystal = find_template(noisy)
    assert template.spacegroup == CASES[name][1][0]
    assert (crystal.atomic_numbers == noisy.atomic_numbers).all()
    assert StructureMatcher(scale=False, primitive_cell=False).fit(
        to_structure(crystal), to_structure(noisy)
    )
    gap = crystal.frac_coords - noisy.frac_coords
    gap -= gap[0]  # the origin is moved to the group's
    gap -= np.rint(gap)
    assert np.linalg.norm(gap @ crystal.lattice, axis=1).max() < 0.2
    exact = _spacegroup(crystal.lattice, crystal.frac_coords, crystal.atomic_numbers, 1e-5)
    assert exact.number == template.spacegroup


def test_offsets_are_fractions_whatever_the_origin():
    """An offset holds nothing of the free parameters: the same for x = 0.305 and x = 0.29."""
    offsets = []
    for x in (0.305, 0.29):
        rutile = _of("P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [x, x, 0]])
        moved = Crystal(rutile.lattice, rutile.frac_coords + 0.123, rutile.atomic_numbers)
        template, _ = find_template(moved)
        offsets.append(template.offset)
        assert np.allclose(template.offset * 24, np.rint(template.offset * 24), atol=1e-9)
    assert np.allclose(*offsets)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(CASES)), seed=st.integers(0, 10**6))
def test_key_is_blind_to_origin_order_and_orientation(name, seed):
    rng = np.random.default_rng(seed)
    crystal = reduced(CASES[name][0])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    moved = _moved(crystal, rng.uniform(size=3), rng.permutation(len(crystal)))
    turned = Crystal(moved.lattice @ turn, moved.frac_coords, moved.atomic_numbers)
    template, _ = find_template(turned)
    assert template.key == find_template(crystal)[0].key


def test_key_is_blind_to_chemistry_and_parameters_but_not_to_sites():
    def perovskite(a, b, x):
        """B at the origin or A at the origin are one template."""
        return _of("Pm-3m", Lattice.cubic(4), [a, b, "O"], [[0, 0, 0], [0.5] * 3, x])

    keys = {
        find_template(c)[0].key
        for c in (perovskite("Sr", "Ti", [0.5, 0.5, 0]), perovskite("Ti", "Sr", [0.5, 0, 0]))
    }
    assert len(keys) == 1
    # CsCl and Ga at the face centres: same group, other sites (1a 3c against 1a 1b 3c without 1b)
    auricupride = _of("Pm-3m", Lattice.cubic(3.75), ["Au", "Cu"], [[0, 0, 0], [0, 0.5, 0.5]])
    rhenium_oxide = _of("Pm-3m", Lattice.cubic(3.75), ["Re", "O"], [[0, 0, 0], [0.5, 0, 0]])
    a, b = find_template(auricupride)[0], find_template(rhenium_oxide)[0]
    assert a.spacegroup == b.spacegroup == 221
    assert a.sizes.tolist() == b.sizes.tolist()
    assert a.key != b.key


def test_screw_axes_along_different_cell_vectors_are_different_templates():
    """P222_1 in general positions: the rotations agree, only the translations differ."""
    sites = [[0.11, 0.17, 0.09], [0.36, 0.29, 0.41]]
    species = ["Na", "Cl"]
    along_c = _of("P222_1", Lattice.orthorhombic(4, 5, 6), species, sites)
    turn = np.eye(3)[[2, 0, 1]]
    along_a = Crystal(np.diag([4.0, 5.0, 6.0]), along_c.frac_coords @ turn.T, along_c.atomic_numbers)
    a, b = find_template(along_c)[0], find_template(along_a)[0]
    assert a.spacegroup == b.spacegroup == 17
    assert {r.tobytes() for r in a.rotation} == {r.tobytes() for r in b.rotation}
    assert a.key != b.key


def test_left_handed_cell_keeps_the_hand_of_the_crystal():
    quartz = CASES["quartz, left or right, 3a 6c"][0]
    swapped = Crystal(quartz.lattice[[1, 0, 2]], quartz.frac_coords[:, [1, 0, 2]], quartz.atomic_numbers)
    assert np.linalg.det(swapped.lattice) < 0
    template, crystal = find_template(swapped)
    assert template.spacegroup == 152  # not its mirror image, 154
    assert np.linalg.det(crystal.lattice) > 0


def test_cell_that_is_not_primitive_gets_no_translations_in_its_group():
    """A supercell falls back to P1, and a cell doubled by a real distortion to its own group."""
    cubic = CASES["rock salt, 4a 4b"][0]  # four formula units
    template, crystal = find_template(cubic)
    assert template.spacegroup == 1
    assert template.n_orbits == 8
    assert crystal.frac_coords == pytest.approx(cubic.frac_coords)
    doubled = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.0), ["Cs", "Cl"], [[0] * 3, [0.5] * 3])
    doubled.make_supercell([1, 1, 2])
    chlorines = [i for i, site in enumerate(doubled) if site.specie.symbol == "Cl"]
    doubled.translate_sites(chlorines[:1], [0, 0, 0.06], frac_coords=False)  # under 0.1 angstrom
    template, _ = find_template(from_structure(doubled))
    assert template.spacegroup == 99
    assert template.freedom.tolist() == [1, 1, 1, 1]


def test_p1_holds_nothing():
    template = p1(3)
    u = np.random.default_rng(0).uniform(size=(3, 3))
    assert template.coordinates(u) == pytest.approx(u)
    assert template.freedom.tolist() == [3, 3, 3]
    assert template.lattice_freedom == 6
    general = _of("P1", Lattice.from_parameters(4, 5, 6, 81, 77, 95), ["Na"], [[0.1, 0.2, 0.3]])
    three = Crystal(general.lattice, [[0.1, 0.2, 0.3], [0.4, 0.9, 0.1], [0.7, 0.5, 0.55]], [3, 8, 9])
    assert find_template(three)[0].key == template.key


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_absurd_cells_are_refused_before_spglib_sees_them(cell):
    with pytest.raises(ValueError, match="cell"):
        find_template(Crystal(cell, [[0.0, 0, 0]], [11]))


def test_channels_give_the_cell_back():
    torch = pytest.importorskip("torch")
    from heliodor.generators.diffusion.lattice import cell_of

    for name in CASES:
        _, crystal = _found(name)
        channels = channels_of(crystal.lattice, len(crystal))
        cell = cell_of(torch.as_tensor(channels), torch.tensor(len(crystal))).numpy()
        assert cell == pytest.approx(crystal.lattice, abs=1e-9)


@pytest.fixture
def library():
    templates = [_found(name)[0] for name in CASES]
    return TemplateLibrary.from_templates([*templates, *templates[:2], p1(4)])


def test_library_counts_and_returns(library, tmp_path):
    assert len(library) == len(CASES) + 1
    assert library.counts.tolist() == [2, 2, *[1] * (len(CASES) - 1)]
    assert library.sizes[1] == (1, 1, 3)
    library.save(tmp_path / "templates.npz")
    loaded = TemplateLibrary.load(tmp_path / "templates.npz")
    assert (loaded.spacegroup == library.spacegroup).all()
    assert (loaded.n_orbits == library.n_orbits).all()
    for i, name in enumerate(CASES):
        template = _found(name)[0]
        for one in (library[i], loaded[i]):
            assert one.key == template.key
            for field in ("orbit", "rotation", "free", "offset", "metric"):
                assert getattr(one, field) == pytest.approx(getattr(template, field), abs=1e-11), field
    with pytest.raises(IndexError):
        library[len(library)]


def test_damaged_library_is_an_input_error(library, tmp_path):
    path = tmp_path / "templates.npz"
    library.save(path)
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"not a file of arrays"):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="templates"):
            TemplateLibrary.load(path)
    with pytest.raises(InputError, match="absent"):
        TemplateLibrary.load(tmp_path / "absent.npz")
    np.savez(path, something=np.zeros(3))
    with pytest.raises(InputError, match="no key"):
        TemplateLibrary.load(path)
    with np.load(_saved(library, path)) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "orbit": arrays["orbit"][:-1]})
    with pytest.raises(InputError, match="belong together"):
        TemplateLibrary.load(path)


def _saved(library, path):
    library.save(path)
    return path
