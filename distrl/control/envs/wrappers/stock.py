"""Observations with stock or target return, for objectives of the episode's return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.envs.backends.masks import Info


class _Context(gymnasium.Wrapper):
    """Observation with one number that changes with every reward.

    A vector gets one more entry; others become a Dict. A random first value is drawn from the episode's seed.
    """

    key = "context"

    def __init__(
        self,
        env: gymnasium.Env,
        gamma: float,
        start: float | Sequence[float] = 0.0,
        scale: float = 1.0,
        limit: float = 1e6,
        values: Sequence[float] | None = None,
    ):
        super().__init__(env)
        if not 0.0 < gamma <= 1.0 or scale <= 0.0 or limit <= 0.0:
            raise ConfigError(
                f"{self.key}: gamma {gamma}, scale {scale}, limit {limit}.",
                "gamma is the discount of the learner, in (0, 1]; scale and limit are positive.",
            )
        low, high = (start, start) if isinstance(start, int | float) else (start if len(start) == 2 else (1.0, 0.0))
        if not float(low) <= float(high) or (values is not None and len(values) == 0):
            raise ConfigError(f"{self.key}: start {start!r}, values {values!r}.", "Give one number, or [LOW, HIGH].")
        self._low, self._high = float(low), float(high)
        self._values = None if values is None else [float(value) for value in values]
        self._gamma, self._scale, self._limit = float(gamma), float(scale), float(limit)
        self._draws = np.random.default_rng()
        self.context = 0.0
        inner, bound = env.observation_space, float(limit)
        self._appended = isinstance(inner, Box) and len(inner.shape) == 1 and inner.dtype.kind == "f"
        if self._appended:
            assert isinstance(inner, Box)
            low_end, high_end = (np.append(inner.low, -bound), np.append(inner.high, bound))
            self.observation_space = Box(
                low_end.astype(inner.dtype), high_end.astype(inner.dtype), dtype=inner.dtype.type
            )
            return
        entry = Box(-bound, bound, (1,), np.float32)
        if isinstance(inner, Dict):
            if self.key in inner.spaces:
                raise ConfigError(f"the observation has an entry {self.key!r} already.", "Wrap it only once.")
            self.observation_space = Dict({**inner.spaces, self.key: entry})
        else:
            self.observation_space = Dict({"obs": inner, self.key: entry})

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        """Begin an episode; `options={KEY: c}` (`stock` or `target_return`) sets the first value."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._draws = np.random.default_rng([seed, len(self.key)])
        if options and self.key in options:
            self.context = float(options[self.key])
        elif self._values is not None:
            self.context = self._values[int(self._draws.integers(len(self._values)))]
        else:
            self.context = float(self._draws.uniform(self._low, self._high))
        return self._with_context(obs), {**info, self.key: self.context}

    def step(self, action: Tree) -> tuple[Tree, SupportsFloat, bool, bool, Info]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.context = self.moved(self.context, float(reward))
        return self._with_context(obs), reward, terminated, truncated, {**info, self.key: self.context}

    def moved(self, context: float, reward: float) -> float:
        """Return the number after a reward."""
        raise NotImplementedError

    def _with_context(self, obs: Tree) -> Tree:
        # only the observation is clipped: with gamma < 1 the context grows like gamma^-t
        value = min(max(self.context / self._scale, -self._limit), self._limit)
        if self._appended:
            return np.append(obs, value).astype(self.observation_space.dtype)
        entry = np.array([value], np.float32)
        return {**obs, self.key: entry} if isinstance(obs, dict) else {"obs": obs, self.key: entry}


@register.wrapper(
    "stock",
    paper="Pires et al. 2025, Optimizing return distributions with distributional dynamic programming",
    entries=[15],
)
class Stock(_Context):
    """Observation with the stock c_{t+1} = (c_t + r_{t+1}) / gamma.

    So c_0 + G_0 = gamma^t (c_t + G_t). Wrappers that change rewards belong inside this one. `info["stock"]` is exact.

    Args:
        start: c_0, or [LOW, HIGH] to draw it uniformly for each episode. For CVaR useful values are the negatives of
            possible returns.
        scale, limit: The observation is c / scale, clipped to [-limit, limit].
        values: Draw c_0 from these instead.
    """

    key = "stock"

    def moved(self, context: float, reward: float) -> float:
        return (context + reward) / self._gamma


@register.wrapper("target_return", entries=[15])
class TargetReturn(_Context):
    """Observation with the target return g_{t+1} = (g_t - r_{t+1}) / gamma, a negative stock."""

    key = "target_return"

    def moved(self, context: float, reward: float) -> float:
        return (context - reward) / self._gamma
