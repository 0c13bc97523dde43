"""Observation spaces as lists of leaves, and what a leaf looks like to a network."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError

Path = tuple[str | int, ...]

#: Shortest side of a two-dimensional uint8 array that is taken for a picture rather than for a table of numbers.
SMALLEST_GRAY_IMAGE = 16


def leaves(space: spaces.Space) -> list[tuple[Path, spaces.Space]]:
    """List the simple spaces inside a nest of Dict and Tuple, each with its path.

    >>> leaves(spaces.Tuple([spaces.Discrete(2), spaces.Dict(x=spaces.Discrete(3))]))
    [((0,), Discrete(2)), ((1, 'x'), Discrete(3))]
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [((), space)]
    children = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return [((key, *path), leaf) for key, child in children for path, leaf in leaves(child)]


def pick(tree: Tree, path: Path) -> Tree:
    """The leaf of a tree at a path."""
    for key in path:
        tree = tree[key]
    return tree


def is_nested(space: spaces.Space) -> bool:
    """Return True if observations are trees rather than single arrays."""
    return isinstance(space, spaces.Dict | spaces.Tuple)


def is_image(space: spaces.Space) -> bool:
    """Return True for images: uint8 (H, W), (H, W, C), (C, H, W), and stacks of these."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    if len(space.shape) == 2:
        return min(space.shape) >= SMALLEST_GRAY_IMAGE
    return len(space.shape) in (3, 4)


def is_float(space: spaces.Space) -> bool:
    """Return True for spaces of real numbers, which running statistics normalize."""
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


class Flatten(nn.Module):
    """Simple observation as a vector: flat Box (uint8 / 255), one-hot choices, bits 0 and 1.

    With `identity`, float32 observations (N, output_size) pass unchanged, so callers may skip the module.
    """

    values: Tensor
    owners: Tensor

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.one_hot = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
        self.scale = 1.0
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            counts = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).reshape(-1)
            starts = np.broadcast_to(np.asarray(space.start).reshape(-1), counts.shape)
            values = np.concatenate([np.arange(n) + start for n, start in zip(counts, starts, strict=True)])
            owners = np.repeat(np.arange(len(counts)), counts)
            self.register_buffer("values", torch.from_numpy(values.astype(np.int64)), persistent=False)
            self.register_buffer("owners", torch.from_numpy(owners.astype(np.int64)), persistent=False)
            self.output_size = len(values)
        elif isinstance(space, spaces.Box | spaces.MultiBinary):
            self.output_size = int(np.prod(space.shape, dtype=np.int64))
            if isinstance(space, spaces.Box) and space.dtype == np.uint8:
                self.scale = 1.0 / 255.0
        else:
            raise ConfigError(
                f"no network reads observations of kind {type(space).__name__} ({space}).",
                "Use Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them, or wrap the environment.",
            )
        self.identity = isinstance(space, spaces.Box) and space.dtype == np.float32 and len(space.shape) == 1

    def forward(self, obs: Tensor) -> Tensor:
        """Observations (N, ...) to vectors (N, output_size), float32."""
        if self.one_hot:
            chosen = obs.reshape(obs.shape[0], -1).index_select(-1, self.owners)
            return (chosen == self.values).to(torch.float32)
        vector = obs.reshape(obs.shape[0], -1).to(torch.float32)
        return vector if self.scale == 1.0 else vector * self.scale
