"""SevenNet: one fidelity or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.crystal import Crystal
from .neighbors import Neighbors
from .potentials import Evaluation, as_array


class Sevennet:
    """SevenNet-0, 11 July 2024 (Park et al., J. Chem. Theory Comput. 20, 4857 (2024)), or SevenNet-MF-0.

    Args:
        checkpoint: name of the weights in the package.
        channel: of a multi-fidelity model: the level of theory whose energies it gives.
    """

    def __init__(self, device: str, checkpoint: str, channel: str | None = None) -> None:
        import sevenn.util
        import torch

        self._torch = torch
        self._device = device
        self._model = sevenn.util.load_checkpoint(checkpoint).build_model()
        self._model.set_is_batch_data(True)
        channels = self._model.modal_map or {}
        self._channel = None if channel is None else int(channels[channel])
        self._model.eval_modal_map = False  # given as a number below
        self._model.to(device).eval().requires_grad_(False)
        self.cutoff = float(self._model.cutoff)
        rescale = self._model._modules["rescale_atomic_energy"]  # noqa: SLF001 - a sequence by name
        shift, self._scale = as_array(rescale.shift), as_array(rescale.scale)  # eV, by atom type
        self._shift = shift if self._channel is None else shift[self._channel]

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
        inputs = {
            key.NODE_FEATURE: numbers,
            key.ATOMIC_NUMBERS: numbers,
            key.EDGE_IDX: self._tensor(np.concatenate(edges, axis=1)),
            key.EDGE_VEC: self._tensor(vectors.astype(np.float32)),
            key.CELL_VOLUME: self._tensor(volumes),
            key.NUM_ATOMS: self._tensor(np.array(sizes)),
            key.BATCH: self._tensor(np.repeat(np.arange(len(batch)), sizes)),
        }
        if self._channel is not None:
            inputs[key.MODAL_TYPE] = self._tensor(np.full(len(batch), self._channel))
        output = self._model(inputs)
        # Sites are put together in double precision: the optimiser compares energies 1e-6 eV apart, and
        # those of an r2SCAN channel are as large as -90 eV.
        types = output[key.ATOM_TYPE].cpu().numpy()
        scaled = as_array(output[key.SCALED_ATOMIC_ENERGY]).reshape(-1)
        sites = scaled * self._scale[types] + self._shift[types]
        forces = as_array(output[key.PRED_FORCE])
        stresses = -as_array(output[key.PRED_STRESS]).reshape(-1, 6)  # xx yy zz xy yz zx, VASP's sign
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
