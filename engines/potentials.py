"""The potentials themselves: energies, forces and stresses of a batch. Runs in the worker process only.

Conventions: energy in eV of the whole cell; forces (n, 3) in eV/angstrom; stress (3, 3) in
eV/angstrom^3, symmetric, (1/V) dE/d(strain), so that it is positive where the crystal wants to shrink
(ASE's sign). Rows of the lattice are the cell vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .neighbors import Neighbors

MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])
"""The 89 elements of the MPtrj set (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)), on which CHGNet
0.3.0 and SevenNet-0 were trained: H to Bi, and Ac to Pu. CHGNet has rows for Po to Ra as well, but they
were never trained and give nonsense."""


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV), forces (n, 3) (eV/angstrom) and stress (3, 3) (eV/angstrom^3) of one crystal."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class Potential(Protocol):
    """A machine-learned interatomic potential, loaded."""

    cutoff: float  # angstrom; an atom without a neighbour within it is invisible to the potential
    provenance: dict[str, str]

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """One evaluation per crystal; `Neighbors` are those within `cutoff`, none isolated."""
        ...


def load_potential(name: str, device: str) -> Potential:
    """Load "chgnet" or "sevennet" with the weights of its package onto a torch device."""
    return {"chgnet": Chgnet, "sevennet": Sevennet}[name](device)


class Chgnet:
    """CHGNet 0.3.0 (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)).

    Differs from the package's own `predict_graph` in cost only: one backward pass gives forces and
    stress together, no graph is kept for a second derivative, and the neighbours come from outside.
    Measured twice as fast a call; equal to 1e-5 eV/angstrom.
    """

    def __init__(self, device: str) -> None:
        import chgnet
        import torch
        from chgnet.model.model import CHGNet

        self._torch = torch
        self._device = device
        self._model = CHGNet.load(model_name="0.3.0", use_device=device, verbose=False).eval()
        self._model.requires_grad_(False)
        self._converter = self._model.graph_converter
        self._offsets = self._model.composition_model.fc.weight[0].double().cpu().numpy()  # eV/atom, by Z - 1
        self.cutoff = float(self._converter.atom_graph_cutoff)
        weights = Path(chgnet.__file__).parent / "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
        self.provenance = _provenance("chgnet", weights)

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
        checkpoint = sevenn.util.load_checkpoint("7net-0")
        self._model = checkpoint.build_model()
        self._model.set_is_batch_data(True)
        self._model.to(device).eval().requires_grad_(False)
        self.cutoff = float(self._model.cutoff)
        self.provenance = _provenance("sevenn", Path(checkpoint.checkpoint_path))

    def _graph(self, crystal: Crystal, near: Neighbors) -> Any:
        import sevenn._keys as key
        from sevenn.atom_graph_data import AtomGraphData

        torch = self._torch
        numbers = torch.tensor(crystal.atomic_numbers)
        return AtomGraphData(
            **{
                key.NODE_FEATURE: numbers,
                key.ATOMIC_NUMBERS: numbers,
                key.POS: torch.tensor(crystal.frac_coords @ crystal.lattice, dtype=torch.float32),
                key.EDGE_IDX: torch.tensor(np.stack([near.first, near.second])),
                key.EDGE_VEC: torch.tensor(near.vectors(crystal), dtype=torch.float32),
                key.CELL_VOLUME: torch.tensor(crystal.volume, dtype=torch.float32),
                key.NUM_ATOMS: torch.tensor(len(crystal)),
            }
        )

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """See `Potential`."""
        import sevenn._keys as key
        from torch_geometric.data import Batch

        graphs = Batch.from_data_list([self._graph(crystal, near) for crystal, near in batch])
        output = self._model(graphs.to(self._device))
        sites = _array(output[key.ATOMIC_ENERGY]).reshape(-1)
        forces = _array(output[key.PRED_FORCE])
        stresses = -_array(output[key.PRED_STRESS]).reshape(-1, 6)  # xx yy zz xy yz zx, VASP's sign
        ends = np.cumsum([len(crystal) for crystal, _ in batch])
        return [
            Evaluation(
                float(sites[end - len(crystal) : end].sum()),
                forces[end - len(crystal) : end],
                stress[[[0, 3, 5], [3, 1, 4], [5, 4, 2]]],
            )
            for (crystal, _), end, stress in zip(batch, ends, stresses, strict=True)
        ]


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _provenance(package: str, weights: Path) -> dict[str, str]:
    return {
        "package": f"{package} {metadata.version(package)}",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
