"""Reading a replay: observations at slots, n-step sums along links, sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from distrl.base.columns import Columns, tree_map
from distrl.store.replay.layout import FIRST, GHOST, TERMINATED, TRUNCATED, Leaf

if TYPE_CHECKING:
    from distrl.store.replay.buffer import Replay

ENDED = TERMINATED | TRUNCATED


def obs_at(replay: Replay, slots: np.ndarray) -> Any:
    """Observations (N, ...) at slots (N,), pending ones included; stacks are put together from their frames."""
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


def action_at(replay: Replay, slots: np.ndarray) -> Any:
    """Actions (N, ...) at slots (N,)."""
    if replay.action_array is not None:
        return replay.action_array.take(slots, axis=0)
    return tree_map(lambda column: column.take(slots, axis=0), replay.action)


def transitions_at(replay: Replay, slots: np.ndarray, gamma: float) -> dict[str, Any]:
    """The n-step transitions that begin at slots (N,): obs, action, reward, discount, next_obs, extra columns.

    `reward` is the sum of gamma^i r_i over the k <= n steps that were summed; a sum stops at the end of an episode and
    at the newest step. `discount` is gamma^k (1 - terminated). Source: Sutton 1988; CB8 of the method notes.
    """
    if replay.n_step == 1:
        reward = replay.reward.take(slots)
        terminated = (replay.flags.take(slots) & TERMINATED) != 0
        discount = np.multiply(~terminated, gamma, dtype=np.float32)
        following = replay.next_slot.take(slots)
    else:
        path, length = walk(replay, slots, replay.n_step)
        reward, discount, following = n_step_sums(replay, path, length, gamma)
    columns: dict[str, Any] = {
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


def walk(replay: Replay, slots: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Follow episodes forward.

    Args:
        slots: Where to begin (N,).
        steps: At most so many steps K, the first included.

    Returns:
        Slots (K, N); a path that ended early repeats its last step. And how many steps each has (N,).
    """
    path = np.empty((steps, len(slots)), np.int64)
    path[0] = current = slots
    length = np.ones(len(slots), np.int64)
    alive = (replay.flags.take(current) & ENDED) == 0
    for k in range(1, steps):
        following = replay.next_slot.take(current)
        flags = replay.flags.take(following)
        alive &= (flags & GHOST) == 0
        current = np.where(alive, following, current)
        path[k] = current
        length += alive
        alive &= (flags & ENDED) == 0
    return path, length


def n_step_sums(
    replay: Replay, path: np.ndarray, length: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along paths (K, N): discounted sums (N,) float32, discounts (N,) float32, slots (N,) of the next observations."""
    steps = np.arange(len(path))
    powers = gamma ** np.arange(len(path) + 1, dtype=np.float64)
    counted = steps[:, None] < length
    reward = (np.where(counted, replay.reward[path], 0.0) * powers[:-1, None]).sum(0)
    newest = path[-1]
    going_on = (replay.flags.take(newest) & TERMINATED) == 0
    discount = powers[length] * going_on
    return reward.astype(np.float32), discount.astype(np.float32), replay.next_slot.take(newest)


def sequences_at(replay: Replay, slots: np.ndarray, steps: int) -> Columns:
    """Sequences of one episode each, (T, N, ...), that begin at slots (N,).

    Returns:
        obs, action, reward, terminated, truncated, first, extra columns, mask; `valid` (T, N) is False after the end of
        the episode, or after the newest step, where the last step is repeated; `last_obs` (N, ...) is the observation
        after the last valid step, and `length` (N,) the number of valid steps.
    """
    path, length = walk(replay, slots, steps)
    flat = path.reshape(-1)

    def shaped(leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(*path.shape, *leaf.shape[1:])

    flags = replay.flags[path]
    columns: dict[str, Any] = {
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
