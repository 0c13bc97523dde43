"""Backend `envpool` (Weng et al. 2022), which needs `distrl[envs]` and Linux.

At the time limit EnvPool reports `truncated` alone, even if the episode also terminated.
"""

from __future__ import annotations

import warnings

import numpy as np

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError, nearest
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.interface import SeedOf
from distrl.control.envs.backends.next_step_reset import NextStepResetEnv, refuse_wrappers
from distrl.control.envs.make import building, env_name


class EnvPoolVectorEnv(NextStepResetEnv):
    """EnvPool in synchronous mode; `kwargs` are those of `envpool.make` (`num_threads`, ...).

    EnvPool seeds its environments once: only `seed_of(env, 0)` is used.
    """

    def __init__(self, env_config: EnvConfig, num_envs: int, seed_of: SeedOf):
        refuse_wrappers(env_config)
        try:
            import envpool
        except ImportError as error:
            raise ConfigError(
                f"env.backend envpool: EnvPool cannot be imported ({error}).",
                'pip install "distrl[envs]" (Linux only), or use env.backend=gymnasium.',
            ) from error
        name = env_name(env_config)
        if name not in envpool.list_all_envs():
            guess = nearest(name, envpool.list_all_envs())
            raise ConfigError(
                f"EnvPool has no environment {name!r}.",
                (f"Did you mean {guess!r}? " if guess else "") + "Or use env.backend=gymnasium.",
            )
        kwargs = dict(env_config.kwargs)
        if limit := env_config.max_episode_steps:
            kwargs["max_episode_steps"] = limit
        seeds = [int(seed_of(i, 0)) for i in range(num_envs)]
        with building(f"environment {name!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the precision of bounds, at every construction
            self._pool = envpool.make(name, env_type="gymnasium", num_envs=num_envs, seed=seeds, **kwargs)
            spaces = self._pool.observation_space, self._pool.action_space
        super().__init__(*spaces, num_envs, seed_of, name)
        self._seeds = seeds

    def _raw_reset(self) -> Tree:
        return self._pool.reset()[0]

    def _raw_step(self, action: Tree) -> tuple[Tree, np.ndarray, np.ndarray, np.ndarray]:
        return self._pool.step(action)[:4]

    def close(self) -> None:
        """Stop the thread pool."""
        self._pool.close()
