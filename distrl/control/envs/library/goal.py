"""Small goal environments for hindsight relabeling.

Observations are as in gymnasium-robotics. Rewards are 0 at the goal and -1 elsewhere; episodes end by time only.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.control.envs.backends.masks import Info


class PointGoal(gymnasium.Env):
    """Reaching a goal point in the square [-1, 1]^2; `distrl/PointGoal-v0` (50 steps).

    Steps move by at most `speed` along each axis. `wall` puts a wall with a gap at y > 0.5 on the line x = 0.
    """

    metadata: Info = {"render_modes": []}

    def __init__(self, speed: float = 0.2, radius: float = 0.15, wall: bool = False, render_mode: str | None = None):
        if speed <= 0 or radius <= 0:
            raise ConfigError(f"PointGoal: speed {speed}, radius {radius}.", "Both must be positive.")
        self.speed, self.radius, self.wall, self.render_mode = float(speed), float(radius), bool(wall), render_mode
        square = Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = Dict(observation=square, achieved_goal=square, desired_goal=square)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self._position, self._goal = np.zeros(2), np.zeros(2)

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: object = None) -> np.ndarray:
        """Compute rewards (...) for goals (..., 2): 0 within `radius`, else -1."""
        gap = np.linalg.norm(np.asarray(achieved_goal, np.float64) - np.asarray(desired_goal, np.float64), axis=-1)
        return np.where(gap <= self.radius, 0.0, -1.0)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        super().reset(seed=seed)
        self._position, self._goal = self.np_random.uniform(-1.0, 1.0, (2, 2))
        if self.wall:
            self._position[0], self._goal[0] = -abs(self._position[0]), abs(self._goal[0])
        return self._observe(), {}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        before = self._position
        after = np.clip(before + self.speed * np.clip(np.asarray(action, np.float64), -1.0, 1.0), -1.0, 1.0)
        if self.wall and (before[0] < 0) != (after[0] < 0):
            share = before[0] / (before[0] - after[0])
            if before[1] + share * (after[1] - before[1]) <= 0.5:
                after[0] = -1e-3 if before[0] < 0 else 0.0
        self._position = after
        obs = self._observe()
        reward = float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"]))
        return obs, reward, False, False, {"is_success": reward == 0.0}

    def _observe(self) -> dict[str, np.ndarray]:
        position, goal = self._position.astype(np.float32), self._goal.astype(np.float32)
        return {"observation": position, "achieved_goal": position.copy(), "desired_goal": goal}


class BitFlip(gymnasium.Env):
    """Flipping single bits to match a goal (Andrychowicz et al. 2017); `distrl/BitFlip-v0`."""

    metadata: Info = {"render_modes": []}

    def __init__(self, bits: int = 8, render_mode: str | None = None):
        if bits < 1:
            raise ConfigError(f"BitFlip: bits is {bits}.", "Expected 1 or more.")
        self.render_mode = render_mode
        self.observation_space = Dict({k: MultiBinary(bits) for k in ("observation", "achieved_goal", "desired_goal")})
        self.action_space = Discrete(bits)
        self._bits, self._goal = np.zeros(bits, np.int8), np.zeros(bits, np.int8)

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: object = None) -> np.ndarray:
        """Compute rewards (...) for goals (..., bits): 0 if all bits are equal, else -1."""
        return np.where((np.asarray(achieved_goal) == np.asarray(desired_goal)).all(-1), 0.0, -1.0)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        super().reset(seed=seed)
        self._bits, self._goal = self.np_random.integers(0, 2, (2, len(self._bits)), np.int8)
        return self._observe(), {}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        self._bits[int(action)] ^= 1
        obs = self._observe()
        reward = float(self.compute_reward(self._bits, self._goal))
        return obs, reward, False, False, {"is_success": reward == 0.0}

    def _observe(self) -> dict[str, np.ndarray]:
        return {"observation": self._bits.copy(), "achieved_goal": self._bits.copy(), "desired_goal": self._goal.copy()}
