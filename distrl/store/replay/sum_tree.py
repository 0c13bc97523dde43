"""Sum tree over masses: vectorized updates, and draws with probability mass / total.

Nodes contain float64 running sums of their children, recomputed rather than adjusted, so they never drift, and a draw
cannot reach a child without mass. Numpy and numba implementations give equal bits.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from distrl.base.errors import ConfigError
from distrl.store.replay.sum_tree_constants import BELOW, FAN, TOP


class SumTree:
    """Masses of `size` items, initially 0; `compiled` None uses numba where installed.

    >>> tree = SumTree(5)
    >>> tree.set(np.array([1, 3]), np.array([1.0, 3.0]))
    >>> tree.total, tree.find(np.array([0.0, 0.5, 1.0, 3.9])).tolist()
    (4.0, [1, 1, 3, 3])
    """

    def __init__(self, size: int, compiled: bool | None = None):
        self.size = size
        self.masses: list[np.ndarray] = []  # of each level's nodes; the items are level 0
        self.sums: list[np.ndarray] = []  # running sums (nodes, FAN) over the level below
        nodes = size
        while True:
            self.masses.append(np.zeros(-(-nodes // FAN) * FAN))
            if nodes <= TOP and self.sums:
                break
            nodes = -(-nodes // FAN)
            self.sums.append(np.zeros((nodes, FAN)))
        self.mass = self.masses[0]
        self._top = np.zeros(len(self.masses[-1]))
        self._stale = False
        self._loops = _find_loops(compiled)
        self._pairs = (tuple(self.masses), tuple(self.sums))

    @property
    def is_compiled(self) -> bool:
        """True if the loops are compiled by numba."""
        return self._loops is not None

    @property
    def total(self) -> float:
        """Sum of all masses."""
        if self._stale:
            np.add.accumulate(self.masses[-1], out=self._top)
            self._stale = False
        return float(self._top[-1])

    def set(self, index: np.ndarray, mass: np.ndarray) -> None:
        """Set the masses (N,) of items (N,); of duplicates the last counts."""
        self._stale = True
        if self._loops is not None:
            self._loops.set_masses(*self._pairs, index, mass)
            return
        self.mass[index] = mass
        nodes = index
        for sums, below, above in zip(self.sums, self.masses, self.masses[1:], strict=False):
            nodes = nodes // FAN  # a node that comes twice is computed twice: cheaper than looking for it
            running = np.add.accumulate(below.reshape(-1, FAN).take(nodes, axis=0), axis=1)
            sums[nodes] = running
            above[nodes] = running[:, -1]

    def set_range(self, start: int, stop: int, mass: float | np.ndarray) -> None:
        """Set the masses of items start..stop."""
        if start == stop:
            return
        self._stale = True
        self.mass[start:stop] = mass
        low, high = start, stop
        for sums, below, above in zip(self.sums, self.masses, self.masses[1:], strict=False):
            low, high = low // FAN, (high - 1) // FAN + 1
            np.add.accumulate(below.reshape(-1, FAN)[low:high], axis=1, out=sums[low:high])
            above[low:high] = sums[low:high, -1]

    def find(self, target: np.ndarray) -> np.ndarray:
        """Find the items (N,) at targets (N,) in [0, total) of the running sum of masses."""
        target = np.minimum(target, self.total * BELOW)
        node = self._top.searchsorted(target, side="right")
        rest = target - np.where(node > 0, self._top.take(node - 1), 0.0)
        if self._loops is not None:
            return self._loops.find(self._pairs[1], node, rest)
        rows = np.arange(len(target)) * FAN
        for level in reversed(self.sums):
            sums = level.take(node, axis=0)
            # The difference that made `rest` may have rounded up to the node's whole mass, which lies in no child.
            np.minimum(rest, sums[:, -1] * BELOW, out=rest)
            child = (sums > rest[:, None]).argmax(axis=1)
            before = sums.reshape(-1).take(rows + child - 1)
            rest -= np.where(child > 0, before, 0.0)
            node = node * FAN + child
        return node

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw items (count,) with replacement, each with probability mass / total."""
        return self.find(rng.random(count) * self.total)


def _find_loops(compiled: bool | None) -> ModuleType | None:
    """Return the compiled module, or None; raise ConfigError if required without numba."""
    if compiled is False:
        return None
    try:
        from distrl.store.replay import sum_tree_compiled
    except ImportError:
        if compiled:
            raise ConfigError("compiled priorities need numba.", "Type: pip install 'distrl[fast]'.") from None
        return None
    return sum_tree_compiled
