"""Batched and checked `compute_reward` and `compute_terminated` of goal environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distrl.base.columns import Tree, tree_map
from distrl.base.errors import ConfigError
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.make import env_name, make_env

#: Random steps whose rewards must equal `compute_reward`.
CHECKED_STEPS = 50

OfGoals = Callable[[np.ndarray, np.ndarray], np.ndarray]


class GoalRewards:
    """Rewards and terminations under any goal; `seed` is that of the episode used for the check.

    `terminated` is None if the environment has no `compute_terminated`.
    """

    def __init__(self, env_config: EnvConfig, seed: int):
        self.name = env_name(env_config)
        self._env = make_env(env_config)
        inside: Any = self._env.unwrapped
        if not callable(getattr(inside, "compute_reward", None)):
            self.close()
            raise ConfigError(
                f"hindsight relabeling: {self.name} has goals, but no compute_reward(achieved_goal, desired_goal, "
                "info) for the rewards of other goals.",
                "Give the environment that method, or set algorithm.hindsight=null.",
            )
        self._reward = inside.compute_reward
        self.terminated: OfGoals | None = None
        if callable(ends := getattr(inside, "compute_terminated", None)):
            self.terminated = _row_by_row(ends)
        try:
            self._check(*self._play(seed))
        except ConfigError:
            self.close()
            raise

    def reward(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """Compute rewards (N,) of steps that led to `achieved` (N, G) for the goals `desired`."""
        rewards: np.ndarray = self._reward(achieved, desired, {})
        return rewards

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _play(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Collect achieved goals (N, G), desired goals (N, G) and rewards (N,) of random steps."""
        env = self._env
        env.action_space.seed(seed)
        env.reset(seed=seed)
        seen, rewards = [], []
        for _ in range(CHECKED_STEPS):
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(tree_map(_as_stored, {key: obs[key] for key in ("achieved_goal", "desired_goal")}))
            rewards.append(float(reward))
            if terminated or truncated:
                env.reset()
        achieved, desired = (np.stack([goals[key] for goals in seen]) for key in ("achieved_goal", "desired_goal"))
        return achieved, desired, np.array(rewards)

    def _check(self, achieved: np.ndarray, desired: np.ndarray, given: np.ndarray) -> None:
        try:
            computed = np.asarray(self.reward(achieved, desired))
        except Exception as error:
            raise ConfigError(
                f"hindsight relabeling: {self.name}.compute_reward raised {type(error).__name__}: {error}.",
                "It must accept batches of goals (N, G) and an empty info.",
            ) from error
        if computed.shape != given.shape:
            raise ConfigError(
                f"hindsight relabeling: {self.name}.compute_reward returned shape {computed.shape} for "
                f"{len(given)} goals, expected {given.shape}.",
                "Reduce over the last axis of the goals, for example np.linalg.norm(a - b, axis=-1).",
            )
        wrong = np.flatnonzero(~np.isclose(computed, given, rtol=1e-3, atol=1e-3))
        if len(wrong):
            i = wrong[0]
            raise ConfigError(
                f"hindsight relabeling: a step of {self.name} gave reward {given[i]:g}, and compute_reward "
                f"{computed[i]:g} for the same goals.",
                "Both must agree; remove wrappers that change rewards or goals, and avoid environments whose reward "
                "depends on more than the goals.",
            )


def _as_stored(leaf: Tree) -> np.ndarray:
    """Convert a goal to the dtype of replays."""
    array = np.array(leaf)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _row_by_row(ends: Callable[..., object]) -> OfGoals:
    """Batch `compute_terminated`, which many environments define for one goal only."""

    def terminated(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.array([bool(ends(*goals, {})) for goals in zip(achieved, desired, strict=True)], bool)

    return terminated
