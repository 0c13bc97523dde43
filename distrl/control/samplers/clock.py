"""Clock of the steps of each stream, readable from another thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import sub
from time import perf_counter

from distrl.experience.activity import Activity
from distrl.experience.fragment import Pace


class StepClock:
    """Times of the steps of streams that are stepped together, in turns.

    A turn has one time for its begin and one for the end of each stream's step, appended by `tick`.

    >>> clock = StepClock()
    >>> tick = clock.begin([4, 7])
    >>> tick(10.0); tick(10.5); tick(12.5)
    >>> clock.paces()[7]
    Pace(seconds=2.0, longest=2.0, steps=1)
    """

    def __init__(self) -> None:
        self.begin([])

    def begin(self, streams: Sequence[int]) -> Callable[[float], None]:
        """Begin a fragment of each stream; returns `tick`, which takes a value of `perf_counter`."""
        times: list[float] = []
        self._now = tuple(streams), times  # replaced at once, for another thread
        return times.append

    def paces(self) -> dict[int, Pace]:
        """Return the pace of the completed steps of each stream."""
        return _paces(*self._now)

    def activity(self) -> Activity:
        """Return the present activity, the current step included; callable from another thread."""
        streams, times = self._now
        times = list(times)
        paces = _paces(streams, times)
        position = len(times) % (len(streams) + 1) - 1
        if position < 0:
            return Activity(paces)
        elapsed = perf_counter() - times[-1]
        stream = streams[position]
        paces[stream] = paces[stream].joined(Pace(elapsed, elapsed, 1))
        return Activity(paces, stream, elapsed)


def _paces(streams: Sequence[int], times: list[float]) -> dict[int, Pace]:
    width = len(streams) + 1
    paces = {}
    for position, stream in enumerate(streams):
        seconds = list(map(sub, times[position + 1 :: width], times[position::width]))
        paces[stream] = Pace(sum(seconds), max(seconds, default=0.0), len(seconds))
    return paces
