"""Dimensionality and density on crystals whose bonds everybody knows."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.core.records import Judged
from heliodor.validators.bonding import dimensionality, thresholds
from heliodor.validators.structure import Structure as StructureScorer

GRAPHITE = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(2.464, 6.711), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
)
MOS2 = Structure.from_spacegroup(
    "P6_3/mmc",
    Lattice.hexagonal(3.16, 12.29),
    ["Mo", "S"],
    [[1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.621]],
)
SELENIUM = Structure.from_spacegroup(
    "P3_121", Lattice.hexagonal(4.366, 4.954), ["Se"], [[0.225, 0, 1 / 3]]
)
TELLURIUM = Structure.from_spacegroup(
    "P3_121", Lattice.hexagonal(4.457, 5.929), ["Te"], [[0.263, 0, 1 / 3]]
)
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.431), ["Si"], [[0, 0, 0]])
SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
CARBON_DIOXIDE = Structure.from_spacegroup(
    "Pa-3", Lattice.cubic(5.624), ["C", "O"], [[0, 0, 0], [0.119, 0.119, 0.119]]
)
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.615), ["Cu"], [[0, 0, 0]])
KNOWN = [
    (GRAPHITE, 2),
    (MOS2, 2),
    (SELENIUM, 1),
    (TELLURIUM, 1),
    (SILICON, 3),
    (SALT, 3),
    (CARBON_DIOXIDE, 0),
    (COPPER, 3),
]


@pytest.mark.parametrize(("structure", "expected"), KNOWN, ids=lambda x: getattr(x, "formula", x))
def test_dimensionality_of_known_crystals(structure, expected):
    found = dimensionality(from_structure(structure))
    assert found.value == expected
    assert found.score > (0.5 if structure is TELLURIUM else 0.8)


@pytest.mark.parametrize("structure", [MOS2, SELENIUM, CARBON_DIOXIDE], ids=lambda s: s.formula)
def test_it_does_not_depend_on_the_cell(structure):
    crystal = from_structure(structure)
    other = structure.copy()
    other.make_supercell([[1, 1, 0], [0, 1, 0], [0, 2, 1]])
    other.translate_sites(range(len(other)), [0.3, 0.4, 0.7])
    assert thresholds(from_structure(other)) == pytest.approx(thresholds(crystal), rel=1e-6)
    assert thresholds(from_structure(structure * (2, 1, 1))) == pytest.approx(
        thresholds(crystal), rel=1e-6
    )


def test_scores_are_those_of_ase():
    """Those of the paper's authors, components of lower dimensionality counted with the farthest."""
    from ase.geometry.dimensionality import analyze_dimensionality

    from heliodor.core.convert import to_atoms

    for structure, _ in KNOWN:
        crystal = from_structure(structure)
        scores = [0.0] * 4
        for interval in analyze_dimensionality(to_atoms(crystal)):
            scores[int(interval.dimtype[-2])] += interval.score
        found = dimensionality(crystal)
        assert found.value == int(np.argmax(scores))
        assert found.score == pytest.approx(scores[found.value], abs=0.025)  # ours ends at k = 2


@pytest.mark.shared
@pytest.mark.slow
def test_crystalnn_agrees_where_the_score_is_clear(mp_table):
    """pymatgen's Larsen on CrystalNN's bonds: 3D crystals the same, 9 of 10 of the others."""
    from pymatgen.analysis.dimensionality import get_dimensionality_larsen
    from pymatgen.analysis.local_env import CrystalNN

    from heliodor.core.convert import to_structure

    same, n = {True: 0, False: 0}, {True: 0, False: 0}
    for row in mp_table[mp_table.n_atoms <= 8].sample(600, random_state=3).itertuples():
        lattice, frac = np.reshape(row.lattice, (3, 3)), np.reshape(row.frac_coords, (-1, 3))
        crystal = Crystal(lattice, frac, row.atomic_numbers)
        found = dimensionality(crystal)
        if found.score < 0.7 or n[found.value == 3] == 15:
            continue
        bonds = CrystalNN().get_bonded_structure(to_structure(crystal))
        n[found.value == 3] += 1
        same[found.value == 3] += get_dimensionality_larsen(bonds) == found.value
    assert n == {True: 15, False: 15}
    assert same[True] == 15
    assert same[False] >= 11


def test_columns_and_density():
    rows = StructureScorer().score([Judged("k", from_structure(s)) for s in (SALT, SILICON, MOS2)])
    assert [row["density"] for row in rows] == pytest.approx([2.163, 2.329, 5.003], rel=3e-3)
    assert [row["dimensionality"] for row in rows] == [3, 3, 2]


def test_absurd_cells_have_no_columns():
    flat = Crystal(np.diag([3.0, 3.0, 0.0]), [[0, 0, 0]], [14])
    infinite = Crystal(np.diag([3.0, 3.0, np.nan]), [[0, 0, 0]], [14])
    lonely = Crystal(np.eye(3) * 50, [[0, 0, 0]], [14])
    rows = StructureScorer().score([Judged("k", c) for c in (flat, infinite, lonely)])
    assert rows[:2] == [{}, {}]
    assert rows[2]["dimensionality"] == 0
    assert rows[2]["dimensionality_score"] == 1
