"""Chooses the number of samplers from the idle times of learner and samplers."""

from __future__ import annotations

WINDOW_SECONDS = 5.0
AGREEING_WINDOWS = 2  # a single window can be an evaluation, a checkpoint, another job on the machine
HUNGRY = 0.3  # more samplers if the learner is idle for a larger share and samplers for a smaller one
FULL, HARDLY = 0.6, 0.1  # fewer samplers if they are idle for a larger share and the learner hardly is


class Autoscaler:
    """Averages idle shares over windows; proposes a change when several windows in a row agree.

    The bands are disjoint, and a step of a quarter lands between them, so the number settles.

    >>> scaler = Autoscaler(1, 4, window=1.0)
    >>> for second in range(5):
    ...     scaler.observe(float(second), learner_idle=0.9, samplers_idle=0.0)
    >>> scaler.target(2)
    3
    """

    def __init__(self, least: int, most: int, window: float = WINDOW_SECONDS):
        self.least, self.most, self.window = least, most, window
        self._since: tuple[float, float, float] | None = None  # time, and the two idle shares from then on
        self.reset()

    def reset(self) -> None:
        """Forget the observations, which belong to another number of samplers."""
        self._seconds = self._learner = self._samplers = 0.0
        self._votes = 0

    def observe(self, now: float, learner_idle: float, samplers_idle: float) -> None:
        """Record the idle shares of learner and samplers from `now` (any monotonic clock) on."""
        if self._since is not None:
            begin, learner, samplers = self._since
            self._seconds += now - begin
            self._learner += learner * (now - begin)
            self._samplers += samplers * (now - begin)
        self._since = now, learner_idle, samplers_idle
        if self._seconds < self.window:
            return
        idle, waiting = self._learner / self._seconds, self._samplers / self._seconds
        self._seconds = self._learner = self._samplers = 0.0
        vote = int(idle > HUNGRY and waiting < HUNGRY) - int(waiting > FULL and idle < HARDLY)
        self._votes = vote if vote * self._votes <= 0 else self._votes + vote

    def target(self, samplers: int) -> int | None:
        if samplers < self.least or samplers > self.most:
            return min(max(samplers, self.least), self.most)
        if abs(self._votes) < AGREEING_WINDOWS:
            return None
        step = max(1, samplers // 4)
        target = min(max(samplers + (step if self._votes > 0 else -step), self.least), self.most)
        return target if target != samplers else None
