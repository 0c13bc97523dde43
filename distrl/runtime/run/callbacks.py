"""Callbacks: user code that runs in the loop's process at events of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.experience.fragment import EpisodeReport


class Callback:
    """Base of callbacks; `loop` has counters in `loop.progress`, the rest in `loop.state`."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        """Run after every update."""

    def on_episode(self, loop: Any, episode: EpisodeReport) -> None:
        """Run for every finished episode once its data is consumed."""

    def on_checkpoint(self, loop: Any, path: Path) -> None:
        """Run after a checkpoint was written."""

    def on_end(self, loop: Any, summary: dict[str, object]) -> None:
        """Run once, at the end of the run."""


def load_callbacks(names: Sequence[str]) -> list[Callback]:
    """Make the configured callbacks from classes (called without arguments) or objects."""
    callbacks: list[Callback] = []
    for name in names:
        found = register.get("callback", name)
        callback = found() if isinstance(found, type) else found
        if not isinstance(callback, Callback):
            kind = type(callback).__name__
            problem = f"callbacks: {name!r} is a {kind}, not a distrl.runtime.run.callbacks.Callback."
            raise ConfigError(problem, "Derive it from Callback.")
        callbacks.append(callback)
    return callbacks
