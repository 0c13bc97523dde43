"""What other goals would have paid: `compute_reward` of a goal environment, for whole batches, and checked.

The interface is that of gymnasium-robotics: `compute_reward(achieved_goal, desired_goal, info)`, and where episodes end
truly at their goal `compute_terminated` with the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distrl.base.columns import tree_map
from distrl.base.errors import ConfigError
from distrl.control.envs.make import env_name, make_env

#: Random steps whose rewards must be those of `compute_reward`.
CHECKED_STEPS = 50

OfGoals = Callable[[np.ndarray, np.ndarray], np.ndarray]


class GoalRewards:
    """Rewards and true ends under any goal.

    Args:
        env_config: Of an environment whose observations are a Dict of observation, achieved_goal and desired_goal.
        seed: Of the episode that the check plays.

    Attributes:
        terminated: Like `reward`, gives (N,) bool; None where the environment has no `compute_terminated`.

    Raises:
        ConfigError: There is no `compute_reward`, it takes no batches, or steps pay something else.
    """

    def __init__(self, env_config: Any, seed: int):
        self.name = env_name(env_config)
        self._env = make_env(env_config)
        inside: Any = self._env.unwrapped
        if not callable(getattr(inside, "compute_reward", None)):
            self.close()
            raise ConfigError(
                f"hindsight relabeling: {self.name} has goals, but no compute_reward(achieved_goal, desired_goal, "
                "info), which tells what other goals would have paid.",
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
        """What steps pay that led to `achieved` (N, G) when `desired` (N, G) was the goal: (N,)."""
        rewards: np.ndarray = self._reward(achieved, desired, {})
        return rewards

    def close(self) -> None:
        """Free the environment."""
        self._env.close()

    def _play(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Goals reached (N, G), goals wanted (N, G) and rewards (N,) of random steps, as a replay holds them."""
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

    def _check(self, achieved: np.ndarray, desired: np.ndarray, paid: np.ndarray) -> None:
        try:
            computed = np.asarray(self.reward(achieved, desired))
        except Exception as error:
            raise ConfigError(
                f"hindsight relabeling: {self.name}.compute_reward raised {type(error).__name__}: {error}.",
                "It must take batches of goals (N, G), and get along with an empty info.",
            ) from error
        if computed.shape != paid.shape:
            raise ConfigError(
                f"hindsight relabeling: {self.name}.compute_reward made shape {computed.shape} of {len(paid)} goals, "
                f"expected {paid.shape}.",
                "Let it work along the last axis of its goals, for example np.linalg.norm(a - b, axis=-1).",
            )
        wrong = np.flatnonzero(~np.isclose(computed, paid, rtol=1e-3, atol=1e-3))
        if len(wrong):
            i = wrong[0]
            raise ConfigError(
                f"hindsight relabeling: a step of {self.name} paid {paid[i]:g} where compute_reward says "
                f"{computed[i]:g} for the same goals.",
                "Both must agree; leave out wrappers that change rewards or goals, and environments whose reward "
                "depends on more than the goals.",
            )


def _as_stored(leaf: Any) -> np.ndarray:
    """A goal in the type that replays keep."""
    array = np.array(leaf)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _row_by_row(ends: Callable[..., Any]) -> OfGoals:
    """`compute_terminated` for batches: many environments define it for one goal only."""

    def terminated(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.array([bool(ends(*goals, {})) for goals in zip(achieved, desired, strict=True)], bool)

    return terminated
