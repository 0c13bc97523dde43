"""General wrappers for `env.wrappers`. Normalization belongs to the learner, not here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import SupportsFloat

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Tuple

from distrl.base.columns import Tree, tree_map
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.envs.backends.masks import Info
from distrl.control.envs.spaces import describe, leaf_spaces


@register.wrapper("keep_obs")
class KeepObs(gymnasium.ObservationWrapper):
    """Selected entries of a vector observation; [0, 2] hides CartPole's velocities."""

    def __init__(self, env: gymnasium.Env, indices: Sequence[int]):
        super().__init__(env)
        space = _box(env, "keep_obs", dimensions=1)
        self._indices = np.asarray(indices, np.int64)
        size = space.shape[0]
        if self._indices.size == 0 or self._indices.min() < -size or self._indices.max() >= size:
            raise ConfigError(f"keep_obs: indices {list(indices)} for an observation of {size} entries.")
        self.observation_space = Box(space.low[self._indices], space.high[self._indices], dtype=space.dtype.type)

    def observation(self, observation: Tree) -> Tree:
        return observation[self._indices]


@register.wrapper("reward_scale")
class RewardScale(gymnasium.RewardWrapper):
    """Rewards multiplied by a constant. Episode returns are reported scaled."""

    def __init__(self, env: gymnasium.Env, scale: float):
        super().__init__(env)
        self._scale = float(scale)

    def reward(self, reward: SupportsFloat) -> float:
        return float(reward) * self._scale


@register.wrapper("time_aware")
class TimeAware(gymnasium.Wrapper):
    """Vector observation with the elapsed share of the time limit, in [0, 1], appended.

    Source: Pardo et al. 2018, Time limits in reinforcement learning, section 3.
    """

    def __init__(self, env: gymnasium.Env, limit: int | None = None):
        super().__init__(env)
        space = _box(env, "time_aware", dimensions=1)
        limit = limit or getattr(env.spec, "max_episode_steps", None)
        if not limit:
            raise ConfigError("time_aware: the environment has no time limit.", "Give the wrapper `limit`.")
        self._limit, self._elapsed = int(limit), 0
        low, high = (np.append(bound, end).astype(space.dtype) for bound, end in ((space.low, 0.0), (space.high, 1.0)))
        self.observation_space = Box(low, high, dtype=space.dtype.type)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._elapsed = 0
        return self._with_time(obs), info

    def step(self, action: Tree) -> tuple[Tree, SupportsFloat, bool, bool, Info]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        return self._with_time(obs), reward, terminated, truncated, info

    def _with_time(self, obs: Tree) -> Tree:
        return np.append(obs, min(1.0, self._elapsed / self._limit)).astype(self.observation_space.dtype)


@register.wrapper("frame_stack")
class FrameStack(gymnasium.Wrapper):
    """Stack of the last observations, oldest first, begun with copies of the first.

    Color images are stacked along their channels, everything else along a new first axis, (84, 84) -> (4, 84, 84).
    """

    def __init__(self, env: gymnasium.Env, frames: int):
        super().__init__(env)
        if frames < 1:
            raise ConfigError(f"frame_stack is {frames}, expected 1 or more.")
        self._spaces = leaf_spaces(env.observation_space)
        self._frames: deque[Tree] = deque(maxlen=int(frames))
        self.observation_space = _stacked_space(env.observation_space, int(frames))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([_copied(self._spaces, obs)] * (self._frames.maxlen or 1))
        return _stacked(self._spaces, self._frames), info

    def step(self, action: Tree) -> tuple[Tree, SupportsFloat, bool, bool, Info]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(_copied(self._spaces, obs))
        return _stacked(self._spaces, self._frames), reward, terminated, truncated, info


def stack_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis along which images of this shape are joined, or None for a new first axis.

    >>> stack_axis((96, 96, 3)), stack_axis((3, 64, 64)), stack_axis((84, 84)), stack_axis((4,))
    (2, 0, None, None)
    """
    if len(shape) != 3:
        return None
    return 2 if shape[2] in (1, 3, 4) else 0


def _stacked_space(space: Space, frames: int) -> Space:
    if isinstance(space, Dict):
        return Dict({name: _stacked_space(child, frames) for name, child in space.spaces.items()})
    if isinstance(space, Tuple):
        return Tuple([_stacked_space(child, frames) for child in space.spaces])
    if not isinstance(space, Box) or not space.shape:
        raise ConfigError(
            f"frame_stack: cannot stack {describe(space)}.", "Only Box observations of one or more dimensions stack."
        )
    low, high = (_join(space, [bound] * frames) for bound in (space.low, space.high))
    return Box(low, high, dtype=space.dtype.type)


def _stacked(spaces: Tree, frames: deque[Tree]) -> Tree:
    return tree_map(lambda space, *leaves: _join(space, leaves), spaces, *frames)


def _join(space: Space, frames: Sequence[np.ndarray]) -> np.ndarray:
    axis = stack_axis(space.shape or ())
    return np.stack(frames) if axis is None else np.concatenate(frames, axis)


def _copied(spaces: Tree, obs: Tree) -> Tree:
    """Copy an observation, because an environment may reuse its memory."""
    return tree_map(lambda _, leaf: np.array(leaf), spaces, obs)


def _box(env: gymnasium.Env, wrapper: str, dimensions: int) -> Box:
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != dimensions:
        raise ConfigError(f"{wrapper}: needs a Box observation of {dimensions} dimension, not {describe(space)}.")
    return space
