"""The cell as six numbers: rotation-free, volume and shape apart, any real values allowed.

A Niggli-reduced cell is turned so that its rows form a lower triangle L with a positive diagonal; that
removes the rotation. The channels are

    log L11, log L22, log L33 (each less log(n)/3, n atoms), L21/L11, L31/L11, L32/L22

so every real 6-vector is a cell, and for a reduced cell the last three lie within about +-1/2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

CHANNELS = 6
# Positions of a symmetric 3x3 matrix in its 6-vector: 11, 22, 33, 23, 13, 12.
_ROWS = (0, 1, 2, 1, 0, 0)
_COLUMNS = (0, 1, 2, 2, 2, 1)


def channels_of(lattice: NDArray[np.float64], n_atoms: int) -> NDArray[np.float64]:
    """(6,) channels of a cell with rows a, b, c in angstrom (either handedness).

    Raises:
        ValueError: a flat or non-finite cell.
    """
    metric = lattice @ lattice.T
    try:
        lower = np.linalg.cholesky(metric)
    except np.linalg.LinAlgError as error:
        raise ValueError("the cell is flat or not finite") from error
    diagonal = np.diag(lower)
    if not np.isfinite(lower).all():
        raise ValueError("the cell is flat or not finite")
    return np.array(
        [
            *(np.log(diagonal) - np.log(n_atoms) / 3),
            lower[1, 0] / lower[0, 0],
            lower[2, 0] / lower[0, 0],
            lower[2, 1] / lower[1, 1],
        ]
    )


def cell_of(channels: torch.Tensor, n_atoms: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3) lower-triangular cells in angstrom from (..., 6) channels and (...) atoms."""
    import torch

    scale = torch.log(n_atoms.to(channels.dtype))[..., None] / 3
    diagonal = torch.exp(channels[..., :3] + scale)
    a, b, c = diagonal.unbind(-1)
    zero = torch.zeros_like(a)
    return torch.stack(
        [
            torch.stack([a, zero, zero], -1),
            torch.stack([channels[..., 3] * a, b, zero], -1),
            torch.stack([channels[..., 4] * a, channels[..., 5] * b, c], -1),
        ],
        -2,
    )


def metric_of(cell: torch.Tensor) -> torch.Tensor:
    """(..., 6) metric tensor (11, 22, 33, 23, 13, 12) of (..., 3, 3) cells, square angstrom."""
    full = cell @ cell.transpose(-1, -2)
    return full[..., _ROWS, _COLUMNS]


def channels_of_metric(metric: torch.Tensor, n_atoms: torch.Tensor) -> torch.Tensor:
    """(..., 6) channels from (..., 6) positive definite metric tensors: Cholesky, written out."""
    import torch

    g11, g22, g33, g23, g13, g12 = metric.unbind(-1)
    tiny = torch.finfo(metric.dtype).tiny
    a2 = g11.clamp_min(tiny)
    l21, l31 = g12 / a2, g13 / a2  # in units of a
    b2 = (g22 - l21 * g12).clamp_min(tiny)
    l32 = (g23 - l21 * g13) / b2  # in units of L22
    c2 = (g33 - l31 * g13 - l32 * l32 * b2).clamp_min(tiny)
    shift = torch.log(n_atoms.to(metric.dtype)) / 3
    logs = [0.5 * torch.log(x) - shift for x in (a2, b2, c2)]
    return torch.stack([*logs, l21, l31, l32], -1)


def metric_rotation(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """(6, 6) action of a symmetry operation x -> W x (fractional) on the metric: G -> W^T G W."""
    action = np.zeros((6, 6))
    for column in range(6):
        basis = np.zeros((3, 3))
        basis[_ROWS[column], _COLUMNS[column]] = basis[_COLUMNS[column], _ROWS[column]] = 1.0
        moved = rotation.T @ basis @ rotation
        action[:, column] = moved[_ROWS, _COLUMNS]
    return action
