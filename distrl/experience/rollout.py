"""The rollout schema: T steps of B environments, as `Columns`. See docs/architecture.md for every column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.base.columns import Columns, tree_cat, tree_leaves, tree_map

#: columns whose leaves begin with (T, B)
STEP_COLUMNS = (
    "obs",
    "action",
    "logp",
    "params",
    "reward",
    "terminated",
    "truncated",
    "first",
    "mask",
    "valid",
    "reward_channels",
)
#: columns whose leaves begin with (B,)
ENV_COLUMNS = ("last_obs", "last_mask", "state", "version")
#: columns whose leaves begin with (N,), N truncated steps
FINAL_COLUMNS = ("final_obs", "final_mask", "final_index")
REQUIRED = (
    "obs",
    "action",
    "logp",
    "params",
    "reward",
    "terminated",
    "truncated",
    "first",
    "last_obs",
    "final_obs",
    "final_index",
    "version",
)


def check_rollout(rollout: Columns) -> Columns:
    """Check names and leading shapes; returns the rollout.

    Raises:
        ValueError: A column is missing, unknown, or has other leading dimensions than its schema says.
    """
    missing = [name for name in REQUIRED if name not in rollout]
    if missing:
        raise ValueError(f"rollout lacks {missing}")
    steps, envs = rollout.reward.shape
    for name, column in rollout.items():
        if name in STEP_COLUMNS:
            lead: tuple[int, ...] = (steps, envs)
        elif name in ENV_COLUMNS:
            lead = (envs,)
        elif name in FINAL_COLUMNS:
            lead = (len(rollout.final_index),)
        else:
            raise ValueError(f"rollout has an unknown column {name!r}")
        for leaf in tree_leaves(column):
            if tuple(leaf.shape[: len(lead)]) != lead:
                raise ValueError(f"rollout column {name!r} begins with {tuple(leaf.shape)}, expected {lead}")
    return rollout


def cat_rollouts(rollouts: Sequence[Columns]) -> Columns:
    """Join rollouts of equal length T side by side, along the environments.

    Positions in `final_index` move with their environments.
    """
    if len(rollouts) == 1:
        return rollouts[0]
    first = rollouts[0]
    joined: dict[str, Any] = {}
    for name in first:
        parts = [rollout[name] for rollout in rollouts]
        if name == "final_index":
            widths = [rollout.reward.shape[1] for rollout in rollouts]
            shifts = np.cumsum([0, *widths[:-1]])
            parts = [part + np.array([0, shift]) for part, shift in zip(parts, shifts, strict=True)]
        joined[name] = tree_cat(parts, axis=1 if name in STEP_COLUMNS else 0)
    return Columns(**joined)


def slice_envs(rollout: Columns, start: int, stop: int) -> Columns:
    """Environments start..stop of a rollout (views where possible): the inverse of `cat_rollouts`."""
    index = rollout.final_index
    inside = (index[:, 1] >= start) & (index[:, 1] < stop)
    parts: dict[str, Any] = {}
    for name, column in rollout.items():
        if name == "final_index":
            parts[name] = index[inside] - np.array([0, start])
        elif name in FINAL_COLUMNS:
            parts[name] = tree_map(lambda leaf: leaf[inside], column)
        elif name in STEP_COLUMNS:
            parts[name] = tree_map(lambda leaf: leaf[:, start:stop], column)
        else:
            parts[name] = tree_map(lambda leaf: leaf[start:stop], column)
    return Columns(**parts)


def rollout_bytes(rollout: Columns) -> int:
    """Bytes of every column."""
    return sum(leaf.nbytes for leaf in tree_leaves(rollout))
