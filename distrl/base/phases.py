"""Exclusive phase timers of a process.

Exactly one phase runs at any moment, so the seconds of all phases add up to the wall time; unnamed time is `other`. A
nested phase pauses the outer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Phases:
    """Seconds spent per phase.

    >>> phases = Phases()
    >>> with phases("learn"):
    ...     with phases("publish"):
    ...         pass
    >>> sorted(phases.read())
    ['learn', 'other', 'publish']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {"other": 0.0}
        self._current = "other"
        self._since = perf_counter()

    def switch(self, name: str) -> str:
        """End the running phase and start `name`, cheaply for inner loops; returns the ended phase."""
        now = perf_counter()
        self._seconds[self._current] = self._seconds.get(self._current, 0.0) + now - self._since
        previous, self._current, self._since = self._current, name, now
        return previous

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        previous = self.switch(name)
        try:
            yield
        finally:
            self.switch(previous)

    def add(self, seconds: dict[str, float]) -> None:
        """Add time that was measured elsewhere in this process."""
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """Return seconds per phase since the start or the last `reset`."""
        self.switch(self._current)
        return dict(self._seconds)

    def reset(self) -> dict[str, float]:
        """Read, then restart at zero."""
        seconds = self.read()
        self._seconds = {"other": 0.0}
        return seconds
