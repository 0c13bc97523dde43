"""Environments of every kind that a policy can be exported for. By name: `tests.support.envs:MaskedBox`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from distrl.config.sections.env import EnvConfig


class Sampled(gymnasium.Env[Any, Any]):
    """Observations drawn from the seeded space; every action is checked; an episode lasts 7 + (seed mod 5) steps."""

    observation_space: Any
    action_space: Any

    def __init__(self) -> None:
        self.t = self.length = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t, self.length = 0, 7 + (seed or 0) % 5
        return self.observation_space.sample(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        reward = float(sum(np.sum(leaf) for leaf in _leaves(action)))
        return self.observation_space.sample(), reward, self.t >= self.length, False, self.info()

    def info(self) -> dict[str, Any]:
        return {}


def _leaves(action: Any) -> list[Any]:
    if isinstance(action, dict):
        return [leaf for child in action.values() for leaf in _leaves(child)]
    return [leaf for child in action for leaf in _leaves(child)] if isinstance(action, tuple) else [action]


class Vector(Sampled):
    """Numbers in, a choice that does not count from 0 out."""

    observation_space = Box(-3.0, 3.0, (5,), np.float32)
    action_space: Any = Discrete(4, start=-2)


class WideVector(Vector):
    """float64 numbers of very different scales in, bounded reals out."""

    observation_space = Box(np.array([-1e3, 0.0]), np.array([1e3, 1e-2]), dtype=np.float64)  # type: ignore[arg-type]
    action_space: Any = Box(-0.25, 0.5, (2, 2), np.float32)


class Masked(Vector):
    """Allows some actions only."""

    def info(self) -> dict[str, Any]:
        self.allowed = self.np_random.random(4) < 0.5
        self.allowed[self.np_random.integers(4)] = True
        return {"action_mask": self.allowed}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.allowed[int(action) + 2], action
        return super().step(action)


class Nested(Sampled):
    """Trees in, trees out."""

    observation_space = Dict(
        arm=Box(-2.0, 2.0, (3,), np.float64), button=Discrete(3, start=1), pair=Tuple([MultiBinary(2), Discrete(2)])
    )
    action_space = Dict(
        hand=Discrete(3, start=1), force=Box(-0.5, 0.5, (2,), np.float32), keys=MultiDiscrete([2, 3]), on=MultiBinary(2)
    )


class Picture(Sampled):
    """Color pictures, channels last."""

    observation_space = Box(0, 255, (40, 40, 3), np.uint8)
    action_space = MultiDiscrete([3, 2])


class Planes(Picture):
    """Pictures of one plane, channels first: their stack looks like a stack of gray pictures."""

    observation_space = Box(0, 255, (1, 40, 40), np.uint8)


class NestedFrames(Sampled):
    """A Dict of things that stack in different ways."""

    observation_space = Dict(gray=Box(0, 255, (20, 24), np.uint8), speed=Box(-1.0, 1.0, (2,), np.float32))
    action_space = Discrete(3)


#: A section `env` without validation: an id may also be a class or function.
env_config = EnvConfig.model_construct
