"""A corridor: walk right to the goal at the end. An environment is any Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Corridor(gymnasium.Env[np.ndarray, int]):
    """Positions 0 .. length; action 1 moves right, action 0 left; reward 1 at the goal, -0.01 for each other step.

    Everything random comes from `self.np_random`, which `reset(seed=...)` seeds, so that runs repeat and resume.
    """

    def __init__(self, length: int = 8, slip: float = 0.1):
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length, self.slip = length, slip
        self.position = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = int(self.np_random.integers(self.length // 2))
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        right = (action == 1) != (self.np_random.random() < self.slip)
        self.position = min(max(self.position + (1 if right else -1), 0), self.length)
        done = self.position == self.length  # a true end; the time limit truncates (env.max_episode_steps)
        return self._observation(), 1.0 if done else -0.01, done, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.position / self.length], np.float32)
