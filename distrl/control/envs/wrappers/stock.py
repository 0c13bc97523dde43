"""Context that a policy needs to optimize the return of the whole episode: its stock, or the return still wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from distrl.base.errors import ConfigError
from distrl.base.registry import register


class _Context(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Shows one number that every reward moves. A vector observation grows by it; others become a Dict with it.

    Seeds: where the first value is drawn, it comes from the seed of the episode.
    """

    key = "context"

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        start: float | Sequence[float],
        gamma: float,
        scale: float,
        limit: float,
        values: Sequence[float] | None,
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
        shown = Box(-bound, bound, (1,), np.float32)
        if isinstance(inner, Dict):
            if self.key in inner.spaces:
                raise ConfigError(f"the observation has an entry {self.key!r} already.", "Wrap it only once.")
            self.observation_space = Dict({**inner.spaces, self.key: shown})
        else:
            self.observation_space = Dict({"obs": inner, self.key: shown})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
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

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.context = self.moved(self.context, float(reward))
        return self._with_context(obs), reward, terminated, truncated, {**info, self.key: self.context}

    def moved(self, context: float, reward: float) -> float:
        """The number after a reward."""
        raise NotImplementedError

    def _with_context(self, obs: Any) -> Any:
        # what is shown is bounded, what is counted is not: with gamma < 1 it grows like gamma^-t
        shown = min(max(self.context / self._scale, -self._limit), self._limit)
        if self._appended:
            return np.append(obs, shown).astype(self.observation_space.dtype)
        entry = np.array([shown], np.float32)
        return {**obs, self.key: entry} if isinstance(obs, dict) else {"obs": obs, self.key: entry}


@register.wrapper(
    "stock",
    paper="Pires et al. 2025, Optimizing return distributions with distributional dynamic programming",
    entries=[15],
)
class Stock(_Context):
    """Append the stock c, with c_{t+1} = (c_t + r_{t+1}) / gamma, so that c_0 + G_0 = gamma^t (c_t + G_t).

    A vector observation grows by one last entry; any other becomes a Dict with the entry `stock`. Rewards are those of
    the wrapped environment, so put wrappers that change rewards inside this one. `info["stock"]` has it exactly.

    Args:
        env: Any environment.
        gamma: The learner's discount.
        start: c_0, or [LOW, HIGH] to draw it uniformly for each episode. For CVaR the interesting values are the
            negatives of possible returns.
        scale: What is shown is c / scale.
        limit: ... clipped to [-limit, limit].
        values: Draw c_0 from these instead.
    """

    key = "stock"

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        gamma: float,
        start: float | Sequence[float] = 0.0,
        scale: float = 1.0,
        limit: float = 1e6,
        values: Sequence[float] | None = None,
    ):
        super().__init__(env, start, gamma, scale, limit, values)

    def moved(self, context: float, reward: float) -> float:
        return (context + reward) / self._gamma


@register.wrapper("target_return", entries=[15])
class TargetReturn(_Context):
    """Append the return still wanted, g_{t+1} = (g_t - r_{t+1}) / gamma: the negative of a stock.

    For policies that are told how much to collect, and (with the objective -|g - G|) for steering a return.

    Args:
        env: Any environment.
        gamma: The learner's discount.
        start: g_0, or [LOW, HIGH] to draw it uniformly for each episode.
        scale: What is shown is g / scale.
        limit: ... clipped to [-limit, limit].
        values: Draw g_0 from these instead.
    """

    key = "target_return"

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        gamma: float,
        start: float | Sequence[float],
        scale: float = 1.0,
        limit: float = 1e6,
        values: Sequence[float] | None = None,
    ):
        super().__init__(env, start, gamma, scale, limit, values)

    def moved(self, context: float, reward: float) -> float:
        return (context - reward) / self._gamma
