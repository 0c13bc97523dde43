"""Lookup of the distribution for an action space."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.control.models.actions.base import ActionDistribution, Categorical, DiagonalGaussian
from distrl.control.models.actions.composite import Bernoulli, Composite, MultiCategorical

__all__ = ["ActionDistribution", "action_distribution"]


def action_distribution(space: spaces.Space) -> ActionDistribution:
    """Make the distribution for an action space.

    >>> action_distribution(spaces.Box(-1.0, 1.0, (3,))).param_size
    6
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.Box):
        if not np.issubdtype(space.dtype, np.floating):
            raise ConfigError(
                f"the action space {space} holds whole numbers; Box actions are real numbers here.",
                "Give the environment a Discrete or MultiDiscrete action space, or wrap it.",
            )
        return DiagonalGaussian(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space.shape)
    if isinstance(space, spaces.Dict):
        return Composite({name: action_distribution(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return Composite(tuple(action_distribution(part) for part in space.spaces))
    raise ConfigError(
        f"no policy can act in an action space of kind {type(space).__name__} ({space}).",
        "Use Discrete, Box, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.",
    )
