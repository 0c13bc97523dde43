"""Options of the monitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Options(Protocol):
    """Section `logging` of a run's config: event files, kind of console, seconds between flushes."""

    @property
    def tensorboard(self) -> bool: ...
    @property
    def console(self) -> str: ...
    @property
    def every_seconds(self) -> float: ...


@dataclass(frozen=True)
class ResumePoint:
    """Counters of the checkpoint that an attempt resumes from: steps, updates, seconds of training."""

    env_steps: int
    update: int
    wall_s: float = 0.0
