"""Reads of replay rows: observations at slots, n-step transitions, sequences."""

from __future__ import annotations

import numpy as np

from distrl.base.columns import Columns, Tree, tree_map
from distrl.store.replay.layout import FIRST, OBS_ONLY, TERMINATED, TRUNCATED, Leaf
from distrl.store.replay.rows import ReplayRows

ENDED = TERMINATED | TRUNCATED


def obs_at(replay: ReplayRows, slots: np.ndarray) -> Tree:
    """Gather observations (N, ...) at slots (N,), frame stacks joined."""
    if replay.obs_array is not None:
        return replay.obs_array.take(slots, axis=0)
    if replay.frame_stack == 1:
        return tree_map(lambda column: column.take(slots, axis=0), replay.obs)
    frames = np.empty((len(slots), replay.frame_stack), np.int64)
    for k in reversed(range(replay.frame_stack)):
        frames[:, k] = slots
        slots = replay.prev_slot[slots]  # an episode's first row precedes itself, as the stack repeats it

    def stack(leaf: Leaf, column: np.ndarray) -> np.ndarray:
        return leaf.join(column.take(frames, axis=0))

    return tree_map(stack, replay.layout.obs, replay.obs)


def action_at(replay: ReplayRows, slots: np.ndarray) -> Tree:
    """Gather actions (N, ...) at slots (N,)."""
    if replay.action_array is not None:
        return replay.action_array.take(slots, axis=0)
    return tree_map(lambda column: column.take(slots, axis=0), replay.action)


def transitions_at(replay: ReplayRows, slots: np.ndarray, n_step: int, gamma: float) -> dict[str, Tree]:
    """Gather the columns of n-step transitions that begin at slots (N,).

    `reward` is the sum of gamma^i r_i over k <= n steps, up to the end of the episode or the newest step. `discount` is
    gamma^k (1 - terminated). Source: Sutton 1988.
    """
    if n_step == 1:
        reward = replay.reward.take(slots)
        terminated = (replay.flags.take(slots) & TERMINATED) != 0
        discount = np.multiply(~terminated, gamma, dtype=np.float32)
        following = replay.next_slot.take(slots)
    else:
        path, length = walk(replay, slots, n_step)
        reward, discount, following = n_step_sums(replay, path, length, gamma)
    columns: dict[str, Tree] = {
        "obs": obs_at(replay, slots),
        "action": action_at(replay, slots),
        "reward": reward,
        "discount": discount,
        "next_obs": obs_at(replay, following),
    }
    if replay.mask is not None:
        columns["mask"] = tree_map(lambda column: column.take(slots, axis=0), replay.mask)
        columns["next_mask"] = tree_map(lambda column: column.take(following, axis=0), replay.mask)
    for name, column in replay.extra.items():
        columns[name] = column.take(slots, axis=0)
    return columns


def walk(replay: ReplayRows, slots: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Follow episodes from slots (N,): slots (K, N), the last step repeated, and lengths (N,)."""
    path = np.empty((steps, len(slots)), np.int64)
    path[0] = current = slots
    length = np.ones(len(slots), np.int64)
    alive = (replay.flags.take(current) & ENDED) == 0
    for k in range(1, steps):
        following = replay.next_slot.take(current)
        flags = replay.flags.take(following)
        alive &= (flags & OBS_ONLY) == 0
        current = np.where(alive, following, current)
        path[k] = current
        length += alive
        alive &= (flags & ENDED) == 0
    return path, length


def n_step_sums(
    replay: ReplayRows, path: np.ndarray, length: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute discounted sums, discounts and next slots (N,) along paths (K, N)."""
    steps = np.arange(len(path))
    powers = gamma ** np.arange(len(path) + 1, dtype=np.float64)
    counted = steps[:, None] < length
    reward = (np.where(counted, replay.reward[path], 0.0) * powers[:-1, None]).sum(0)
    newest = path[-1]
    nonterminal = (replay.flags.take(newest) & TERMINATED) == 0
    discount = powers[length] * nonterminal
    return reward.astype(np.float32), discount.astype(np.float32), replay.next_slot.take(newest)


def sequences_at(replay: ReplayRows, slots: np.ndarray, steps: int) -> Columns:
    """Gather sequences (T, N, ...), of one episode each, that begin at slots (N,).

    Columns as of rollouts; `valid` (T, N) is False where the last step is repeated after the end, `last_obs` (N, ...)
    is the observation after the last valid step, `length` (N,) the number of valid steps.
    """
    path, length = walk(replay, slots, steps)
    flat = path.reshape(-1)

    def shaped(leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(*path.shape, *leaf.shape[1:])

    flags = replay.flags[path]
    columns: dict[str, Tree] = {
        "obs": tree_map(shaped, obs_at(replay, flat)),
        "action": tree_map(shaped, action_at(replay, flat)),
        "reward": replay.reward[path],
        "terminated": (flags & TERMINATED) != 0,
        "truncated": (flags & TRUNCATED) != 0,
        "first": (flags & FIRST) != 0,
        "valid": np.arange(steps)[:, None] < length,
        "last_obs": obs_at(replay, replay.next_slot.take(path[-1])),
        "length": length,
    }
    if replay.mask is not None:
        columns["mask"] = tree_map(lambda column: column[path], replay.mask)
    for name, column in replay.extra.items():
        columns[name] = column[path]
    return Columns(**columns)
