"""Loops of `SumTree` compiled by numba (extra `fast`), equal to numpy bit for bit."""

from __future__ import annotations

import numpy as np
from numba import njit

from distrl.store.replay.sum_tree_constants import BELOW, FAN

Levels = tuple[np.ndarray, ...]


@njit(cache=True, nogil=True)
def set_masses(masses: Levels, sums: Levels, index: np.ndarray, mass: np.ndarray) -> None:
    """Implement `SumTree.set`."""
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
def find(sums: Levels, nodes: np.ndarray, rests: np.ndarray) -> np.ndarray:
    """Implement `SumTree.find` below the uppermost level."""
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
