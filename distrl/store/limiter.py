"""Limiter of gradient steps by inserted experience."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from distrl.base.errors import ConfigError


class Limiter:
    """Limiter to floor(replay_ratio * steps inserted since `learning_starts`) gradient steps.

    It bounds both sides: an update takes every step that is due, and no more. Integers and fractions never drift.

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
        """True once `learning_starts` steps are inserted."""
        return self.inserted >= self.learning_starts

    def insert(self, steps: int) -> None:
        """Count inserted environment steps."""
        self.inserted += steps

    def due(self) -> int:
        """Return the number of gradient steps to take now."""
        counted = max(0, self.inserted - self.learning_starts)
        return counted * self.ratio.numerator // self.ratio.denominator - self.taken

    def done(self, steps: int) -> None:
        """Count gradient steps that were taken."""
        self.taken += steps

    def state(self) -> dict[str, int]:
        """Return the state for a checkpoint."""
        return {"inserted": self.inserted, "taken": self.taken}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Restore `state`."""
        self.inserted, self.taken = int(state["inserted"]), int(state["taken"])
