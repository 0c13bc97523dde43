"""Helpers of peer scripts: arguments, a clock that can pause, evaluation, result line.

Peers run in their own virtual environments, so this file imports nothing but the standard library, numpy and
gymnasium, and stays valid from gymnasium 0.29 to 1.x.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

# Evaluation episodes are seeded far away from every training seed in use.
EVAL_SEED_BASE = 1_000_000


def base_parser(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """The arguments that all peers understand; `defaults` are the peer's own settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="gymnasium id")
    parser.add_argument("--num-envs", type=int, help="environments (per worker, where there are workers)")
    parser.add_argument("--rollout", type=int, help="time steps of every environment per update")
    parser.add_argument("--epochs", type=int, help="passes over a rollout")
    parser.add_argument("--minibatch-size", type=int, help="rows of a minibatch")
    parser.add_argument("--total-steps", type=int, default=100_000, help="environment steps of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, help="learning rate at the start")
    parser.add_argument("--gamma", type=float)
    parser.add_argument("--gae-lambda", type=float)
    parser.add_argument("--clip", type=float, help="clipping range of the probability ratio")
    parser.add_argument("--ent-coef", type=float)
    parser.add_argument("--vf-coef", type=float)
    parser.add_argument("--max-grad-norm", type=float)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="units of the hidden layers")
    parser.add_argument("--torch-threads", type=int, default=1, help="0: leave the peer's own default")
    parser.add_argument("--eval-every", type=int, default=0, help="environment steps between evaluations, 0: none")
    parser.add_argument("--eval-episodes", type=int, default=20)
    parser.add_argument("--stop-at", type=float, default=None, help="end when an evaluation reaches this mean return")
    parser.set_defaults(**defaults)
    return parser


class TrainingClock:
    """Seconds of training, start-up and pauses excluded.

    The clock runs from the end of the first update, when imports, processes and lazy initialization are behind, and
    counts the steps from there too, so `steps_per_second` compares like with like. Off-policy, the same is done with
    gradient updates.
    """

    def __init__(self) -> None:
        self._paused = 0.0
        self._begin = self._now()
        self._started: float | None = None
        self._last_tick = 0.0
        self._steps_at_start = self._gradient_steps_at_start = 0
        self.env_steps = self.gradient_steps = 0
        self.first_update_seconds = 0.0

    def _now(self) -> float:
        return time.perf_counter() - self._paused

    def begin(self) -> None:
        """Call right before training; only `first_update_seconds` depends on it."""
        self._begin = self._now()

    def tick(self, env_steps: int, gradient_steps: int = 0) -> None:
        """Call after every update with the environment steps, and off-policy the gradient updates, so far."""
        now = self._now()
        if self._started is None:
            self._started = now
            self._steps_at_start, self._gradient_steps_at_start = env_steps, gradient_steps
            self.first_update_seconds = now - self._begin
        self._last_tick = now
        self.env_steps, self.gradient_steps = env_steps, gradient_steps

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Pause the clock inside this context."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - begin

    def seconds(self) -> float:
        """Training seconds from the end of the first update to the last tick."""
        return 0.0 if self._started is None else self._last_tick - self._started

    def counted_steps(self) -> int:
        """Environment steps between the first and the last tick."""
        return self.env_steps - self._steps_at_start

    def counted_gradient_steps(self) -> int:
        """Gradient updates between the first and the last tick."""
        return self.gradient_steps - self._gradient_steps_at_start


def greedy_return(act: Callable[[np.ndarray], np.ndarray], env_id: str, episodes: int, seed: int) -> float:
    """Mean return of `episodes` whole episodes.

    Args:
        act: Greedy actions (N,) or (N, A) of observations (N, ...).
        env_id: A gymnasium id.
        episodes: How many; all run side by side, so `act` sees one batch per time step.
        seed: Episode i is reset with seed + i.
    """
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    obs = {index: env.reset(seed=seed + index)[0] for index, env in enumerate(envs)}
    total = np.zeros(episodes)
    while obs:
        running = list(obs)
        actions = act(np.stack([obs[index] for index in running]).astype(np.float32))
        for index, action in zip(running, actions, strict=True):
            obs[index], reward, terminated, truncated, _ = envs[index].step(action)
            total[index] += float(reward)
            if terminated or truncated:
                del obs[index]
    for env in envs:
        env.close()
    return float(total.mean())


class Evaluations:
    """A separate greedy evaluation every so many environment steps; its time does not count.

    Every evaluation plays new episodes, so that no policy is selected for one set of start states.
    """

    def __init__(self, args: argparse.Namespace, clock: TrainingClock):
        self._args = args
        self._clock = clock
        self._next = args.eval_every
        self.curve: list[tuple[int, float, float]] = []

    def after_update(self, act: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Evaluate if it is time to; True when the target is reached and the run shall end. Call after `clock.tick`."""
        if not self._args.eval_every or self._clock.env_steps < self._next:
            return False
        while self._next <= self._clock.env_steps:
            self._next += self._args.eval_every
        with self._clock.pause():
            seed = EVAL_SEED_BASE * (1 + self._args.seed) + len(self.curve) * self._args.eval_episodes
            mean = greedy_return(act, self._args.env, self._args.eval_episodes, seed)
        self.curve.append((self._clock.env_steps, self._clock.seconds(), mean))
        return self._args.stop_at is not None and mean >= self._args.stop_at


def versions(*packages: str) -> dict[str, str]:
    """Versions of python, numpy, gymnasium, torch and the peer's own packages."""
    found = {"python": platform.python_version()}
    for package in ("numpy", "gymnasium", "torch", *packages):
        found[package] = importlib.metadata.version(package)
    return found


def print_result(
    peer: str,
    args: argparse.Namespace,
    clock: TrainingClock,
    evaluations: Evaluations | None,
    *packages: str,
    **extra: Any,
) -> None:
    """Print the one JSON line that `benchmarks/common.py` reads, on the real standard output."""
    seconds = clock.seconds()
    result: dict[str, Any] = {
        "peer": peer,
        "versions": versions(*packages),
        "settings": vars(args),
        "env_steps": clock.env_steps,
        "counted_steps": clock.counted_steps(),
        "train_seconds": seconds,
        "steps_per_second": clock.counted_steps() / seconds if seconds > 0 else None,
        "gradient_steps_per_second": clock.counted_gradient_steps() / seconds if seconds > 0 else None,
        "first_update_seconds": clock.first_update_seconds,
        **extra,
    }
    if evaluations is not None and args.eval_every:
        result["eval"] = evaluations.curve
    print(json.dumps(result), file=sys.__stdout__, flush=True)
