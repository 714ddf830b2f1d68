"""The potentials: what is known about each, and energies, forces and stresses of a batch of crystals.

`KNOWN` is for everyone; the classes import torch when constructed, which only worker processes do.

Conventions: energy in eV of the whole cell; forces (n, 3) in eV/angstrom; stress (3, 3) in
eV/angstrom^3, symmetric, (1/V) dE/d(strain), so that it is positive where the crystal wants to shrink
(ASE's sign). Rows of the lattice are the cell vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from ..core.errors import MissingError, missing_extra
from .neighbors import Neighbors

MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])
"""The 89 elements of the MPtrj set (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)), on which CHGNet
0.3.0 and SevenNet-0 were trained: H to Bi, and Ac to Pu. CHGNet has rows for Po to Ra as well, but they
were never trained and give nonsense."""


@dataclass(frozen=True)
class PotentialInfo:
    """Facts about a potential that need no torch.

    Args:
        model: name and version for the records.
        package, extra: Python package that holds code and weights, and our extra that installs it.
        weights: path of the weights in the package.
        elements: atomic numbers it was trained on.
    """

    model: str
    package: str
    extra: str
    weights: str
    elements: frozenset[int] = MPTRJ_ELEMENTS

    def provenance(self) -> dict[str, str]:
        """Version of the package and digest of the weights.

        Raises:
            MissingError: the package is not installed, or its weights are gone.
        """
        found = find_spec(self.package)
        if found is None or found.origin is None or find_spec("torch") is None:
            raise missing_extra(self.package if found is None else "torch", self.extra)
        weights = Path(found.origin).parent / self.weights
        if not weights.is_file():
            raise MissingError(
                f"the weights of {self.package} are not in its package ({weights.name})",
                hint=f"pip install --force-reinstall {self.package}",
            )
        return {
            "model": self.model,
            "package": f"{self.package} {metadata.version(self.package)}",
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }


KNOWN = {
    "chgnet": PotentialInfo(
        "chgnet-0.3.0", "chgnet", "chgnet", "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
    ),
    "sevennet": PotentialInfo(
        "sevennet-0",
        "sevenn",
        "sevennet",
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV), forces (n, 3) (eV/angstrom) and stress (3, 3) (eV/angstrom^3) of one crystal."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class Potential(Protocol):
    """A machine-learned interatomic potential, loaded."""

    cutoff: float  # angstrom; an atom without a neighbour within it is invisible to the potential

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """One evaluation per crystal; `Neighbors` are those within `cutoff`, none isolated."""
        ...


def load_potential(name: str, device: str) -> Potential:
    """Load "chgnet" or "sevennet" with the weights of its package onto a torch device."""
    return Chgnet(device) if name == "chgnet" else Sevennet(device)


class Chgnet:
    """CHGNet 0.3.0 (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)).

    Differs from the package's own `predict_graph` in cost only: one backward pass gives forces and
    stress together, no graph is kept for a second derivative, and the neighbours come from outside.
    Measured twice as fast a call; equal to 1e-5 eV/angstrom.
    """

    def __init__(self, device: str) -> None:
        import torch
        from chgnet.model.model import CHGNet

        self._torch = torch
        self._device = device
        self._model = CHGNet.load(model_name="0.3.0", use_device=device, verbose=False).eval()
        self._model.requires_grad_(False)
        self._converter = self._model.graph_converter
        composition: Any = self._model.composition_model
        self._offsets = composition.fc.weight[0].double().cpu().numpy()  # eV/atom, by Z - 1
        self.cutoff = float(self._converter.atom_graph_cutoff)

    def _graph(self, crystal: Crystal, near: Neighbors) -> Any:
        from chgnet.graph.crystalgraph import CrystalGraph

        torch = self._torch
        graph = self._converter.create_graph(
            len(crystal), near.first, near.second, near.images, near.distances
        )
        atom_graph, directed2undirected = graph.adjacency_list()
        bond_graph, undirected2directed = graph.line_graph_adjacency_list(
            cutoff=self._converter.bond_graph_cutoff
        )
        int32, float32 = torch.int32, torch.float32
        return CrystalGraph(
            atomic_number=torch.tensor(crystal.atomic_numbers, dtype=int32),
            atom_frac_coord=torch.tensor(crystal.frac_coords, dtype=float32, requires_grad=True),
            atom_graph=torch.tensor(atom_graph, dtype=int32),
            atom_graph_cutoff=self._converter.atom_graph_cutoff,
            neighbor_image=torch.tensor(near.images, dtype=float32),
            directed2undirected=torch.tensor(directed2undirected, dtype=int32),
            undirected2directed=torch.tensor(undirected2directed, dtype=int32),
            bond_graph=torch.tensor(bond_graph, dtype=int32),
            bond_graph_cutoff=self._converter.bond_graph_cutoff,
            lattice=torch.tensor(crystal.lattice, dtype=float32, requires_grad=True),
        ).to(self._device)

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """See `Potential`."""
        from chgnet.model.model import BatchedGraph

        model = self._model
        graphs = BatchedGraph.from_graphs(
            [self._graph(crystal, near) for crystal, near in batch],
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
            compute_stress=True,
        )
        # The public forward makes its inputs itself, and so runs one backward pass for the forces and
        # another for the stress, both with the graph kept for training.
        sites = model._compute(graphs, return_site_energies=True)["site_energies"]  # noqa: SLF001
        gradients = self._torch.autograd.grad(
            sum(site.sum() for site in sites), [*graphs.atom_positions, *graphs.strains]
        )
        found = []
        for k, (crystal, _) in enumerate(batch):
            # Sites are summed in double precision: the optimiser compares energies 1e-6 eV apart.
            energy = float(sites[k].detach().double().sum()) + float(
                self._offsets[crystal.atomic_numbers - 1].sum()
            )
            virial = _array(gradients[len(batch) + k])
            found.append(
                Evaluation(energy, -_array(gradients[k]), (virial + virial.T) / (2 * crystal.volume))
            )
        return found


class Sevennet:
    """SevenNet-0, 11 July 2024 (Park et al., J. Chem. Theory Comput. 20, 4857 (2024))."""

    def __init__(self, device: str) -> None:
        import sevenn.util
        import torch

        self._torch = torch
        self._device = device
        self._model = sevenn.util.load_checkpoint("7net-0").build_model()
        self._model.set_is_batch_data(True)
        self._model.to(device).eval().requires_grad_(False)
        self.cutoff = float(self._model.cutoff)

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """See `Potential`."""
        import sevenn._keys as key

        sizes = [len(crystal) for crystal, _ in batch]
        starts = np.cumsum([0, *sizes[:-1]])
        numbers = self._tensor(np.concatenate([crystal.atomic_numbers for crystal, _ in batch]))
        edges = [
            np.stack([near.first, near.second]) + start
            for (_, near), start in zip(batch, starts, strict=True)
        ]
        vectors = np.concatenate([near.vectors(crystal) for crystal, near in batch])
        volumes = np.array([crystal.volume for crystal, _ in batch], dtype=np.float32)
        output = self._model(
            {
                key.NODE_FEATURE: numbers,
                key.ATOMIC_NUMBERS: numbers,
                key.EDGE_IDX: self._tensor(np.concatenate(edges, axis=1)),
                key.EDGE_VEC: self._tensor(vectors.astype(np.float32)),
                key.CELL_VOLUME: self._tensor(volumes),
                key.NUM_ATOMS: self._tensor(np.array(sizes)),
                key.BATCH: self._tensor(np.repeat(np.arange(len(batch)), sizes)),
            }
        )
        sites = _array(output[key.ATOMIC_ENERGY]).reshape(-1)
        forces = _array(output[key.PRED_FORCE])
        stresses = -_array(output[key.PRED_STRESS]).reshape(-1, 6)  # xx yy zz xy yz zx, VASP's sign
        return [
            Evaluation(
                float(sites[start : start + size].sum()),
                forces[start : start + size],
                stress[[[0, 3, 5], [3, 1, 4], [5, 4, 2]]],
            )
            for start, size, stress in zip(starts, sizes, stresses, strict=True)
        ]

    def _tensor(self, values: NDArray[Any]) -> Any:
        return self._torch.from_numpy(values).to(self._device)


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def free_memory() -> None:
    """Give cached memory of a GPU back after it ran out."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
