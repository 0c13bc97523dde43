"""The limiter: how many gradient steps the inserted experience allows, counted exactly."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from distrl.base.errors import ConfigError


class Limiter:
    """Gradient steps = floor(replay_ratio * environment steps inserted since `learning_starts`), exactly.

    So samples per insert, replay_ratio * batch size, hold in both directions: the learner cannot run ahead of the
    samplers, and an update takes every step that is due before it is over. All numbers are integers or fractions, so
    that nothing drifts over a run.

    Args:
        replay_ratio: Gradient steps per environment step.
        learning_starts: Environment steps before the first is counted.

    >>> limiter = Limiter(0.5, learning_starts=10)
    >>> limiter.insert(13), limiter.due()
    (None, 1)
    """

    def __init__(self, replay_ratio: float, learning_starts: int = 0):
        if replay_ratio <= 0 or learning_starts < 0:
            raise ConfigError(
                f"the replay ratio is {replay_ratio:g} and learning starts after {learning_starts} steps; "
                "expected a ratio above 0 and no negative number of steps."
            )
        self.ratio = Fraction(replay_ratio).limit_denominator(1_000_000)
        self.learning_starts = learning_starts
        self.inserted = self.taken = 0

    @property
    def warm(self) -> bool:
        """Whether `learning_starts` steps are there."""
        return self.inserted >= self.learning_starts

    def insert(self, steps: int) -> None:
        """`steps` environment steps were inserted."""
        self.inserted += steps

    def due(self) -> int:
        """Gradient steps to take now."""
        counted = max(0, self.inserted - self.learning_starts)
        return counted * self.ratio.numerator // self.ratio.denominator - self.taken

    def done(self, steps: int) -> None:
        """`steps` gradient steps were taken."""
        self.taken += steps

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"inserted": self.inserted, "taken": self.taken}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.inserted, self.taken = int(state["inserted"]), int(state["taken"])
