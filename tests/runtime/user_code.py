"""User code of the tests' runs: callbacks that end their own process, environments with faults that can be mended."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from distrl.base.seeds import seed_for
from distrl.runtime.run.callbacks import Callback
from tests.support.toy_envs import Outcome, State, ToyEnv


class EndsItself(Callback):
    """Kills its process group at update KILL_AT_UPDATE, or KILL_DELAY seconds later; or interrupts it at
    INTERRUPT_AT_UPDATE."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == int(os.environ.get("INTERRUPT_AT_UPDATE", -1)):
            os.killpg(os.getpgid(0), signal.SIGINT)
        if loop.progress.version < int(os.environ.get("KILL_AT_UPDATE", 10**9)):
            return
        delay = float(os.environ.get("KILL_DELAY", 0))
        if delay:
            threading.Timer(delay, os.killpg, (os.getpgid(0), signal.SIGKILL)).start()
        else:
            os.killpg(os.getpgid(0), signal.SIGKILL)


class KillsASampler(Callback):
    """Kills the process of sampler 0 once, at update 3."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == 3:
            os.kill(loop.state.pool.slots[0].pid, signal.SIGKILL)


class KillsManySamplers(Callback):
    """Kills some sampler's process at every fifth update, a random while after it."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        ready = [slot for slot in loop.state.pool.slots if slot.ready]
        if loop.progress.version % 5 == 0 and ready:
            pid = self.random.choice(ready).pid
            threading.Timer(self.random.uniform(0, 0.05), _kill_if_there, (pid,)).start()


def _kill_if_there(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Scales141(Callback):
    """From one sampler to four at update 5, and back to one ten updates after the newcomers host streams; waits for
    them where the run is too quick for processes to start."""

    def __init__(self) -> None:
        self.down_at = 0

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        version = loop.progress.version
        if version == 5:
            loop.elastic.scale(4, "a test")
        hosting = sum(slot.state == "hosting" for slot in loop.state.pool.slots)
        if version > 5 and not self.down_at:
            if hosting == 4:
                self.down_at = version + 10
            time.sleep(0.4)
        if version == self.down_at:
            loop.elastic.scale(1, "a test")


class KillsTheLearner(Callback):
    """Kills the learner's process at update 5, once in the life of the file LEARNER_KILLED."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        marker = Path(os.environ["LEARNER_KILLED"])
        if loop.progress.version == 5 and not marker.exists():
            marker.touch()
            import ray

            os.kill(ray.get(loop.backend.group.learners[0].ready.remote()), signal.SIGKILL)


class KillsLearners(Callback):
    """Kills the learner's process at updates 2 and 6, there in the middle of what it does next."""

    def __init__(self) -> None:
        self.left = {2: 0.0, 6: 0.005}

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        delay = self.left.pop(loop.progress.version, None)
        if delay is not None:
            import ray

            time.sleep(0.3)  # its state shall have been kept, which takes no time on a machine with nothing else to do
            pid = ray.get(loop.backend.group.learners[0].ready.remote())
            threading.Timer(delay, _kill_if_there, (pid,)).start()


class KillsParts(KillsManySamplers):
    """Kills the learner's process at every twelfth update, a random while after it, and samplers beside it."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        super().on_update(loop, metrics)
        if loop.progress.version % 12 == 11:
            import ray

            pid = ray.get(loop.backend.group.learners[0].ready.remote())
            threading.Timer(self.random.uniform(0, 0.05), _kill_if_there, (pid,)).start()


class Raises(Callback):
    """A mistake in user code, at update 3."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == 3:
            raise KeyError("no such thing")


class MaskedDictEnv(ToyEnv):
    """Observes a Dict; of 3 actions, one (that changes with time and seed) is forbidden. Ends truly or by time."""

    observation_space = Dict(clock=Discrete(64), noise=Box(-100.0, 100.0, (2,), np.float64))
    action_space = Discrete(3)

    def observe(self, action: Any) -> Any:
        self.noise = self.np_random.normal(size=2)
        return {"clock": self.t, "noise": self.noise}

    def info(self) -> dict[str, Any]:
        return {"action_mask": np.arange(3) != int(abs(self.noise[0]) * 10) % 3}

    def reward(self, action: Any) -> Any:
        return float(action == self.t % 3)

    def terminated(self) -> bool:
        return bool(self.noise[1] > 2.0)


class FaultyEnv(ToyEnv):
    """Does something wrong in its `after`-th step since it was made, as long as the file `marker` does not exist.

    Args:
        fault: `raise`, `nan`, `nan_reward`, `shape` or `hang`.
        marker: The file that mends it.
        once: Make the file, so that the fault happens only once.
    """

    def __init__(self, fault: str, marker: str, after: int = 70, once: bool = False):
        super().__init__(length=25)
        self.fault, self.marker, self.left, self.once = fault, Path(marker), after, once

    def step(self, action: Any) -> Outcome:
        self.left -= 1
        outcome = super().step(action)
        if self.left >= 0 or self.marker.exists():
            return outcome
        if self.once:
            self.marker.touch()
        return self.misbehave(outcome)

    def misbehave(self, outcome: Outcome) -> Outcome:
        obs, reward, *rest = outcome
        if self.fault == "raise":
            raise RuntimeError("the robot fell off the table")
        while self.fault == "hang":
            time.sleep(3600)
        bad_obs = {"nan": np.full(3, np.nan, np.float32), "shape": np.zeros(2, np.float32)}
        return (bad_obs.get(self.fault, obs), np.nan if self.fault == "nan_reward" else reward, *rest)


class DelayedEnv(ToyEnv):
    """Sleeps a random while (seeded by the episode) in some steps: samplers overtake each other."""

    def __init__(self, seconds: float = 0.02, length: int = 10):
        super().__init__(length)
        self.seconds = seconds

    def reset(self, *, seed: int | None = None, options: Any = None) -> State:
        state = super().reset(seed=seed)
        self.delay = float(self.np_random.random()) * self.seconds
        return state

    def reward(self, action: Any) -> Any:
        if self.t % 5 == 0:
            time.sleep(self.delay)
        return super().reward(action)


class WideEnv(ToyEnv):
    """An observation of 16 KB: 16 steps are more than what Ray keeps with the caller, so they lie on their node."""

    observation_space = Box(-100.0, 100.0, (4000,), np.float32)

    def observe(self, action: Any) -> Any:
        return np.full(4000, self.np_random.random(), np.float32)


class WritesUnits(EndsItself):
    """Writes the fragments of every update beside the run's metrics, before it kills itself."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        progress = loop.recovery.current.progress
        line = {
            "attempt": len(loop.services.folder.attempts()),
            "update": loop.progress.version,
            "units": progress.units,
            "staleness": metrics["staleness/max"],
        }
        with open(loop.services.folder.path / "units.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        super().on_update(loop, metrics)


class KillsEvery(Callback):
    """Kills a random sampler every KILL_EVERY seconds for KILL_SECONDS, the learner and a replay shard once each; then
    the run may end."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.every, self.seconds = float(os.environ["KILL_EVERY"]), float(os.environ["KILL_SECONDS"])
        self.began = self.next = time.monotonic()
        self.kills = 0
        self.parts = {self.seconds / 3: "learners", self.seconds * 2 / 3: "replay_shards"}

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self.began > self.seconds:
            loop.state.stop_requested = "the drill is over"
        elif now >= self.next:
            self.next += self.every
            self.kills += 1
            _kill_if_there(self.random.choice(loop.state.pool.slots).pid)
        for moment, part in list(self.parts.items()):
            actors = getattr(loop.backend.group, part)
            if now - self.began > moment and actors:
                import ray

                del self.parts[moment]
                _kill_if_there(ray.get(self.random.choice(actors).ready.remote()))


class SlowUntil(ToyEnv):
    """Steps take 20 ms until the file `marker` exists."""

    def __init__(self, marker: str):
        super().__init__(length=50)
        self.marker = Path(marker)

    def reward(self, action: Any) -> Any:
        if not self.marker.exists():
            time.sleep(0.02)
        return super().reward(action)


class FillsTheDisk(Callback):
    """Leaves no room on the disk of the run folder, at update 10."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == 10:
            fill(loop.services.folder.path)


def fill(disk: Path) -> Path:
    """A file that takes all that is left on a small disk."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (2**20, 4096):
            with suppress(OSError):
                while True:
                    file.write(os.urandom(size))
    return filler


class SlowStreamEnv(ToyEnv):
    """Every step of stream 1 takes `seconds`, of the others a millisecond; it is known by its seeds."""

    def __init__(self, seconds: float = 0.4, length: int = 10):
        super().__init__(length)
        self.seconds = seconds
        self.slow: bool | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> State:
        if self.slow is None and seed is not None:
            self.slow = seed in {seed_for(1, "env", 1, 0, episode) for episode in range(1000)}
        return super().reset(seed=seed)

    def reward(self, action: Any) -> Any:
        time.sleep(self.seconds if self.slow else 0.001)
        return super().reward(action)
