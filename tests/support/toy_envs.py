"""Small environments for tests: some with known returns, some that break one rule each.

By name: `tests.support.toy_envs:NaNEnv`, or with `imports: [tests/support/toy_envs.py]` as `toy_envs:NaNEnv`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

State = tuple[Any, dict[str, Any]]
Outcome = tuple[Any, Any, bool, bool, dict[str, Any]]


class ToyEnv(gymnasium.Env[Any, Any]):
    """Observes (time, seeded noise, last action); reward t in step t; truncated after `length` steps."""

    observation_space: Any = Box(-100.0, 100.0, (3,), np.float32)
    action_space: Any = Discrete(2)

    def __init__(self, length: int = 10):
        self.length = length
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> State:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(0), self.info()

    def step(self, action: Any) -> Outcome:
        self.t += 1
        reward = self.reward(action)
        return self.observe(action), reward, self.terminated(), self.t >= self.length, self.info()

    def observe(self, action: Any) -> Any:
        noise = float(self.np_random.random())
        return np.array([self.t, noise, np.sum(action)], np.float32)

    def reward(self, action: Any) -> Any:
        return float(self.t)

    def terminated(self) -> bool:
        return False

    def info(self) -> dict[str, Any]:
        return {}


class TruncatingEnv(ToyEnv):
    """Ends by its time limit; the return of an episode is length * (length + 1) / 2."""


class TerminatingEnv(ToyEnv):
    """Ends truly in step `length`, which is its time limit too if `both`."""

    def __init__(self, length: int = 10, both: bool = False):
        super().__init__(length if both else length + 1)
        self.end = length

    def terminated(self) -> bool:
        return self.t >= self.end


class RaisingEnv(ToyEnv):
    """Raises in step `after` of an episode (0: in reset)."""

    def __init__(self, after: int = 3, length: int = 10):
        super().__init__(length)
        self.after = after

    def observe(self, action: Any) -> Any:
        if self.t == self.after:
            raise RuntimeError("the robot fell off the table")
        return super().observe(action)


class NaNEnv(ToyEnv):
    """Gives a NaN in step `after`, in the observation or (`where="reward"`) as reward."""

    def __init__(self, after: int = 3, where: str = "obs", value: float = float("nan")):
        super().__init__()
        self.after, self.where, self.value = after, where, value

    def observe(self, action: Any) -> Any:
        obs = super().observe(action)
        if self.t == self.after and self.where == "obs":
            obs[1] = self.value
        return obs

    def reward(self, action: Any) -> Any:
        return self.value if self.t == self.after and self.where == "reward" else 1.0


class WrongShapeEnv(ToyEnv):
    """From step `after` on, observations have a shape that would broadcast into the right one."""

    def __init__(self, after: int = 0, shape: tuple[int, ...] = (1,)):
        super().__init__()
        self.after, self.shape = after, tuple(shape)

    def observe(self, action: Any) -> Any:
        return super().observe(action) if self.t < self.after else np.zeros(self.shape, np.float32)


class WrongDtypeEnv(ToyEnv):
    """Promises bytes and gives floats from step `after` on."""

    observation_space = Box(0, 255, (3,), np.uint8)

    def __init__(self, after: int = 0):
        super().__init__()
        self.after = after

    def observe(self, action: Any) -> Any:
        return np.full(3, 0.5, np.float32 if self.t >= self.after else np.uint8)


class BadRewardEnv(ToyEnv):
    """Gives a reward of another kind in step 2."""

    def __init__(self, value: Any = None):
        super().__init__()
        self.value = value

    def reward(self, action: Any) -> Any:
        return self.value if self.t == 2 else 1.0


class OldStepEnv(ToyEnv):
    """Returns four values from step, as gym did before 0.26."""

    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class SlowEnv(ToyEnv):
    """Sleeps in every step."""

    def __init__(self, seconds: float = 0.01, length: int = 10):
        super().__init__(length)
        self.seconds = seconds

    def reward(self, action: Any) -> Any:
        time.sleep(self.seconds)
        return super().reward(action)


class HangingEnv(ToyEnv):
    """Never returns from its `after`-th step since it was made."""

    def __init__(self, after: int = 100, length: int = 10):
        super().__init__(length)
        self.left = after

    def reward(self, action: Any) -> Any:
        self.left -= 1
        while self.left < 0:
            time.sleep(3600)
        return super().reward(action)


class UnseededEnv(ToyEnv):
    """Draws from a generator that no seed reaches."""

    def observe(self, action: Any) -> Any:
        return np.array([self.t, np.random.default_rng().random(), 0.0], np.float32)


class LeakyEnv(ToyEnv):
    """Remembers the number of its episodes across resets, so an episode is more than its seed and actions."""

    def __init__(self, length: int = 10):
        super().__init__(length)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> State:
        self.count += 1
        return super().reset(seed=seed)

    def observe(self, action: Any) -> Any:
        return np.array([self.t, self.count, 0.0], np.float32)


class MaskedEnv(ToyEnv):
    """Allows action t mod 3 and none else at time t; raises if another one is taken."""

    action_space = Discrete(3)

    def __init__(self, length: int = 10, forget_after: int | None = None, method: bool = False):
        super().__init__(length)
        self.forget_after = forget_after
        if method:
            self.action_masks: Callable[[], np.ndarray] = self.allowed

    def allowed(self) -> np.ndarray:
        return np.arange(3) == self.t % 3

    def info(self) -> dict[str, Any]:
        forgot = self.forget_after is not None and self.t >= self.forget_after
        return {} if forgot or hasattr(self, "action_masks") else {"action_mask": self.allowed()}

    def reward(self, action: Any) -> Any:
        if action != (self.t - 1) % 3:
            raise ValueError(f"action {action} is not allowed")
        return 1.0


class DictEnv(ToyEnv):
    """A Dict of vector, image and number; actions are a Dict of every supported kind. It checks what it is given."""

    observation_space = Dict(
        vector=Box(-100, 100, (3,), np.float64), image=Box(0, 255, (2, 4, 1), np.uint8), count=Discrete(100)
    )
    action_space = Dict(
        arm=Box(-1.0, 1.0, (2,), np.float32),
        hand=Discrete(3, start=5),
        fingers=MultiDiscrete([2, 3]),
        lights=MultiBinary(4),
    )

    def observe(self, action: Any) -> Any:
        total = 0.0 if isinstance(action, int) else float(sum(np.sum(part) for part in action.values()))
        noise = self.np_random.random(2)
        image = self.np_random.integers(0, 256, (2, 4, 1), np.uint8)
        return {"vector": np.array([total, *noise]), "image": image, "count": self.t}

    def step(self, action: Any) -> Outcome:
        assert self.action_space.contains(action), action
        return super().step(action)


class TupleEnv(ToyEnv):
    """Tuples as observation and action."""

    observation_space = Tuple((Box(-100.0, 100.0, (), np.float32), Discrete(50), MultiBinary(3), MultiDiscrete([4, 4])))
    action_space = Tuple((Discrete(3), Box(-2.0, 2.0, (1,), np.float32)))

    def observe(self, action: Any) -> Any:
        last = 0.0 if isinstance(action, int) else action[0] + float(action[1][0])
        bits = self.np_random.integers(0, 2, 3, np.int8)
        return np.float32(last), self.t, bits, self.np_random.integers(0, 4, 2)

    def step(self, action: Any) -> Outcome:
        assert self.action_space.contains(action), action
        return super().step(action)


class SeedLine(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Seeds episode n with `seed_of(n)` when it is reset without a seed, as autoreset does."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed_of: Callable[[int], int]):
        super().__init__(env)
        self.seed_of, self.episode = seed_of, -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> State:
        self.episode += 1
        return self.env.reset(seed=self.seed_of(self.episode) if seed is None else seed, options=options)
