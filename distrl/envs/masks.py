"""Action masks: which discrete actions an environment allows now.

An environment gives one as `info["action_mask"]` (of `reset` and of every `step`) or from a method `action_masks()`.
Discrete: (n,) bool. MultiDiscrete: (sum of nvec,) bool, or one array for each dimension. Dict, Tuple: a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Tuple


def mask_block(space: Space[Any], num_envs: int) -> Any | None:
    """A tree (B, A) of true values for the masks of an action space, or None where it cannot have any."""
    if isinstance(space, Dict):
        children = {name: mask_block(child, num_envs) for name, child in space.spaces.items()}
        return None if any(child is None for child in children.values()) else children
    if isinstance(space, Tuple):
        parts = tuple(mask_block(child, num_envs) for child in space.spaces)
        return None if any(part is None for part in parts) else parts
    sizes = _sizes(space)
    return np.ones((num_envs, sum(sizes)), bool) if sizes else None


def _sizes(space: Space[Any]) -> list[int]:
    if isinstance(space, Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec] if isinstance(space, MultiDiscrete) else []


def write_mask(space: Space[Any], block: Any, i: int, given: Any) -> None:
    """Put one environment's mask into row i of a mask block.

    Raises:
        ValueError: A wrong shape, or a mask that allows nothing.
    """
    if isinstance(space, Dict):
        for name, child in space.spaces.items():
            write_mask(child, block[name], i, given[name])
        return
    if isinstance(space, Tuple):
        for child, part, value in zip(space.spaces, block, given, strict=True):
            write_mask(child, part, i, value)
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
            raise ValueError("the action mask allows no action at all")
        begin += size


def mask_reader(env: gymnasium.Env[Any, Any], info: Any) -> Callable[[Any], Any] | None:
    """How an environment tells its mask: a function of `info`, or None where it gives none. `info`: of a reset."""
    if isinstance(info, dict) and "action_mask" in info:
        return _from_info
    if env.has_wrapper_attr("action_masks"):
        method = env.get_wrapper_attr("action_masks")
        return lambda info: method()
    return None


def _from_info(info: Any) -> Any:
    if "action_mask" not in info:
        raise ValueError("info['action_mask'] is missing, though reset gave one: give it at every step")
    return info["action_mask"]
