"""An algorithm's class and networks from `algorithm.name` of a config."""

from __future__ import annotations

from typing import Any

from gymnasium import Space

from distrl.base.errors import ConfigError
from distrl.base.registry import import_user_code, register
from distrl.config.algorithm import check_algorithm
from distrl.config.schema import RunConfig
from distrl.learning.algorithm import Algorithm


def algorithm_class(config: RunConfig) -> type[Algorithm]:
    """Return the class that `algorithm.name` names."""
    import_user_code(config.imports)
    found = register.get("algorithm", config.algorithm["name"])
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"algorithm {config.algorithm['name']!r} is {found!r}, not a subclass of Algorithm.")
    return found


def build_model(config: RunConfig, observation_space: Space, action_space: Space, seed: int) -> Any:
    """Build everything that the algorithm of a run learns: a module with a `policy`."""
    chosen = algorithm_class(config)
    options: dict[str, object] = {}
    if config.language is not None:
        options = {"language": config.language, "task": config.text_task}
    if config.env is not None:
        options |= {"normalize_obs": config.env.normalize_obs, "clip_obs": config.env.clip_obs}
    return chosen.build_model(
        observation_space, action_space, config.model, check_algorithm(config, chosen.Config), seed=seed, **options
    )


def build_acting_model(config: RunConfig, observation_space: Space, action_space: Space, seed: int = 0) -> Any:
    """Build the networks of published weights, for samplers, evaluation and policy files."""
    return algorithm_class(config).acting_model(build_model(config, observation_space, action_space, seed))
