"""Polymorphs: real titania and carbon, ranked and clustered."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.validators.polymorphs import Competitor, polymorphs

TIO2 = ((8, 2), (22, 1))
CARBON = ((6, 1),)


def made(group, lattice, species, coords):
    return from_structure(Structure.from_spacegroup(group, lattice, species, coords))


# Experimental cells: rutile and anatase (Howard, Sabine, Dickson, Acta Cryst. B47, 462 (1991)), brookite
# (Meagher, Lager, Can. Mineral. 17, 77 (1979)), in angstrom.
RUTILE = made(136, Lattice.tetragonal(4.5937, 2.9587), ["Ti", "O"], [[0, 0, 0], [0.3048, 0.3048, 0]])
ANATASE = made(141, Lattice.tetragonal(3.7842, 9.5146), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.2081]])
BROOKITE = made(
    61,
    Lattice.orthorhombic(9.174, 5.449, 5.138),
    ["Ti", "O", "O"],
    [[0.1289, 0.0972, 0.8628], [0.0095, 0.1491, 0.1835], [0.2314, 0.1110, 0.5366]],
)


def strained(crystal, by=0.01):
    """A copy as a supercell with a little strain: the same structure, another cell."""
    lattice = crystal.lattice @ np.diag([1 + by, 1 - by, 1 + by / 2])
    lattice[0] *= 2
    halved = crystal.frac_coords * [0.5, 1, 1]
    frac = np.concatenate([halved, halved + np.array([0.5, 0, 0])])
    return Crystal(lattice, frac, np.tile(crystal.atomic_numbers, 2))


def titania():
    return [
        Competitor("mp-2657", "known", -3.464, "DFT", RUTILE, 136),
        Competitor("mp-390", "known", -3.495, "DFT", ANATASE, 141),
        Competitor("near-anatase", "generated", -3.480, "chgnet-0.3.0", strained(ANATASE), 141),
        Competitor("brookite", "generated", -3.490, "chgnet-0.3.0", BROOKITE, 61, finalist=True),
        Competitor("near-rutile", "generated", -3.466, "chgnet-0.3.0", strained(RUTILE), 136),
    ]


def test_titania_is_ranked_and_clustered():
    rows = polymorphs(TIO2, titania())
    assert [r.key_or_material_id for r in rows] == [
        "mp-390",
        "brookite",
        "near-anatase",
        "near-rutile",
        "mp-2657",
    ]
    assert [r.rank for r in rows] == [1, 2, 3, 4, 5]
    assert [r.cluster for r in rows] == [1, 2, 1, 3, 3]
    assert [r.level for r in rows] == ["DFT", "chgnet-0.3.0", "chgnet-0.3.0", "chgnet-0.3.0", "DFT"]
    assert {r.formula for r in rows} == {"TiO2"}
    assert [r.finalist for r in rows] == [False, True, False, False, False]


def test_gaps_are_to_the_lowest_of_another_structure():
    gaps = {r.key_or_material_id: r.gap for r in polymorphs(TIO2, titania())}
    assert gaps["mp-390"] == pytest.approx(-3.495 + 3.490)  # brookite, not its own copy
    assert gaps["near-anatase"] == pytest.approx(-3.480 + 3.490)
    assert gaps["brookite"] == pytest.approx(-3.490 + 3.495)
    assert gaps["mp-2657"] == pytest.approx(-3.464 + 3.495)


def test_the_order_of_the_crystals_does_not_matter():
    assert polymorphs(TIO2, titania()) == polymorphs(TIO2, titania()[::-1])


def test_known_phases_without_structures_are_polymorphs_of_their_own():
    embedded = [
        Competitor("mp-390", "known", -3.495, "DFT", None, 141),
        Competitor("mp-554278", "known", -3.502, "DFT", None, 12),
        Competitor("mp-old", "known", None, "DFT", None, None),
        Competitor("brookite", "generated", -3.51, "chgnet-0.3.0", BROOKITE, 61, finalist=True),
    ]
    rows = polymorphs(TIO2, embedded)
    assert [r.cluster for r in rows] == [1, None, None, None]
    assert [r.gap for r in rows] == [
        pytest.approx(-0.008),
        pytest.approx(0.008),
        pytest.approx(0.015),
        None,
    ]
    assert [r.spacegroup for r in rows] == [61, 12, 141, None]
    assert rows[-1].key_or_material_id == "mp-old"


def test_one_of_its_kind_has_no_gap():
    (alone,) = polymorphs(TIO2, titania()[:1])
    assert (alone.gap, alone.cluster, alone.rank) == (None, 1, 1)
    twins = polymorphs(TIO2, [titania()[1], titania()[2]])
    assert [(t.gap, t.cluster) for t in twins] == [(None, 1), (None, 1)]


def test_a_crystal_that_cannot_be_compared_costs_only_itself():
    broken = Crystal([[np.nan] * 3] * 3, BROOKITE.frac_coords, BROOKITE.atomic_numbers)
    rows = polymorphs(TIO2, [*titania(), Competitor("broken", "generated", -3.6, "x", broken)])
    assert rows[0].key_or_material_id == "broken"
    assert rows[0].cluster is None
    assert [r.cluster for r in rows[1:]] == [1, 2, 1, 3, 3]
    assert rows[0].gap == pytest.approx(-3.6 + 3.495)


def test_carbon():
    """Diamond, graphite and lonsdaleite differ; a diamond as its cubic cell is diamond."""
    thirds = [1 / 3, 2 / 3]
    hexagonal = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1]])
    graphite = Crystal(
        hexagonal * [[2.464], [2.464], [6.711]],
        [[0, 0, 0.25], [0, 0, 0.75], [*thirds, 0.25], [*thirds[::-1], 0.75]],
        [6] * 4,
    )
    lonsdaleite = Crystal(
        hexagonal * [[2.52], [2.52], [4.12]],
        [[*thirds, z] for z in (0.062, 0.438)] + [[*thirds[::-1], z] for z in (0.562, 0.938)],
        [6] * 4,
    )
    diamond = Crystal(3.567 / 2 * (np.ones((3, 3)) - np.eye(3)), [[0] * 3, [0.25] * 3], [6] * 2)
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cubic = Crystal(3.567 * np.eye(3), np.concatenate([corners, corners + 0.25]), [6] * 8)
    crystals = {"graphite": graphite, "diamond": diamond, "cubic": cubic, "lonsdaleite": lonsdaleite}
    energies = {"graphite": 0.0, "diamond": 0.13, "cubic": 0.131, "lonsdaleite": 0.16}
    rows = polymorphs(
        CARBON, [Competitor(n, "generated", energies[n], "x", c) for n, c in crystals.items()]
    )
    assert {r.key_or_material_id: r.cluster for r in rows} == {
        "graphite": 1,
        "diamond": 2,
        "cubic": 2,
        "lonsdaleite": 3,
    }
    assert rows[0].gap == pytest.approx(-0.13)


@pytest.mark.shared
def test_silica_of_the_materials_project(mp_table):
    rows = mp_table[mp_table.formula == "SiO2"]
    known = []
    for row in rows.itertuples():
        crystal = Crystal(
            np.reshape(row.lattice, (3, 3)), np.reshape(row.frac_coords, (-1, 3)), row.atomic_numbers
        )
        known.append(
            Competitor(
                row.material_id, "known", row.formation_energy_per_atom, "DFT", crystal, row.spacegroup
            )
        )
    found = polymorphs(((8, 2), (14, 1)), known)
    assert len(found) == len(rows) == 31
    assert found[0].key_or_material_id == "mp-546794"  # on the Materials Project's hull
    assert [r.cluster for r in found[:1]] == [1]
    sizes = Counter(r.cluster for r in found)
    assert None not in sizes
    assert len(sizes) > 20, "the Materials Project holds distinct phases"
    for earlier, later in pairwise(found):
        assert earlier.formation_energy_per_atom <= later.formation_energy_per_atom
    for r in found:
        others = [o.formation_energy_per_atom for o in found if o.cluster != r.cluster]
        assert math.isclose(r.gap, r.formation_energy_per_atom - min(others), abs_tol=1e-12)
