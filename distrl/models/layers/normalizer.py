"""Observation normalization by running statistics, which the learner owns and publishes."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.models.layers.observation_leaves import Path, is_float, is_nested, leaves, pick

#: Added to the variance before the square root, and the weight of the first (made up) statistics.
EPSILON = 1e-8
FIRST_COUNT = 1e-4


class Normalizer(nn.Module):
    """clip((obs - mean) / sqrt(var + 1e-8), -clip, clip) as float32, for float Box leaves.

    The statistics are flat (D,): all float leaves, concatenated in the order of the space. They are buffers, saved with
    the weights. Disabled, only float64 observations are cast to float32.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, observation_space: spaces.Space, enabled: bool = True, clip: float = 10.0):
        super().__init__()
        self.clip = float(clip)
        self._nested = is_nested(observation_space)
        self._leaves: list[tuple[Path, tuple[int, ...], slice]] = []
        size = 0
        for path, leaf in leaves(observation_space):
            if is_float(leaf):
                assert leaf.shape is not None
                end = size + int(np.prod(leaf.shape, dtype=np.int64))
                self._leaves.append((path, tuple(leaf.shape), slice(size, end)))
                size = end
        self.size = size
        self.enabled = bool(enabled) and size > 0
        self._plain = self._leaves[0][1] if self._leaves and not self._nested else None
        if self.enabled:
            self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
            self.register_buffer("var", torch.ones(size, dtype=torch.float64))
            self.register_buffer("count", torch.tensor(FIRST_COUNT, dtype=torch.float64))
            self.register_buffer("center", torch.zeros(size), persistent=False)
            self.register_buffer("scale", torch.ones(size), persistent=False)
            self.register_load_state_dict_post_hook(lambda module, _: module.refresh())
            self.refresh()

    def load(self, mean: ArrayLike, var: ArrayLike, count: ArrayLike) -> None:
        """Take over statistics: mean and var (D,), count a number; numpy or torch."""
        with torch.no_grad():
            for buffer, value in ((self.mean, mean), (self.var, var), (self.count, count)):
                buffer.copy_(torch.as_tensor(value, dtype=torch.float64))
        self.refresh()

    def refresh(self) -> None:
        """Recompute center and scale, after buffers were written other than by `load*`."""
        with torch.no_grad():
            self.center.copy_(self.mean)
            self.scale.copy_(torch.rsqrt(self.var + EPSILON))

    def rows(self, obs: Tree) -> np.ndarray:
        """Flatten raw observations to rows (N, D) float64, in the order of the statistics."""
        columns = []
        for path, shape, part in self._leaves:
            leaf = np.asarray(pick(obs, path), np.float64)
            columns.append(leaf.reshape(-1, part.stop - part.start) if shape else leaf.reshape(-1, 1))
        return columns[0] if len(columns) == 1 else np.concatenate(columns, -1)

    def forward(self, obs: Tree) -> Tree:
        """Normalize an observation tree with any leading dimensions. Not meant to be differentiated."""
        if self._plain is not None:
            return self._leaf(obs, self._plain, slice(0, self.size))
        if not self._leaves:
            return obs
        parts = {path: (shape, part) for path, shape, part in self._leaves}
        return self._tree(obs, (), parts)

    def _tree(self, obs: Tree, path: Path, parts: dict[Path, tuple[tuple[int, ...], slice]]) -> Tree:
        if isinstance(obs, dict):
            return {key: self._tree(child, (*path, key), parts) for key, child in obs.items()}
        if isinstance(obs, tuple):
            return tuple(self._tree(child, (*path, index), parts) for index, child in enumerate(obs))
        return self._leaf(obs, *parts[path]) if path in parts else obs

    def _leaf(self, obs: Tensor, shape: tuple[int, ...], part: slice) -> Tensor:
        obs = obs.to(torch.float32)
        if not self.enabled:
            return obs
        center, scale = self.center, self.scale
        if len(shape) != 1 or part.stop - part.start != self.size:
            center, scale = center[part].reshape(shape), scale[part].reshape(shape)
        return ((obs - center) * scale).clamp(-self.clip, self.clip)
