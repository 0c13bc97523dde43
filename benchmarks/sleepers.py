"""Environments that sleep in every step, and a callback that records progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from distrl.base.seeds import seed_for
from distrl.runtime.run.callbacks import Callback

MOST_EPISODES = 5000  # among which a stream's seeds are looked for


class SleepEnv(gymnasium.Env[Any, Any]):
    """Sleeps in every step; truncated after `length` steps.

    Args:
        seconds: A step, on average over episodes.
        length: Steps of an episode.
        sigma: The step time is drawn per episode, log-normal with this sigma; 0: always the same.
        slow_stream: This stream sleeps `slow_seconds` a step. It is known by its seeds; one environment a stream.
        run_seed: The run's seed, where a stream is to be known.
    """

    observation_space = Box(-1.0, 1.0, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(
        self,
        seconds: float = 0.005,
        length: int = 50,
        sigma: float = 0.0,
        slow_stream: int = -1,
        slow_seconds: float = 1.0,
        run_seed: int = 1,
    ):
        self.seconds, self.length, self.sigma = seconds, length, sigma
        self.slow_stream, self.slow_seconds, self.run_seed = slow_stream, slow_seconds, run_seed
        self.slow: bool | None = None
        self.step_seconds = seconds
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        if self.slow is None and seed is not None and self.slow_stream >= 0:
            seeds = (seed_for(self.run_seed, "env", self.slow_stream, 0, number) for number in range(MOST_EPISODES))
            self.slow = seed in seeds
        # The mean of exp(sigma z) is exp(sigma^2 / 2).
        scale = np.exp(self.sigma * self.np_random.normal() - self.sigma**2 / 2) if self.sigma else 1.0
        self.step_seconds = self.slow_seconds if self.slow else self.seconds * float(scale)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.step_seconds)
        self.t += 1
        return self.observe(), float(action), False, self.t >= self.length, {}

    def observe(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)


class WritesTimes(Callback):
    """Appends a line to `times.jsonl` of the run folder at every update: when, how far, and who hosts streams."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        line = {
            "time": time.monotonic(),
            "update": loop.progress.version,
            "env_steps": loop.progress.env_steps,
            "next_fragments": list(loop.state.queue.next_seq),
            "finished": loop.state.ledger.counts["finished"],
            "evicted": loop.state.ledger.counts["evicted"],
            "hosting": sum(slot.state == "hosting" and slot.ready for slot in loop.state.pool.slots),
        }
        with open(Path(loop.services.folder.path) / "times.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
