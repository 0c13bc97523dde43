"""What a monitor is told once: what to write, and where the run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Options(Protocol):
    """The part of a run's config that this room reads.

    tensorboard: Write `tb/`. console: `auto`, `rich`, `plain` or `quiet`. every_seconds: Between two flushes.
    """

    @property
    def tensorboard(self) -> bool: ...
    @property
    def console(self) -> str: ...
    @property
    def every_seconds(self) -> float: ...


@dataclass(frozen=True)
class MonitorOptions:
    """Options for callers without a config."""

    tensorboard: bool = True
    console: str = "auto"
    every_seconds: float = 5.0


@dataclass(frozen=True)
class ResumePoint:
    """Where the checkpoint stands that this attempt goes on from.

    Args:
        env_steps: Consumed environment steps.
        update: Updates made.
        wall_s: Seconds of training up to the checkpoint.
    """

    env_steps: int
    update: int
    wall_s: float = 0.0
