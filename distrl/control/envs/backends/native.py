"""Backend `vector`: native vector implementations of gymnasium environments."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.interface import SeedOf
from distrl.control.envs.backends.next_step_reset import NextStepResetEnv, refuse_wrappers
from distrl.control.envs.make import building, env_name, make_env
from distrl.control.envs.spaces import describe


class NativeVectorEnv(NextStepResetEnv):
    """Vector implementation of an environment, made by `gymnasium.make_vec`.

    The whole vector has one seed per reset: only `seed_of(0, episode number)` is used.
    """

    def __init__(self, env_config: EnvConfig, num_envs: int, seed_of: SeedOf):
        refuse_wrappers(env_config)
        name = env_name(env_config)
        kwargs = dict(env_config.kwargs)
        if limit := env_config.max_episode_steps:
            kwargs["max_episode_steps"] = limit
        with building(f"environment {name!r}"):
            spec = gymnasium.spec(name) if isinstance(env_config.id, str) else None
            if spec is None or spec.vector_entry_point is None:
                raise ConfigError(f"{name} has no vector version.", f"Use env.backend=gymnasium. Known: {_known()}.")
            self._vector = gymnasium.make_vec(name, num_envs, "vector_entry_point", **kwargs)
        mode = self._vector.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise ConfigError(f"{name} resets in mode {mode}, expected {AutoresetMode.NEXT_STEP}.", "Use gymnasium.")
        spaces = self._vector.single_observation_space, self._vector.single_action_space
        self._require_same_observations(env_config, name)
        super().__init__(*spaces, num_envs, seed_of, name)
        self._resets = 0

    def _require_same_observations(self, env_config: EnvConfig, name: str) -> None:
        """Refuse a vector version whose observations differ from those of single environments."""
        single = make_env(env_config)
        seen, expected = self._vector.single_observation_space, single.observation_space
        single.close()
        if (seen.shape, seen.dtype) == (expected.shape, expected.dtype):
            return
        self._vector.close()
        fix = "Use env.backend=gymnasium."
        if name.startswith("ALE/"):
            game = name.removeprefix("ALE/").rpartition("-")[0]
            fix = f"Use env.id={game}-v5 env.backend=envpool, or env.id=distrl/Atari-v5 env.kwargs.game={game}."
        raise ConfigError(
            f"{name} gives {describe(seen)} with env.backend vector, and {describe(expected)} as a single environment.",
            fix,
        )

    def _raw_reset(self) -> Tree:
        seed = self._seed_of(0, self._resets)
        self._resets += 1
        self._seeds = [seed] * self.num_envs
        return self._vector.reset(seed=seed)[0]

    def _raw_step(self, action: Tree) -> tuple[Tree, np.ndarray, np.ndarray, np.ndarray]:
        return self._vector.step(action)[:4]

    def close(self) -> None:
        """Close the vector."""
        self._vector.close()


def _known() -> str:
    named = (name for name, spec in gymnasium.registry.items() if spec.vector_entry_point)
    return ", ".join(sorted(name for name in named if not name.startswith("ALE/")))  # those give other observations
