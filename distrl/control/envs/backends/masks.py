"""Action masks of discrete actions.

Environments provide them as `info["action_mask"]` (of `reset` and `step`) or by a method `action_masks()`. Discrete:
(n,) bool. MultiDiscrete: (sum of nvec,), or one array for each dimension. Dict, Tuple: a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Tuple

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.control.envs.spaces import leaf_spaces

#: The `info` of an environment.
Info: TypeAlias = dict[str, Any]
MaskReader: TypeAlias = Callable[[Info], Tree]


def mask_block(space: Space, num_envs: int) -> Tree | None:
    """Make a tree (B, A) of true values for an action space; None if it cannot be masked."""

    def ones(leaf: Space) -> np.ndarray | None:
        sizes = _sizes(leaf)
        return np.ones((num_envs, sum(sizes)), bool) if sizes else None

    block = tree_map(ones, leaf_spaces(space))
    return None if any(leaf is None for leaf in tree_leaves(block)) else block


def final_mask(space: Space, read: MaskReader, info: Info) -> Tree:
    """Read the mask (A,) of an episode's last observation; all true if `info` lacks one."""
    block = mask_block(space, 1)
    given = None if read is _from_info and "action_mask" not in info else read(info)
    if given is not None:
        write_mask(space, block, 0, given, may_be_empty=True)
    return tree_map(lambda leaf: leaf[0], block)


def _sizes(space: Space) -> list[int]:
    if isinstance(space, Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec] if isinstance(space, MultiDiscrete) else []


def write_mask(space: Space, block: Tree, i: int, given: Tree, may_be_empty: bool = False) -> None:
    """Write one environment's mask into row i of a mask block.

    With `may_be_empty`, a mask that allows no action counts as all true. Raises ValueError for an invalid mask.
    """
    if isinstance(space, Dict):
        for name, child in space.spaces.items():
            write_mask(child, block[name], i, given[name], may_be_empty)
        return
    if isinstance(space, Tuple):
        for child, part, value in zip(space.spaces, block, given, strict=True):
            write_mask(child, part, i, value, may_be_empty)
        return
    sizes = _sizes(space)
    if isinstance(given, tuple | list) and len(sizes) > 1 and len(given) == len(sizes) and np.ndim(given[0]) == 1:
        given = np.concatenate(given)
    mask = np.asarray(given)
    if mask.shape != (sum(sizes),):
        raise ValueError(f"the action mask has shape {mask.shape}, expected ({sum(sizes)},)")
    row = block[i]
    row[:] = mask
    begin = 0
    for size in sizes:
        if not row[begin : begin + size].any():
            if not may_be_empty:
                raise ValueError("the action mask allows no action at all")
            row[begin : begin + size] = True
        begin += size


def mask_reader(env: gymnasium.Env, info: Info) -> MaskReader | None:
    """Make the function that reads masks from `info`; None without masks. `info` is of a reset."""
    if isinstance(info, dict) and "action_mask" in info:
        return _from_info
    if env.has_wrapper_attr("action_masks"):
        method = env.get_wrapper_attr("action_masks")
        return lambda info: method()
    return None


def _from_info(info: Info) -> Tree:
    if "action_mask" not in info:
        raise ValueError("info['action_mask'] is missing, though reset gave one: give it at every step")
    return info["action_mask"]
