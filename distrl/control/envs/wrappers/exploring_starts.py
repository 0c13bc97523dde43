"""Exploring starts for tabular environments."""

from __future__ import annotations

import gymnasium
import numpy as np

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.envs.backends.masks import Info
from distrl.control.envs.library.tabular import TabularEnv


@register.wrapper("exploring_starts")
class ExploringStarts(gymnasium.Wrapper):
    """A share of a tabular environment's episodes begun in a uniformly drawn nonterminal state.

    For training only: evaluate with `distrl eval RUN --env 'wrappers=[]'`. Source: Sutton and Barto 2018, section 5.3.
    """

    def __init__(self, env: gymnasium.Env, share: float = 0.5):
        super().__init__(env)
        inner = env.unwrapped
        if not isinstance(inner, TabularEnv):
            raise ConfigError(f"exploring_starts: {env} is no tabular environment.", "Leave the wrapper out.")
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"exploring_starts: share is {share}.", "Expected a number in [0, 1].")
        self._states = np.flatnonzero(~inner.mdp.terminal)
        self._share = float(share)
        self._draws = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        if seed is not None:
            self._draws = np.random.default_rng([seed, len(self._states)])
        options = dict(options or {})
        if self._draws.random() < self._share:
            options.setdefault("state", int(self._draws.choice(self._states)))
        return self.env.reset(seed=seed, options=options)
