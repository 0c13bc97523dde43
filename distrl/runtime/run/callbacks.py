"""Callbacks: user code that is told what happens, in the loop's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.experience.fragment import EpisodeReport


class Callback:
    """Override what you need. `loop` is the running `Loop`: `loop.progress` has the counters."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        """After every update."""

    def on_episode(self, loop: Any, episode: EpisodeReport) -> None:
        """For every finished episode, when its data has been learned from."""

    def on_checkpoint(self, loop: Any, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, loop: Any, summary: dict[str, Any]) -> None:
        """Once, at the end of the run."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = list(callbacks)

    def __bool__(self) -> bool:
        return bool(self.callbacks)

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_update(loop, metrics)

    def on_episode(self, loop: Any, episode: EpisodeReport) -> None:
        for callback in self.callbacks:
            callback.on_episode(loop, episode)

    def on_checkpoint(self, loop: Any, path: Path) -> None:
        for callback in self.callbacks:
            callback.on_checkpoint(loop, path)

    def on_end(self, loop: Any, summary: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_end(loop, summary)


def load_callbacks(names: Sequence[str]) -> Callbacks:
    """Make the callbacks that the config names: classes (called without arguments) or ready objects.

    Raises:
        ConfigError: Not a callback.
    """
    callbacks = []
    for name in names:
        found = register.get("callback", name)
        callback = found() if isinstance(found, type) else found
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks: {name!r} is a {type(callback).__name__}, not a distrl.runtime.run.callbacks.Callback.",
                "Derive it from Callback.",
            )
        callbacks.append(callback)
    return Callbacks(callbacks)
