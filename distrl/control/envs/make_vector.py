"""Construction of vector environments by `env.backend`."""

from __future__ import annotations

from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.interface import SeedOf, VectorEnv
from distrl.control.envs.make import env_name, make_env, register_namespace


def make_vector(env_config: EnvConfig, num_envs: int, seed_of: SeedOf) -> VectorEnv:
    """Make B = `num_envs` environments, seeded by `seed_of(environment index, episode number)`."""
    register_namespace(env_config.id)
    if env_config.backend == "vector":
        from distrl.control.envs.backends.native import NativeVectorEnv

        return NativeVectorEnv(env_config, num_envs, seed_of)
    if env_config.backend == "envpool":
        from distrl.control.envs.backends.envpool import EnvPoolVectorEnv

        return EnvPoolVectorEnv(env_config, num_envs, seed_of)
    from distrl.control.envs.backends.loop import LoopVectorEnv

    return LoopVectorEnv(lambda: make_env(env_config), num_envs, seed_of, env_name(env_config))
