"""The loops of `SumTree`, compiled by numba (extra `fast`). They give the bits that numpy gives: tests compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from distrl.store.replay.sum_tree import BELOW, FAN


@njit(cache=True, nogil=True)
def set_masses(masses: Any, sums: Any, index: np.ndarray, mass: np.ndarray) -> None:
    """See `SumTree.set`."""
    items = masses[0]
    for i in range(len(index)):
        items[index[i]] = mass[i]
    divisor = 1
    for depth in range(len(sums)):
        below, level, above = masses[depth], sums[depth], masses[depth + 1]
        divisor *= FAN
        for i in range(len(index)):
            node = index[i] // divisor
            total = below[node * FAN]
            level[node, 0] = total
            for child in range(1, FAN):
                total += below[node * FAN + child]
                level[node, child] = total
            above[node] = total


@njit(cache=True, nogil=True)
def find(sums: Any, nodes: np.ndarray, rests: np.ndarray) -> np.ndarray:
    """See `SumTree.find`, below the uppermost level."""
    found = np.empty(len(nodes), np.int64)
    for i in range(len(nodes)):
        node, rest = nodes[i], rests[i]
        for depth in range(len(sums) - 1, -1, -1):
            level = sums[depth]
            rest = min(rest, level[node, FAN - 1] * BELOW)
            child = 0
            while level[node, child] <= rest:
                child += 1
            if child > 0:
                rest -= level[node, child - 1]
            node = node * FAN + child
        found[i] = node
    return found
