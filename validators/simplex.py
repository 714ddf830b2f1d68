"""Many small linear programmes of one shape at once, each with a proof that its optimum is one.

    min  energies . w   subject to  matrix w = fractions,  w >= 0
where the first columns of the matrix are the unit matrix, so that there is a feasible point to start at.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

log = logging.getLogger("heliodor.validators")

TOLERANCE = 1e-10
"""Below it a weight or a gain (eV/atom) counts as none while pivoting."""

_PROOF = 1e-8
_STEPS = 50  # pivots per row before HiGHS takes over; 2 or 3 are usual


def minimise(matrices: Floats, energies: Floats, fractions: Floats) -> tuple[Ints, Floats]:
    """Columns of the optimum, and their weights.

    A primal simplex takes all problems along, pivot by pivot. Its final basis is accepted only with
    both certificates, recomputed from the basis alone: weights >= -1e-8 (primal feasible) and no column
    with a reduced cost below -1e-8 eV/atom (dual feasible), so the energy is at most 1e-8 eV/atom above
    the optimum. What has no such proof (cycling, a basis gone singular) goes to HiGHS, one by one.

    Args:
        matrices: (n, k, m), the first k columns the unit matrix. energies: (n, m). fractions: (n, k),
            positive.

    Returns:
        Columns (n, k) in rising order and weights (n, k) >= 0 of each problem.

    Raises:
        ArithmeticError: HiGHS failed too.
    """
    basis = np.sort(_pivot(matrices, energies, fractions), axis=1)
    weights, proven = _proof(matrices, energies, fractions, basis)
    for i in np.flatnonzero(~proven).tolist():
        basis[i], weights[i] = highs(matrices[i], energies[i], fractions[i])
    return basis, np.maximum(weights, 0.0)


def _pivot(matrices: Floats, energies: Floats, fractions: Floats) -> Ints:
    """The bases (n, k) at which the simplex stops: no column gains, or it takes too long."""
    n, k, _ = matrices.shape
    final = np.tile(np.arange(k), (n, 1))
    open_ = np.arange(n)
    basis, inverse = final.copy(), np.tile(np.eye(k), (n, 1, 1))
    for _ in range(_STEPS * k):
        rows = np.arange(len(open_))
        duals = energies[rows[:, None], basis][:, None] @ inverse
        reduced = energies - (duals @ matrices)[:, 0]
        entering = reduced.argmin(axis=1)
        gains = reduced[rows, entering] < -TOLERANCE
        if not gains.all():
            final[open_[~gains]] = basis[~gains]
            open_, basis, inverse, entering = open_[gains], basis[gains], inverse[gains], entering[gains]
            matrices, energies, fractions = matrices[gains], energies[gains], fractions[gains]
            rows = rows[: len(open_)]
            if not len(open_):
                break
        weights = (inverse @ fractions[..., None])[..., 0]
        direction = (inverse @ matrices[rows, :, entering][..., None])[..., 0]
        allowed = direction > TOLERANCE
        ratios = np.where(allowed, weights / np.where(allowed, direction, 1.0), np.inf)
        leaving = ratios.argmin(axis=1)
        pivot = inverse[rows, leaving] / direction[rows, leaving][:, None]
        inverse -= direction[..., None] * pivot[:, None]
        inverse[rows, leaving] = pivot
        basis[rows, leaving] = entering
    final[open_] = basis
    return final


def _proof(
    matrices: Floats, energies: Floats, fractions: Floats, basis: Ints
) -> tuple[Floats, NDArray[np.bool_]]:
    """Weights (n, k) of the bases, and whether both certificates hold (n,)."""
    rows = np.arange(len(basis))[:, None]
    columns = np.take_along_axis(matrices, basis[:, None], axis=2)
    try:
        weights = np.asarray(np.linalg.solve(columns, fractions[..., None])[..., 0], np.float64)
        duals = np.linalg.solve(columns.transpose(0, 2, 1), energies[rows, basis][..., None])
    except np.linalg.LinAlgError:
        if len(basis) == 1:
            return np.zeros(basis.shape), np.array([False])
        parts = [_proof(matrices[i], energies[i], fractions[i], basis[i]) for i in _halves(len(basis))]
        return np.concatenate([w for w, _ in parts]), np.concatenate([p for _, p in parts])
    gains = (energies - (duals.transpose(0, 2, 1) @ matrices)[:, 0]).min(axis=1)
    # A comparison with NaN is false: no proof.
    proven: NDArray[np.bool_] = (gains > -_PROOF) & (weights.min(axis=1) > -_PROOF)
    return weights, proven


def _halves(n: int) -> tuple[slice, slice]:
    return slice(0, n // 2), slice(n // 2, n)


def highs(matrix: Floats, energies: Floats, fractions: Floats) -> tuple[Ints, Floats]:
    """The same for one problem (k, m), by HiGHS; filled up with columns of weight 0.

    Q. Huangfu, J. A. J. Hall, Math. Program. Comput. 10, 119 (2018), doi:10.1007/s12532-017-0130-5.

    Raises:
        ArithmeticError: it found no optimum, though there is one.
    """
    from scipy.optimize import linprog

    log.debug("a hull's linear programme goes to HiGHS: %s", fractions)
    result = linprog(energies, A_eq=matrix, b_eq=fractions, method="highs")
    if result.x is None:  # cannot be infeasible or unbounded; say so rather than return a wrong hull
        raise ArithmeticError(f"the hull's linear programme failed: {result.message}")
    basis = np.sort(result.x.argsort(kind="stable")[-len(fractions) :])
    return basis, result.x[basis]
