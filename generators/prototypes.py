"""Prototypes: structure types whose roles (sets of sites) are waiting for elements."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.elements import ATOMIC_NUMBERS
from ..core.errors import InputError

_LOG = logging.getLogger("heliodor.generators")

# Distances are measured in units of (volume per atom)^(1/3), so that they belong to the structure type.
_CUTOFF = 2.5  # about 65 neighbours
_CENTRES = np.linspace(0.4, 2.4, 21)
_WIDTH = 0.1
_COLUMNS = ["material_id", "atomic_numbers", "frac_coords", "lattice"]


@dataclass(frozen=True, eq=False)
class Prototype:
    """A structure type: sites, and which of them share an element.

    Args:
        name: AFLOW label, material id, or file and entry.
        lattice: (3, 3) angstrom, rows a, b, c; only its shape counts.
        frac_coords: (n, 3).
        roles: (n,) role of each site, 0 to k - 1.
        parents: (k,) atomic number that each role holds in the structure it was taken from.
    """

    name: str
    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    roles: NDArray[np.int64]
    parents: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Sites of each role."""
        return tuple(np.bincount(self.roles, minlength=len(self.parents)).tolist())

    @cached_property
    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """((n, n, 21), (n, n)): smoothed distances from site to site, and the shortest of each pair."""
        return _pair_distances(self.lattice, self.frac_coords)

    @cached_property
    def fingerprint(self) -> NDArray[np.float64]:
        """(k, k, 21) distances from role to role per atom of the cell.

        A radial distribution, so it does not depend on the choice of cell, origin or supercell.
        """
        return role_fingerprint(self.pairs[0], self.roles)

    @cached_property
    def shortest(self) -> NDArray[np.float64]:
        """(k, k) shortest distance from role to role, in units of (volume per atom)^(1/3)."""
        k = len(self.parents)
        shortest = np.full((k, k), np.inf)
        np.minimum.at(shortest, (self.roles[:, None], self.roles[None, :]), self.pairs[1])
        return shortest


def role_fingerprint(density: NDArray[np.float64], roles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum site-to-site distances over roles, per atom."""
    onehot = np.eye(int(roles.max()) + 1)[roles]
    rows = np.tensordot(onehot, density, axes=(0, 0))  # (k, n, bins)
    summed: NDArray[np.float64] = np.einsum("knb,nl->klb", rows, onehot)
    return summed / len(roles)


def same_fingerprint(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two structure types are the same for all practical purposes."""
    return bool(np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a))


def _pair_distances(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pymatgen.optimization.neighbors import find_points_in_spheres

    n = len(frac_coords)
    unit = np.ascontiguousarray(lattice * (n / abs(np.linalg.det(lattice))) ** (1 / 3))
    points = np.ascontiguousarray(frac_coords @ unit)
    first, second, images, distances = find_points_in_spheres(
        points, points, r=_CUTOFF, pbc=np.ones(3, dtype=np.int64), lattice=unit, tol=1e-8
    )
    other = (first != second) | images.any(axis=1)
    first, second, distances = first[other], second[other], distances[other]
    weight = 0.5 * (1 + np.cos(np.pi * distances / _CUTOFF))
    bins = weight[:, None] * np.exp(-0.5 * ((distances[:, None] - _CENTRES) / _WIDTH) ** 2)
    density = np.zeros((n, n, len(_CENTRES)))
    np.add.at(density, (first, second), bins)
    shortest = np.full((n, n), np.inf)
    np.minimum.at(shortest, (first, second), distances)
    return density, shortest


def make_prototype(name: str, lattice: Any, frac_coords: Any, numbers: Any) -> Prototype:
    """A prototype whose roles are the elements of a structure.

    Raises:
        ValueError: wrong shapes, values that are not finite, a flat cell, or no element.
    """
    lattice = np.asarray(lattice, dtype=np.float64).reshape(3, 3)
    numbers = np.asarray(numbers, dtype=np.int64)
    frac_coords = np.asarray(frac_coords, dtype=np.float64).reshape(len(numbers), 3)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise ValueError("coordinates are not finite")
    if abs(np.linalg.det(lattice)) < 0.1 or not len(numbers):
        raise ValueError("no volume or no atoms")
    if not ((numbers >= 1) & (numbers <= 118)).all():
        raise ValueError("a site holds no chemical element")
    parents, roles = np.unique(numbers, return_inverse=True)
    return Prototype(name, lattice, frac_coords, roles.astype(np.int64), tuple(parents.tolist()))


def load_prototypes(source: str) -> list[Prototype]:
    """The AFLOW library ("aflow") or the structures of a Parquet or JSON file.

    AFLOW: M. J. Mehl et al., Comput. Mater. Sci. 136, S1 (2017), as pymatgen ships it. JSON: a list of
    pymatgen structures or of ComputedStructureEntries. Disordered structures are left out.

    Raises:
        InputError: no such file, not such a file, or no ordered structure in it.
    """
    prototypes: list[Prototype] = []
    skipped = 0
    for name, row in _read(source):
        try:
            prototypes.append(make_prototype(name, *row()))
        except (ValueError, KeyError, TypeError, IndexError):
            skipped += 1
    if skipped:
        _LOG.info("%s: %d entries are no ordered structures and were left out", source, skipped)
    if not prototypes:
        raise InputError(f"prototypes: {source} holds no ordered structure")
    return prototypes


_Row = tuple[Any, Any, Any]


def _read(source: str) -> Iterator[tuple[str, Any]]:
    """(name, function that gives lattice, fractional coordinates and atomic numbers)."""
    if source == "aflow":
        for entry in _load_json(_aflow_file()):
            tags = entry["tags"]
            label = tags["aflow"] + (f" {tags['mineral']}" if tags.get("mineral") else "")
            yield label, lambda e=entry: _from_dict(e["snl"])
        return
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(
            f"prototypes: no file {source!r}", hint="give 'aflow', or a .parquet, .json or .json.gz file"
        )
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.name.endswith((".json", ".json.gz")):
        content = _load_json(path)
        for i, entry in enumerate(content if isinstance(content, list) else [content]):
            yield f"{path.name}#{i}", lambda e=entry: _from_dict(e.get("structure", e))
    else:
        raise InputError(
            f"prototypes: {source!r} is of unknown type", hint="give a .parquet, .json or .json.gz file"
        )


def _aflow_file() -> Path:
    """Where pymatgen keeps the library; importing its module would take seconds."""
    spec = find_spec("pymatgen.analysis.prototypes")
    if spec is None or spec.origin is None:
        raise InputError("prototypes: this pymatgen has no AFLOW library", hint="update pymatgen")
    return Path(spec.origin).parent / "aflow_prototypes.json.gz"


def _load_json(path: Path) -> Any:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
            return json.load(stream)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"prototypes: {path} is no JSON file: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pandas as pd

    try:
        table = pd.read_parquet(path, columns=_COLUMNS)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"prototypes: {path} is no table of structures: {error}",
            hint=f"columns: {', '.join(_COLUMNS)}",
        ) from error
    columns = [table[c].tolist() for c in ("material_id", "lattice", "frac_coords", "atomic_numbers")]
    for name, *row in zip(*columns, strict=True):
        yield str(name), lambda r=row: r


def _from_dict(document: dict[str, Any]) -> _Row:
    """Lattice, coordinates and atomic numbers of a pymatgen structure's dictionary."""
    sites = document["sites"]
    numbers = []
    for site in sites:
        (specie,) = site["species"]  # more than one: disordered
        if abs(specie["occu"] - 1) > 1e-6:
            raise ValueError("partial occupancy")
        numbers.append(ATOMIC_NUMBERS[specie["element"]])
    return document["lattice"]["matrix"], [site["abc"] for site in sites], numbers
