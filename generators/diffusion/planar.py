"""Planar nets of one element: what a sampler holds fixed to make them, and a judge that finds them.

The nets are the eleven Archimedean tilings (Gruenbaum and Shephard, Tilings and Patterns, 1987,
chapter 2; kagome is 3.6.3.6) and the Lieb net. `hold` turns one into fixed values of the lattice
channels (see `lattice`) and of the first sites' coordinates, as SCIGEN does (Okabe et al.,
arXiv:2407.04557). `verify` knows nothing of that: it looks for the net in any crystal.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ...core.crystal import Crystal
from ...core.elements import ATOMIC_NUMBERS, parse_elements
from ...core.errors import InputError
from .lattice_planes import LONGEST_BOND, SHORTEST_BOND, Layer, flat_layers

_STRAIN = 0.25  # up to which a poor net is still recognised, to report how poor
_MAX_TOLERANCE = 0.14  # from 0.147 on one rhombic net would pass as square and as triangular


@dataclass(frozen=True)
class PlanarLattice:
    """A net of points in the plane whose nearest neighbours are all one bond length apart.

    Args:
        name: how it is asked for.
        a: length of the first cell vector in bond lengths.
        b: length of the second.
        gamma: angle between them in degrees.
        sites: fractional coordinates (x, y) of the points of one cell.
    """

    name: str
    a: float
    b: float
    gamma: float
    sites: tuple[tuple[float, float], ...]

    @cached_property
    def cell(self) -> NDArray[np.float64]:
        """(2, 2) cell in bond lengths; the rows are the vectors, the first along x."""
        gamma = math.radians(self.gamma)
        return np.array([[self.a, 0.0], [self.b * math.cos(gamma), self.b * math.sin(gamma)]])

    @cached_property
    def area_per_site(self) -> float:
        """Area in squared bond lengths."""
        return float(np.linalg.det(self.cell)) / len(self.sites)

    @cached_property
    def bonds(self) -> NDArray[np.int64]:
        """(bonds, 4) integers i, j, p, q, each bond from both ends: site i to site j of cell (p, q)."""
        sites = np.array(self.sites)
        cells = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
        ends = sites[None, :, None] + cells[None, None] - sites[:, None, None]
        length = np.linalg.norm(ends @ self.cell, axis=-1)
        i, j, image = np.nonzero(np.abs(length - 1) < 1e-6)
        return np.column_stack([i, j, cells[image]])

    @property
    def coordination(self) -> tuple[int, ...]:
        """Nearest neighbours in the plane, site by site."""
        return tuple(np.bincount(self.bonds[:, 0], minlength=len(self.sites)).tolist())


@dataclass(frozen=True, eq=False)
class Held:
    """What a sampler holds fixed to make a planar net in the plane of the cell vectors a and b.

    Args:
        n_sites: the first `n_sites` atoms of the crystal are the net.
        atomic_number: their element.
        frac: (n_sites, 3) their fractional coordinates, in the plane z = 0.
        cell: (3,) L11 in angstrom, L22 in angstrom and the ratio L21/L11 of the lower-triangular cell L;
            together they fix its rows a and b. The third row stays free.
    """

    n_sites: int
    atomic_number: int
    frac: NDArray[np.float64]
    cell: NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """Whether a crystal holds a net.

    Args:
        found: some layer is within the tolerance; otherwise the rest is about the layer nearest to it.
        lattice: name of the net.
        element: symbol of its element.
        deviation: angstrom; largest distance of a site from where the ideal net, turned and scaled to
            fit best, has it as seen from a bonded neighbour, height above the plane included. Infinite
            where no plane resembles the net.
        bond_length: angstrom, of the net that fits best; nan where no plane resembles it.
        detail: where the net lies, or why there is none.
    """

    found: bool
    lattice: str
    element: str
    deviation: float
    bond_length: float
    detail: str


def _polygons(
    name: str, a: float, gamma: float, corners: int, *placed: tuple[float, float, float]
) -> PlanarLattice:
    """A net whose sites are the corners of regular polygons of edge 1, a = b.

    Each is `placed` by the fractional coordinates of its centre and the direction of a corner, degrees.
    """
    to_frac = np.linalg.inv(PlanarLattice("", a, a, gamma, ()).cell)
    radius = 1 / (2 * math.sin(math.pi / corners))
    sites: list[tuple[float, float]] = []
    for x, y, first in placed:
        angle = np.radians(first + 360 * np.arange(corners) / corners)
        frac = radius * np.column_stack([np.cos(angle), np.sin(angle)]) @ to_frac + (x, y)
        sites += [(float(u), float(v)) for u, v in np.mod(np.round(frac, 14), 1.0)]
    return PlanarLattice(name, a, a, gamma, tuple(sites))


def _nets() -> Mapping[str, PlanarLattice]:
    """The nets by name."""
    r2, r3 = math.sqrt(2), math.sqrt(3)
    middles = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
    triangles = ((1 / 3, 2 / 3, 90), (2 / 3, 1 / 3, 270))
    row = 1 + r3 / 2  # height of a row of squares and a row of triangles
    twist = math.degrees(math.atan2(r3, 5))  # from the cell vector 2 e1 + e2 to e1, two edges at 60
    nets = (
        PlanarLattice("triangular", 1, 1, 120, ((0.0, 0.0),)),
        PlanarLattice("honeycomb", r3, r3, 120, ((1 / 3, 2 / 3), (2 / 3, 1 / 3))),
        PlanarLattice("kagome", 2, 2, 120, middles),
        PlanarLattice("square", 1, 1, 90, ((0.0, 0.0),)),
        PlanarLattice("lieb", 2, 2, 90, middles),
        _polygons("snub_square", math.sqrt(2 + r3), 90, 4, (0, 0, 30)),
        _polygons("truncated_square", 1 + r2, 90, 4, (0, 0, 0)),
        PlanarLattice(
            "elongated_triangular", 1, math.hypot(0.5, row), 105, ((0.0, 0.0), (2 - r3, 4 - 2 * r3))
        ),
        _polygons("small_rhombitrihexagonal", 1 + r3, 120, 6, (0, 0, 30)),
        _polygons("snub_hexagonal", math.sqrt(7), 120, 6, (0, 0, twist)),
        _polygons("truncated_hexagonal", 2 + r3, 120, 3, *triangles),
        _polygons("great_rhombitrihexagonal", 3 + r3, 120, 12, (0, 0, 15)),
    )
    return MappingProxyType({net.name: net for net in nets})


LATTICES: Mapping[str, PlanarLattice] = _nets()
"""The nets that can be held and found, by name."""


def hold(lattice: str, element: str, *, bond_length: float | None = None) -> Held:
    """The fixed part of a crystal with a planar net of one element.

    Args:
        lattice: a name of `LATTICES`.
        element: symbol.
        bond_length: angstrom, 1 to 8; by default twice the element's metallic radius.

    Raises:
        InputError: no such net or element, an impossible bond length, or none given for an element
            without a metallic radius.
    """
    net, number = _net(lattice), ATOMIC_NUMBERS[parse_elements([element])[0]]
    length = _metallic_bond(element) if bond_length is None else bond_length
    if not SHORTEST_BOND <= length <= LONGEST_BOND:
        raise InputError(
            f"bond_length: {length} is not between {SHORTEST_BOND:g} and {LONGEST_BOND:g} angstrom",
            hint="neighbouring metal atoms are 2.2 to 5.3 angstrom apart",
        )
    sites = np.array(net.sites)
    (l11, _), (l21, l22) = net.cell * length
    frac, cell = np.column_stack([sites, np.zeros(len(sites))]), np.array([l11, l22, l21 / l11])
    for array in (frac, cell):
        array.setflags(write=False)
    return Held(len(sites), number, frac, cell)


def minimum_atoms(lattice: str) -> int:
    """Atoms that a cell must have to hold the net; InputError if there is no such net."""
    return len(_net(lattice).sites)


def verify(crystal: Crystal, lattice: str, element: str, *, tolerance: float = 0.1) -> Finding:
    """Whether some plane of the crystal holds the net.

    Every atom of the element in the plane belongs to the net. Its other atoms stay a third of a bond
    length above or below, and none is nearer to an atom of the net than two thirds of a bond length;
    other elements may lie anywhere. Of several nets the one with the shortest bonds counts. Nothing
    depends on how the crystal was made, on the setting of its cell, or on the order of its atoms.

    Args:
        crystal: any crystal; one that is not finite or has a flat cell holds no net.
        lattice: a name of `LATTICES`.
        element: symbol.
        tolerance: largest `Finding.deviation` in bond lengths, above 0, at most 0.14.

    Raises:
        InputError: no such net or element, or the tolerance is out of range.
    """
    net, number = _net(lattice), ATOMIC_NUMBERS[parse_elements([element])[0]]
    if not 0 < tolerance <= _MAX_TOLERANCE:
        raise InputError(f"tolerance: {tolerance} is not above 0 and at most {_MAX_TOLERANCE}")
    frac = crystal.frac_coords[crystal.atomic_numbers == number]
    nothing = partial(Finding, False, lattice, element, math.inf, math.nan)
    if len(frac) < len(net.sites):
        return nothing(f"{len(frac)} atoms of {element} in the cell, the net needs {len(net.sites)}")
    if not _usable(crystal):
        return nothing("the crystal is not finite or its cell is flat")
    layers = flat_layers(crystal.lattice, frac @ crystal.lattice, len(net.sites), net.area_per_site)
    fits = [(*fit, layer) for layer in layers if (fit := _fit(layer, net)) is not None]
    if not fits:
        return nothing(f"no layer of {element} resembles the net")
    good = [fit for fit in fits if fit[0] <= tolerance * fit[1]]
    deviation, bond, layer = min(good or fits, key=lambda fit: fit[1] if good else fit[0] / fit[1])
    where = f"plane ({' '.join(map(str, layer.miller))}), {len(layer.xy)} {element} a cell"
    return Finding(bool(good), lattice, element, deviation, bond, where)


def _net(lattice: str) -> PlanarLattice:
    """The net of that name; InputError if there is none."""
    if lattice not in LATTICES:
        near = difflib.get_close_matches(lattice, LATTICES, n=1)
        raise InputError(
            f"lattice: {lattice!r} is not known; known are {', '.join(LATTICES)}",
            hint=f"did you mean {near[0]}?" if near else None,
        )
    return LATTICES[lattice]


def _metallic_bond(element: str) -> float:
    """Twice the metallic radius in angstrom; InputError if it is not known.

    pymatgen's periodic table: radii for twelve neighbours, those of the alkali metals for eight.
    """
    from pymatgen.core import Element

    radius = Element(element).data.get("Metallic radius")
    if not isinstance(radius, float):  # "no data" for non-metals and some metals
        raise InputError(
            f"element: no metallic radius is known for {element}", hint="give bond_length in angstrom"
        )
    return 2 * radius


def _usable(crystal: Crystal) -> bool:
    """Whether the cell has a volume that numbers can be trusted with."""
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        return False
    with np.errstate(over="ignore"):
        box = np.prod(np.linalg.norm(crystal.lattice, axis=1))
    return bool(1e-6 * box < crystal.volume < 1e9)


def _fit(layer: Layer, net: PlanarLattice) -> tuple[float, float] | None:
    """(deviation, bond length) in angstrom of the net laid on the layer; None if they are not alike."""
    multiples, strain = _supercells(layer, net)
    if len(multiples) == 0:
        return None
    units = np.linalg.solve(multiples, layer.periods)  # strained cells of the net, angstrom
    best, kind, cell, offset = _assign((layer.xy - layer.xy[0]) @ np.linalg.inv(units), strain, net)
    starts, ends, bonds = _pair_off(kind, cell, multiples[best], net)
    if not bonds:
        return None
    real = (np.array(bonds) + offset[ends] - offset[starts]) @ units[best] @ [1, 1j]
    if np.linalg.det(units[best]) < 0:  # the mirror image of a snub hexagonal net
        real = real.conj()
    ideal = np.array(bonds) @ net.cell @ [1, 1j]
    turn = np.vdot(ideal, real) / np.vdot(ideal, ideal)  # and scale, least squares
    rise = layer.height[ends] - layer.height[starts]
    return float(np.hypot(np.abs(real - turn * ideal), rise).max()), float(np.abs(turn))


def _supercells(layer: Layer, net: PlanarLattice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(c, 2, 2) integers M for which M @ net.cell, at the layer's density, is about its periods.

    With them (c,) the largest relative strain of each.
    """
    count = len(layer.xy) // len(net.sites)
    area = float(np.linalg.det(layer.periods))
    cell = net.cell * math.sqrt(area / (len(layer.xy) * net.area_per_site))
    sides, lengths = np.linalg.norm(cell, axis=1), np.linalg.norm(layer.periods, axis=1)
    reach = math.ceil((1 + _STRAIN) * lengths.max() * sides.max() / np.linalg.det(cell))
    axis = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    norms = np.linalg.norm(grid @ cell, axis=1)
    first, second = (grid[np.abs(norms - length) <= _STRAIN * length] for length in lengths)
    pairs = np.stack(np.broadcast_arrays(first[:, None], second[None, :]), -2).reshape(-1, 2, 2)
    cells = pairs[:, 0, 0] * pairs[:, 1, 1] - pairs[:, 0, 1] * pairs[:, 1, 0]
    pairs = pairs[np.abs(cells) == count]
    stretch = np.linalg.svd(np.linalg.inv(pairs @ cell) @ layer.periods, compute_uv=False)
    strain = np.abs(stretch - 1).max(axis=1)
    return pairs[strain <= _STRAIN], strain[strain <= _STRAIN]


def _assign(
    place: NDArray[np.float64], strain: NDArray[np.float64], net: PlanarLattice
) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Nearest site of each atom: the choice of c, (n,) sites, (n, 2) their cells, (n, 2) offsets.

    `place` (c, n, 2) is in cells of the net, the first atom at 0. That atom is taken for each site in
    turn; the choice with the least strain and offset counts, after the mean offset is removed.
    """
    sites = np.array(net.sites)
    offset = place[:, None, :, None] + sites[:, None, None] - sites
    cells = np.rint(offset)
    offset -= cells
    kind = np.linalg.norm(offset @ net.cell, axis=-1).argmin(axis=-1)[..., None, None]
    cells, offset = (np.take_along_axis(part, kind, 3)[:, :, :, 0] for part in (cells, offset))
    offset -= offset.mean(axis=2, keepdims=True)
    error = np.linalg.norm(offset @ net.cell, axis=-1).max(axis=2) + strain[:, None]
    c, site = np.unravel_index(error.argmin(), error.shape)
    return int(c), kind[c, site, :, 0, 0], cells[c, site].astype(np.int64), offset[c, site]


def _pair_off(
    kind: NDArray[np.int64], cell: NDArray[np.int64], multiple: NDArray[np.int64], net: PlanarLattice
) -> tuple[list[int], list[int], list[NDArray[np.float64]]]:
    """Every bond of the net between assigned atoms: its ends and its vector in cells of the net.

    Empty where two atoms share a site.
    """
    (a, b), (c, d) = multiple.tolist()
    adjugate, size = np.array([[d, -b], [-c, a]]), abs(a * d - b * c)

    def key(site: int, place: NDArray[np.int64]) -> tuple[int, ...]:
        """The same for cells that differ by a period of the layer."""
        return (site, *(place @ adjugate % size).tolist())

    atom = {key(site, place): i for i, (site, place) in enumerate(zip(kind, cell, strict=True))}
    starts: list[int] = []
    ends: list[int] = []
    bonds: list[NDArray[np.float64]] = []
    for i in range(len(kind) if len(atom) == len(kind) else 0):
        for _, other, *step in net.bonds[net.bonds[:, 0] == kind[i]].tolist():
            starts.append(i)
            ends.append(atom[key(other, cell[i] + step)])
            bonds.append(np.add(net.sites[other], step) - net.sites[kind[i]])
    return starts, ends, bonds
