"""Environments of every kind of space, and a callback that watches weights change."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, flatten

from distrl.runtime.run.callbacks import Callback


class Watch(Callback):
    """Tells whether any matrix of the published weights changed after the first update.

    Matrices only: exploration and statistics of observations are published beside them, and change without learning.
    """

    changed: ClassVar[bool] = False

    def __init__(self) -> None:
        Watch.changed = False
        self.first: dict[str, str] = {}

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if not self.first:
            self.first = self._matrices(loop)

    def on_end(self, loop: Any, summary: dict[str, Any]) -> None:
        Watch.changed = self._matrices(loop) != self.first

    @staticmethod
    def _matrices(loop: Any) -> dict[str, str]:
        arrays = loop.backend.fetch(loop.state.weights[loop.progress.version]).arrays()
        return {name: hashlib.blake2b(array.tobytes()).hexdigest() for name, array in arrays.items() if array.ndim > 1}


OBSERVATIONS: dict[str, Space[Any]] = {
    "vector": Box(-1.0, 1.0, (4,), np.float32),
    "picture": Box(0, 255, (3, 44, 44), np.uint8),
    "dict": Dict({"place": Box(-1.0, 1.0, (3,), np.float32), "room": Discrete(4)}),
    "tuple": Tuple((Box(-1.0, 1.0, (2,), np.float32), MultiBinary(3))),
    "discrete": Discrete(5),
}
ACTIONS: dict[str, Space[Any]] = {
    "discrete": Discrete(3),
    "multi_discrete": MultiDiscrete([3, 2]),
    "multi_binary": MultiBinary(3),
    "box": Box(-2.0, 2.0, (2,), np.float32),
    "dict": Dict({"move": Discrete(3), "turn": Box(-1.0, 1.0, (2,), np.float32)}),
}
LENGTH = 12


class Spaces(gymnasium.Env[Any, Any]):
    """Random observations, a reward per entry of the action, at most `LENGTH` steps.

    Args:
        observation: Which of `OBSERVATIONS`.
        action: Which of `ACTIONS`.
        masked: The first action of each dimension is forbidden in every other step.
    """

    def __init__(self, observation: str = "vector", action: str = "discrete", masked: bool = False):
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.masked, self.t = masked, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        taken = np.asarray(flatten(self.action_space, action), np.float64)
        reward = float(np.sum(taken * np.linspace(-1.0, 1.0, len(taken))))
        ended = bool(self.np_random.random() < 0.05)
        return self._observation(), reward, ended, not ended and self.t >= LENGTH, self._info()

    def _observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def _info(self) -> dict[str, Any]:
        if not self.masked:
            return {}
        sizes = self.action_space.nvec if isinstance(self.action_space, MultiDiscrete) else [self.action_space.n]
        return {"action_mask": np.concatenate([np.arange(size) >= self.t % 2 for size in sizes])}
