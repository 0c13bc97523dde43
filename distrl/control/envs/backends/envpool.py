"""The `envpool` back end: environments written in C++ and stepped by a thread pool. Needs `distrl[envs]`, on Linux.

EnvPool (Weng et al. 2022) resets an ended environment in the next step and ignores that step's action. It says
`truncated` and not `terminated` for a step that reaches the time limit, also where that step was a true end.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from distrl.base.errors import ConfigError, nearest
from distrl.control.envs.backends.interface import SeedOf
from distrl.control.envs.backends.next_step_reset import BurntVectorEnv, refuse_wrappers
from distrl.control.envs.make import building, env_name


class EnvPoolVectorEnv(BurntVectorEnv):
    """EnvPool in synchronous mode.

    Args:
        env_config: `id` in EnvPool's list, `kwargs` for `envpool.make` (`num_threads`, `stack_num`, ...),
            `max_episode_steps`.
        num_envs: B.
        seed_of: Only (env, 0) is asked: EnvPool takes its seeds when it is built and draws on from there.

    Raises:
        ConfigError: EnvPool is not installed or lacks the environment, or wrappers are asked for.
    """

    def __init__(self, env_config: Any, num_envs: int, seed_of: SeedOf):
        refuse_wrappers(env_config)
        envpool = _import_envpool()
        name = env_name(env_config)
        if name not in envpool.list_all_envs():
            guess = nearest(name, envpool.list_all_envs())
            raise ConfigError(
                f"EnvPool has no environment {name!r}.",
                (f"Did you mean {guess!r}? " if guess else "") + "Or use env.backend=gymnasium.",
            )
        kwargs = dict(getattr(env_config, "kwargs", None) or {})
        if limit := getattr(env_config, "max_episode_steps", None):
            kwargs["max_episode_steps"] = limit
        seeds = [int(seed_of(i, 0)) for i in range(num_envs)]
        with building(f"environment {name!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the precision of bounds, at every construction
            self._pool = envpool.make(name, env_type="gymnasium", num_envs=num_envs, seed=seeds, **kwargs)
            spaces = self._pool.observation_space, self._pool.action_space
        super().__init__(*spaces, num_envs, seed_of, name)
        self._seeds = seeds

    def _raw_reset(self) -> Any:
        return self._pool.reset()[0]

    def _raw_step(self, action: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        return self._pool.step(action)[:4]

    def close(self) -> None:
        """Stop the thread pool."""
        self._pool.close()


def _import_envpool() -> Any:
    try:
        import envpool
    except ImportError as error:
        raise ConfigError(
            f"env.backend envpool: EnvPool cannot be imported ({error}).",
            'pip install "distrl[envs]" (Linux only), or use env.backend=gymnasium.',
        ) from error
    return envpool
