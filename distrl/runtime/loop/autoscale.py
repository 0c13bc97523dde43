"""How many samplers a run needs, from who waits for whom: the learner for data, or samplers for room in the queue."""

from __future__ import annotations

WINDOW_SECONDS = 5.0
AGREEING_WINDOWS = 2  # one window can be an evaluation, a checkpoint, a neighbor on the machine
#: The learner waits for more than this share while samplers hardly do: more samplers.
HUNGRY = 0.3
#: Samplers wait for more than this share while the learner hardly does: fewer.
FULL = 0.6
HARDLY = 0.1


class Autoscaler:
    """Watches the two waits in windows; asks for a change when several windows in a row agree.

    The bands do not touch, and what is halved or grown by a quarter lands between them, so the number settles.

    Args:
        least, most: Bounds of the number of samplers.
        window: Seconds that are averaged.

    >>> scaler = Autoscaler(1, 4, window=1.0)
    >>> for second in range(5):
    ...     scaler.note(float(second), learner_idle=0.9, samplers_idle=0.0)
    >>> scaler.wish(2)
    3
    """

    def __init__(self, least: int, most: int, window: float = WINDOW_SECONDS):
        self.least, self.most, self.window = least, most, window
        self._since: tuple[float, float, float] | None = None  # time, and the two idle shares from then on
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: it was seen with another number of samplers."""
        self._seconds = self._learner = self._samplers = 0.0
        self._votes = 0

    def note(self, now: float, learner_idle: float, samplers_idle: float) -> None:
        """From now on these shares of learner and samplers have nothing to do.

        Args:
            now: Seconds on any steady clock.
        """
        if self._since is not None:
            begin, learner, samplers = self._since
            self._seconds += now - begin
            self._learner += learner * (now - begin)
            self._samplers += samplers * (now - begin)
        self._since = now, learner_idle, samplers_idle
        if self._seconds >= self.window:
            self._vote(self._learner / self._seconds, self._samplers / self._seconds)
            self._seconds = self._learner = self._samplers = 0.0

    def _vote(self, learner: float, samplers: float) -> None:
        if learner > HUNGRY and samplers < HUNGRY:
            vote = 1
        elif samplers > FULL and learner < HARDLY:
            vote = -1
        else:
            vote = 0
        self._votes = vote if vote * self._votes <= 0 else self._votes + vote

    def wish(self, samplers: int) -> int | None:
        """Another number of samplers, or None while things are well or not clear yet."""
        if samplers < self.least or samplers > self.most:
            return min(max(samplers, self.least), self.most)
        if abs(self._votes) < AGREEING_WINDOWS:
            return None
        step = max(1, samplers // 4)
        wish = min(max(samplers + (step if self._votes > 0 else -step), self.least), self.most)
        return wish if wish != samplers else None
