"""A monitor that writes on request, for a fresh run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distrl.config.sections.run import LoggingConfig
from distrl.monitor.monitor import Monitor

CONFIG = "seed: 0\nenv:\n  id: CartPole-v1\nalgorithm:\n  lr: 0.0003\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "cart"
    folder.mkdir()
    return folder


@pytest.fixture
def make(run_dir: Path) -> Iterator[Callable[..., Monitor]]:
    made: list[Monitor] = []

    def build(attempt: int = 1, *, console: str = "quiet", tensorboard: bool = True, every: float = 60, **more):
        options = LoggingConfig.model_construct(tensorboard=tensorboard, console=console, every_seconds=every)
        made.append(Monitor(run_dir, CONFIG, options, attempt, **more))
        return made[-1]

    yield build
    for monitor in made:
        monitor.close()
