"""Hindsight relabeling with later goals (Andrychowicz et al. 2017, 3.3, strategy "future")."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.layout import TERMINATED
from distrl.store.replay.rows import ReplayRows
from distrl.store.replay.sample import obs_at, walk

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


def require_goals(observation_space: Space) -> None:
    """Raise ConfigError unless observations are a Dict of `GOAL_KEYS` with goals of one shape."""
    keys = sorted(observation_space.spaces) if isinstance(observation_space, Dict) else []
    missing = [key for key in GOAL_KEYS if key not in keys]
    if missing:
        found = f"a Dict of {', '.join(keys)}" if keys else type(observation_space).__name__
        raise ConfigError(
            f"hindsight relabeling needs a goal environment: the observation is {found}, without {', '.join(missing)}.",
            "Use an environment whose observations are a Dict of observation, achieved_goal and desired_goal.",
        )
    shapes = [observation_space[key].shape for key in GOAL_KEYS[1:]]  # type: ignore[index]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"hindsight relabeling: achieved_goal has shape {shapes[0]}, desired_goal {shapes[1]}.",
            "Give both the same space.",
        )


class Hindsight:
    """Sampler of relabeled batches.

    Args:
        compute_reward: (achieved_goal (N, G), desired_goal (N, G)) -> (N,), the reward of a step.
        relabeled: Share of each batch with new goals: k / (k + 1) for k relabeled ones per original.
        horizon: Goals are taken from up to `horizon` steps ahead; at least the length of an episode.
        compute_terminated: Termination by the same arguments; None keeps the recorded one.
    """

    def __init__(
        self,
        observation_space: Space,
        compute_reward: Callable[[np.ndarray, np.ndarray], np.ndarray],
        relabeled: float = 0.8,
        horizon: int = 50,
        compute_terminated: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ):
        require_goals(observation_space)
        if not 0 <= relabeled <= 1 or horizon < 1:
            raise ConfigError(
                f"hindsight relabeling: a share of {relabeled} and a horizon of {horizon}; expected 0 to 1, and 1 up.",
                "0.8 and the length of an episode are usual.",
            )
        self.compute_reward, self.compute_terminated = compute_reward, compute_terminated
        self.relabeled, self.horizon = relabeled, horizon

    def sample(
        self, replay: Replay, batch_size: int, rng: np.random.Generator, gamma: float, beta: float | None = None
    ) -> Columns:
        """Sample as `Replay.sample`, with `relabeled` (N,) bool marking rows with a new goal.

        A new goal is achieved by a uniformly drawn step of the rest of the episode, this step included. Rewards of
        n-step sums are recomputed; a sum stops after a step that ends under the new goal, and before one that
        terminated.
        """
        batch = replay.sample(batch_size, rng, gamma, beta)
        rows = np.flatnonzero(rng.random(batch_size) < self.relabeled)
        return self._relabel(replay, batch, rows, rng, gamma)

    def _relabel(
        self, replay: Replay, batch: Columns, rows: np.ndarray, rng: np.random.Generator, gamma: float
    ) -> Columns:
        stored = replay.rows
        path, length = walk(stored, batch.index[rows], max(self.horizon, replay.n_step))
        # The observation after a terminated step is not stored, so that step has no achieved goal.
        length -= (stored.flags.take(path[-1]) & TERMINATED) != 0
        rows, path, length = rows[length > 0], path[:, length > 0], length[length > 0]
        ahead = rng.integers(0, np.minimum(length, self.horizon))
        columns = np.arange(len(rows))
        goal = _achieved(stored, stored.next_slot[path[ahead, columns]])
        reward = np.zeros(len(rows))
        power, alive = np.ones(len(rows)), np.ones(len(rows), bool)
        ended = np.zeros(len(rows), bool)
        newest = path[0]
        for k in range(replay.n_step):
            alive &= k < length
            newest = np.where(alive, path[k], newest)
            reached = _achieved(stored, stored.next_slot[path[k]])
            reward += np.where(alive, power * self.compute_reward(reached, goal), 0.0)
            power = np.where(alive, power * gamma, power)
            if self.compute_terminated is not None:
                ended |= alive & self.compute_terminated(reached, goal)
                alive &= ~ended
        following = {**obs_at(stored, stored.next_slot[newest]), "desired_goal": goal}
        discount = np.where(ended, 0.0, power)
        return batch.with_(
            obs={**batch.obs, "desired_goal": _put(batch.obs["desired_goal"], rows, goal)},
            next_obs={name: _put(leaf, rows, following[name]) for name, leaf in batch.next_obs.items()},
            relabeled=_put(np.zeros(len(batch.index), bool), rows, np.ones(len(rows), bool)),
            reward=_put(batch.reward, rows, reward),
            discount=_put(batch.discount, rows, discount),
        )


def _achieved(stored: ReplayRows, slots: np.ndarray) -> np.ndarray:
    if stored.frame_stack == 1:
        return stored.obs["achieved_goal"].take(slots, axis=0)
    return obs_at(stored, slots)["achieved_goal"]


def _put(column: np.ndarray, rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    column = column.copy()
    column[rows] = value
    return column
