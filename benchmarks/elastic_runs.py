"""Runs of `elastic.py`, each in a thread of this process, on one small Ray cluster."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distrl.runtime.commands.files import Command, FolderRun
from distrl.runtime.train import train

START_SECONDS = 120.0


@dataclass(frozen=True)
class Times:
    """Measurements of a run, one entry per update.

    Attributes:
        lines: Of `sleepers.WritesTimes`.
        events: Of `events.jsonl`.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def between(self, begin: float, end: float) -> list[dict[str, Any]]:
        return [line for line in self.lines if begin <= line["time"] <= end]

    def rate(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """Consumed steps per second from the first update of a span to its last one."""
        lines = self.between(begin, end)
        return (lines[-1]["env_steps"] - lines[0]["env_steps"]) / (lines[-1]["time"] - lines[0]["time"])

    def evicted(self) -> float:
        """Share of the finished fragments that were too old to be consumed."""
        return self.lines[-1]["evicted"] / self.lines[-1]["finished"]

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds between two updates, at most: the updates themselves take milliseconds."""
        moments = [line["time"] for line in self.between(begin, end)]
        return max(after - before for before, after in itertools.pairwise(moments))


class Bench:
    """Runs on one small Ray cluster.

    Args:
        folder: For run folders.
        address: Of the cluster.
        short: Divides the seconds of every run, to try the script out.
    """

    def __init__(self, folder: Path, address: str, short: float):
        self.folder, self.address, self.short = folder, address, short

    def run(self, during: Callable[[Run], None], **changes: Any) -> Times:
        """A run that `during` watches from its first update on, and that ends with it."""
        name = f"run{len(list(self.folder.iterdir()))}"
        settings = {
            "name": name,
            "seed": 1,
            "backend": "ray",
            "ray": {"address": self.address},
            "deterministic": False,
            "model": {"hidden": [8]},
            "algorithm": {"name": "ppo", "rollout_steps": 16, "epochs": 1, "minibatches": 1},
            "checkpoint": {"every": 0, "every_seconds": 0},
            "stop": {"updates": 10**9},
            "logging": {"console": "quiet", "tensorboard": False},
            "callbacks": ["sleepers:WritesTimes"],
            **changes,
        }
        run = Run(settings, self.folder)
        try:
            run.wait_for(lambda times: len(times.lines) > 1)
            during(run)
        finally:
            run.end()
        return run.times()

    def seconds(self, seconds: float) -> float:
        return seconds / self.short


class Run:
    """A run in a thread of this process."""

    def __init__(self, settings: dict[str, Any], runs: Path):
        self.folder = runs / settings["name"]
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._train, args=(settings, runs))
        self.thread.start()

    def _train(self, settings: dict[str, Any], runs: Path) -> None:
        try:
            train(settings, runs_dir=runs)
        except BaseException as error:
            self.failure = error

    def times(self) -> Times:
        def read(name: str) -> list[dict[str, Any]]:
            path = self.folder / name
            text = path.read_text() if path.is_file() else ""
            return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

        return Times(read("times.jsonl"), read("events.jsonl"))

    def wait_for(self, holds: Callable[[Times], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not holds(self.times()):
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.folder} did not come as far within {START_SECONDS:g} s")
            time.sleep(0.1)

    def tell(self, verb: str, samplers: int | None = None) -> None:
        FolderRun(self.folder).send(Command(verb, samplers))

    def end(self) -> None:
        if self.thread.is_alive():
            self.tell("stop_now")
        self.thread.join(60)
        if self.failure is not None:
            raise self.failure
