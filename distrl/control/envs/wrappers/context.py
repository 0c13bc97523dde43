"""Contexts of episodes (weather, masses, opponents) and their choice by the policy.

An environment with contexts has `context_size` C and accepts `reset(options={"context": c})`, c in [0, 1]^C.
"""

from __future__ import annotations

from typing import Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.envs.backends.masks import Info
from distrl.control.envs.library.risky_path import RiskyPath


@register.wrapper("choose_context", entries=[76])
class ChooseContext(gymnasium.Wrapper):
    """Choice of an episode's context by its first action, a step with reward 0.

    Actions become a Dict of `action` and `context` (C + 1,): the context, or negative entries to let the environment
    draw it, and a last entry that is not read here. Apply it inside of wrappers that count steps or change
    observations.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        if not env.has_wrapper_attr("context_size"):
            raise ConfigError(
                f"choose_context: {env} has no context.",
                'Give it an attribute context_size, and let reset(options={"context": c}) set it.',
            )
        self._size = int(env.get_wrapper_attr("context_size"))
        shown = Box(-1.0, 1.0, (self._size + 1,), np.float32)
        self.action_space = Dict(action=env.action_space, context=shown)
        self._chosen = False

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        self._chosen = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Tree) -> tuple[Tree, SupportsFloat, bool, bool, Info]:
        if self._chosen:
            return self.env.step(action["action"])
        self._chosen = True
        context = np.asarray(action["context"], np.float64)[: self._size]
        obs, info = self.env.reset(options={"context": context} if (context >= 0).all() else None)
        return obs, 0.0, False, False, info


class GuardedPath(RiskyPath):
    """`RiskyPath` without ice, with a possible toll on arrivals in the middle column.

    With context c there is a toll if c > 1 - guard_probability, growing linearly in c from 0 to `toll`. Only the top
    row avoids it. With the defaults the short path returns 4.4 on average and -1.5 in its worst twentieth; the long
    path always returns 4. Its id is `distrl.control.envs.wrappers.context:GuardedPath`.
    """

    context_size = 1

    def __init__(
        self,
        width: int = 5,
        height: int = 2,
        guard_probability: float = 0.4,
        toll: float = 8.0,
        step_reward: float = -1.0,
        goal_reward: float = 10.0,
        observation: Literal["one_hot", "index"] = "one_hot",
        render_mode: str | None = None,
    ):
        if not 0.0 < guard_probability <= 1.0:
            raise ConfigError(f"GuardedPath: guard_probability is {guard_probability}.", "Expected (0, 1].")
        super().__init__(
            width, height, 0.0, step_reward=step_reward, goal_reward=goal_reward, observation=observation,
            render_mode=render_mode,
        )  # fmt: skip
        self.guard_probability, self.highest_toll = float(guard_probability), float(toll)
        self.toll = 0.0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        """Begin an episode; `options={"context": [c]}` sets its context."""
        obs, info = super().reset(seed=seed, options=options)
        chosen = (options or {}).get("context")
        context = float(self.np_random.random()) if chosen is None else float(np.ravel(chosen)[0])
        excess = (context - (1.0 - self.guard_probability)) / self.guard_probability
        self.toll = self.highest_toll * max(excess, 0.0)
        return obs, {**info, "context": context}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        before = self.state
        obs, reward, terminated, truncated, info = super().step(action)
        row, column = divmod(self.state, self.width)
        guarded = row > 0 and column == self.width // 2 and self.state != before
        return obs, reward - self.toll * guarded, terminated, truncated, info
