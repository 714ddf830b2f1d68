"""The cheapest pairing of rows with columns, by shortest augmenting paths."""

from __future__ import annotations

import numpy as np

from .algebra import Floats, Ints
from .compiled import inner


@inner
def assign(cost: Floats) -> Ints:
    """Column of each row (n,) in the pairing of least total cost; all -1 where none is finite.

    The algorithm of Crouse, IEEE Trans. Aerosp. Electron. Syst. 52, 1679 (2016),
    doi:10.1109/TAES.2016.140952.

    Args:
        cost: (n, n), not negative; infinite for pairs that cannot be.
    """
    n = len(cost)
    u, v = np.zeros(n), np.zeros(n)
    column, row = np.full(n, -1), np.full(n, -1)
    dist, path = np.empty(n), np.empty(n, dtype=np.int64)
    done, remaining = np.empty(n, dtype=np.bool_), np.empty(n, dtype=np.int64)
    visited = np.empty(n, dtype=np.bool_)
    for start in range(n):
        for j in range(n):
            remaining[j] = n - j - 1
            dist[j], done[j], visited[j] = np.inf, False, False
        left, i, least, sink = n, start, 0.0, -1
        while sink < 0:
            visited[i] = True
            lowest, place = np.inf, -1
            for k in range(left):
                j = remaining[k]
                reduced = least + cost[i, j] - u[i] - v[j]
                if reduced < dist[j]:
                    dist[j], path[j] = reduced, i
                if dist[j] < lowest or (dist[j] == lowest and row[j] < 0):
                    lowest, place = dist[j], k
            least = lowest
            if least == np.inf:
                return np.full(n, -1)
            j = remaining[place]
            done[j] = True
            left -= 1
            remaining[place] = remaining[left]
            if row[j] < 0:
                sink = j
            else:
                i = row[j]
        u[start] += least
        for k in range(n):
            if visited[k] and k != start:
                u[k] += least - dist[column[k]]
            if done[k]:
                v[k] -= least - dist[k]
        j = sink
        while True:
            i = path[j]
            row[j] = i
            column[i], j = j, column[i]
            if i == start:
                break
    return column
