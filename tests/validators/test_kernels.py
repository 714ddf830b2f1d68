"""Compiled functions: what they fall back to, and the assignment against scipy's."""

import logging

import numba
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from heliodor.validators.kernels import compiled
from heliodor.validators.kernels.assignment import assign


def test_where_no_cache_can_be_written_each_process_compiles(monkeypatch, caplog):
    original = numba.njit

    def no_folder(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return original(*arguments, **options)

    def double(x):
        return 2 * x

    compiled._warn_once.cache_clear()
    monkeypatch.setattr(numba, "njit", no_folder)
    with caplog.at_level(logging.WARNING, "heliodor.validators"):
        assert compiled.entry("float64(float64)")(double)(4.0) == 8.0
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_assignment_is_the_cheapest(n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        cost = rng.random((n, n))
        cost[rng.random((n, n)) < 0.4] = np.inf
        columns = assign.py_func(cost)
        try:
            rows, best = linear_sum_assignment(cost)
        except ValueError:  # infeasible
            assert (columns == -1).all()
            continue
        assert cost[rows, columns].sum() == pytest.approx(cost[rows, best].sum())
