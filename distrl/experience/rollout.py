"""Schema of rollouts: T steps of B environments as `Columns`; see docs/internals.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distrl.base.columns import Columns, Tree, tree_cat, tree_leaves, tree_map

#: columns whose leaves begin with (T, B): required ones, and all
REQUIRED_STEPS = ("obs", "action", "logp", "params", "reward", "terminated", "truncated", "first")
STEP_COLUMNS = (*REQUIRED_STEPS, "mask", "valid", "reward_channels")
#: columns whose leaves begin with (B,)
ENV_COLUMNS = ("last_obs", "last_mask", "state", "version")
#: columns whose leaves begin with (N,), N truncated steps
FINAL_COLUMNS = ("final_obs", "final_mask", "final_index")
REQUIRED = (*REQUIRED_STEPS, "last_obs", "final_obs", "final_index", "version")


def check_rollout(rollout: Columns) -> Columns:
    """Check column names and leading shapes; return the rollout or raise a `ValueError`."""
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
    """Concatenate rollouts of equal length along the environments, shifting `final_index`."""
    if len(rollouts) == 1:
        return rollouts[0]
    first = rollouts[0]
    joined: dict[str, Tree] = {}
    for name in first:
        columns = [rollout[name] for rollout in rollouts]
        if name == "final_index":
            widths = [rollout.reward.shape[1] for rollout in rollouts]
            shifts = np.cumsum([0, *widths[:-1]])
            columns = [column + np.array([0, shift]) for column, shift in zip(columns, shifts, strict=True)]
        joined[name] = tree_cat(columns, axis=1 if name in STEP_COLUMNS else 0)
    return Columns(**joined)


def slice_envs(rollout: Columns, start: int, stop: int) -> Columns:
    """Select environments start..stop of a rollout, as views where possible."""
    index = rollout.final_index
    inside = (index[:, 1] >= start) & (index[:, 1] < stop)
    sliced: dict[str, Tree] = {}
    for name, column in rollout.items():
        if name == "final_index":
            sliced[name] = index[inside] - np.array([0, start])
        elif name in FINAL_COLUMNS:
            sliced[name] = tree_map(lambda leaf: leaf[inside], column)
        elif name in STEP_COLUMNS:
            sliced[name] = tree_map(lambda leaf: leaf[:, start:stop], column)
        else:
            sliced[name] = tree_map(lambda leaf: leaf[start:stop], column)
    return Columns(**sliced)


def rollout_bytes(rollout: Columns) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(rollout))
