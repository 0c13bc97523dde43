"""Frame stacking on tensors, in the order and axes of the wrapper `FrameStack`."""

from __future__ import annotations

import torch
from gymnasium import Space, spaces
from torch import Tensor

from distrl.base.columns import Tree, tree_map
from distrl.control.envs.spaces import zeros
from distrl.control.envs.wrappers.basic import stack_axis


def no_frames(space: Space, frames: int, batch: int) -> Tree:
    """Return an empty stack (B, frames, ...) of zeros for the space of one frame."""
    return tree_map(torch.from_numpy, zeros(space, batch, frames))


def push(stack: Tree, frame: Tree, first: Tensor) -> Tree:
    """Append a frame (B, ...) to the stack (B, K, ...), the oldest first.

    Where `first` (B,) is True an episode begins, and the frame fills the whole stack.
    """

    def leaf(old: Tensor, new: Tensor) -> Tensor:
        moved = torch.cat((old[:, 1:], new.unsqueeze(1)), 1)
        begins = first.reshape(-1, *([1] * (old.ndim - 1)))
        return torch.where(begins, new.unsqueeze(1).expand_as(old), moved)

    return tree_map(leaf, stack, frame)


def joined(space: Space, stack: Tree) -> Tree:
    """Convert a stack (B, K, ...) to the observation of `FrameStack`."""
    if isinstance(space, spaces.Dict):
        return {name: joined(child, stack[name]) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(joined(child, stack[i]) for i, child in enumerate(space.spaces))
    axis = stack_axis(tuple(space.shape or ()))
    if axis is None:
        return stack
    if axis == 0:
        return stack.flatten(1, 2)
    return stack.permute(0, 2, 3, 1, 4).flatten(3, 4)
