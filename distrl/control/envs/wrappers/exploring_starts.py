"""Episodes that begin anywhere: so that states a policy stopped visiting are still learned about."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.envs.library.tabular import TabularEnv


@register.wrapper("exploring_starts")
class ExploringStarts(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begin some episodes of a tabular environment in a uniformly drawn state that does not end it.

    Only for training: play the environment as it is with `distrl eval RUN --env 'wrappers=[]'`.

    Args:
        env: A `TabularEnv`, such as `distrl/RiskyPath-v0`.
        share: Of episodes that begin so.

    Source: Sutton and Barto 2018, Reinforcement Learning: An Introduction, section 5.3.

    Raises:
        ConfigError: Not a tabular environment, or a share outside [0, 1].
    """

    def __init__(self, env: gymnasium.Env[Any, Any], share: float = 0.5):
        super().__init__(env)
        inner = env.unwrapped
        if not isinstance(inner, TabularEnv):
            raise ConfigError(f"exploring_starts: {env} is no tabular environment.", "Leave the wrapper out.")
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"exploring_starts: share is {share}.", "Expected a number in [0, 1].")
        self._states = np.flatnonzero(~inner.mdp.terminal)
        self._share = float(share)
        self._draws = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._draws = np.random.default_rng([seed, len(self._states)])
        options = dict(options or {})
        if self._draws.random() < self._share:
            options.setdefault("state", int(self._draws.choice(self._states)))
        return self.env.reset(seed=seed, options=options)
