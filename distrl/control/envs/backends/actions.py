"""Conversion of a policy's batch of actions to the actions of single environments.

`clipper` and `splitter` inspect the space once and return a function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.control.envs.spaces import leaf_shape, leaf_spaces, per_leaf


def clipper(space: Space) -> Callable[[Tree], Tree]:
    """Make a function that clips and casts the Box leaves of a batch of actions (B, ...)."""

    def leaf_clipper(leaf: Space) -> Callable[[Tree], Tree]:
        if not isinstance(leaf, Box):
            return np.asarray
        low, high, dtype = leaf.low, leaf.high, leaf.dtype
        if dtype.kind == "f":  # two ufuncs cost half of np.clip; a fresh array, because environments may keep their row
            return lambda action: np.minimum(np.maximum(np.asarray(action, dtype), low), high)
        return lambda action: np.rint(np.clip(action, low, high)).astype(dtype)

    return per_leaf(space, leaf_clipper)


def splitter(space: Space) -> Callable[[Tree], list[Tree]]:
    """Make a function that splits a clipped batch (N, ...) into N single actions.

    >>> [int(action) for action in splitter(Discrete(3, start=-1))(np.array([0, 2]))]
    [-1, 1]
    """
    if isinstance(space, Dict):
        children = {name: splitter(child) for name, child in space.spaces.items()}

        def split_dict(action: Tree) -> list[Tree]:
            columns = [split(action[name]) for name, split in children.items()]
            return [dict(zip(children, row, strict=True)) for row in zip(*columns, strict=True)]

        return split_dict
    if isinstance(space, Tuple):
        parts = [splitter(child) for child in space.spaces]
        return lambda action: list(zip(*(s(part) for s, part in zip(parts, action, strict=True)), strict=True))
    if leaf_shape(space) == () and not isinstance(space, Discrete):
        return lambda action: [np.asarray(row, space.dtype) for row in action]
    join = joiner(space)
    return lambda action: list(join(action))


def joiner(space: Space) -> Callable[[Tree], Tree]:
    """Make a function that adds starts and casts dtypes of a clipped batch."""

    def leaf_joiner(leaf: Space) -> Callable[[Tree], Tree]:
        dtype, start = leaf.dtype, np.asarray(getattr(leaf, "start", 0))
        if start.any():
            return lambda action: (action.astype(np.int64) + start).astype(dtype)
        return lambda action: action.astype(dtype, copy=False)

    return per_leaf(space, leaf_joiner)


def storage(space: Space, steps: int, num_envs: int) -> Tree:
    """Allocate a tree (steps, B, ...) in the smallest dtypes for zero-based actions of a space."""

    def allocate(leaf: Space) -> np.ndarray:
        dtype = leaf.dtype
        if isinstance(leaf, Discrete):
            dtype = np.min_scalar_type(int(leaf.n) - 1)
        elif isinstance(leaf, MultiDiscrete):
            dtype = np.min_scalar_type(int(leaf.nvec.max()) - 1)
        return np.empty((steps, num_envs, *leaf_shape(leaf)), dtype)

    return tree_map(allocate, leaf_spaces(space))


class ActionHistory:
    """Actions of all running episodes: with the seeds, the environments' snapshots.

    One growing block (steps, B, ...); steps before the oldest running episode are dropped when it is full.
    """

    def __init__(self, space: Space, num_envs: int, capacity: int = 256):
        self._space, self._num_envs, self._capacity = space, num_envs, capacity
        self._blocks = storage(space, capacity, num_envs)
        self._plain = isinstance(self._blocks, np.ndarray)
        self._now = 0
        self._start = [0] * num_envs

    def append(self, action: Tree) -> None:
        """Record the clipped actions (B, ...) of one vector step."""
        if self._now == self._capacity:
            self._compact()
        now = self._now
        if self._plain:
            self._blocks[now] = action
        else:
            for block, leaf in zip(tree_leaves(self._blocks), tree_leaves(action), strict=True):
                block[now] = leaf
        self._now = now + 1

    def begin(self, env: int) -> None:
        """Begin an episode of environment `env`."""
        self._start[env] = self._now

    def length(self, env: int) -> int:
        """Return the number of steps since the reset of environment `env`."""
        return self._now - self._start[env]

    def since_reset(self, env: int) -> Tree:
        """Copy the actions (L, ...) of environment `env` since its reset."""
        start, now = self._start[env], self._now
        return tree_map(lambda block: block[start:now, env].copy(), self._blocks)

    def load(self, actions: list[Tree]) -> None:
        """Load the running episodes, for each environment a tree (L_i, ...)."""
        lengths = [len(tree_leaves(tree)[0]) for tree in actions]
        self._now = max(lengths)
        self._start = [self._now - length for length in lengths]
        self._capacity = max(self._capacity, 2 * self._now)
        self._blocks = storage(self._space, self._capacity, self._num_envs)
        for env, tree in enumerate(actions):
            for block, leaf in zip(tree_leaves(self._blocks), tree_leaves(tree), strict=True):
                block[self._start[env] : self._now, env] = leaf

    def _compact(self) -> None:
        oldest = min(self._start)
        live = self._now - oldest
        if live > self._capacity // 2:
            self._capacity *= 2
        old, self._blocks = self._blocks, storage(self._space, self._capacity, self._num_envs)
        for block, leaf in zip(tree_leaves(self._blocks), tree_leaves(old), strict=True):
            block[:live] = leaf[oldest : self._now]
        self._start = [start - oldest for start in self._start]
        self._now = live


def random_actions(space: Space, num: int, rng: np.random.Generator, mask: Tree | None = None) -> Tree:
    """Draw uniform actions (num, ...): zero-based indices, floats within the bounds."""
    spaces = leaf_spaces(space)
    if mask is None:
        return tree_map(lambda leaf: _random_leaf(leaf, num, rng, None), spaces)
    return tree_map(lambda leaf, allowed: _random_leaf(leaf, num, rng, allowed), spaces, mask)


def _random_leaf(space: Space, num: int, rng: np.random.Generator, mask: np.ndarray | None) -> np.ndarray:
    if isinstance(space, Discrete):
        return _pick(int(space.n), num, rng, mask)
    if isinstance(space, MultiDiscrete):
        ends = np.cumsum(space.nvec)
        pieces = [None if mask is None else mask[:, end - n : end] for n, end in zip(space.nvec, ends, strict=True)]
        picks = [_pick(int(n), num, rng, piece) for n, piece in zip(space.nvec, pieces, strict=True)]
        return np.stack(picks, axis=1)
    if isinstance(space, Box):
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        return rng.uniform(low, high, (num, *space.shape)).astype(np.float32)
    return rng.integers(0, 2, (num, *leaf_shape(space)))


def _pick(n: int, num: int, rng: np.random.Generator, mask: np.ndarray | None) -> np.ndarray:
    scores = rng.random((num, n))
    return scores.argmax(1) if mask is None else np.where(mask, scores, -1.0).argmax(1)
