"""How long the environments of each stream take, while they are stepped: another thread may read it at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import sub
from time import perf_counter

from distrl.experience.fragment import Pace

LONG_STEP = 5.0  # seconds after which a single step is told


@dataclass(frozen=True)
class Look:
    """What a sampler is doing at one moment.

    Attributes:
        paces: Of each stream that is stepped, the step under way included.
        stream: Whose environments make a step right now; -1: nobody's.
        seconds: How long that step has taken so far.
    """

    paces: dict[int, Pace] = field(default_factory=dict)
    stream: int = -1
    seconds: float = 0.0

    def __str__(self) -> str:
        """Which stream takes the time.

        >>> str(Look({3: Pace(9.0, 1.5, 7), 4: Pace(0.1, 0.1, 6)}, 3, 0.5))
        'stream 3 has taken 9.0 s for 7 steps'
        """
        if not self.paces:
            return ""
        if self.seconds >= LONG_STEP:
            return f"a step of stream {self.stream} takes {self.seconds:.0f} s so far"
        slowest = max(self.paces, key=lambda stream: self.paces[stream].seconds)
        pace = self.paces[slowest]
        return f"stream {slowest} has taken {pace.seconds:.1f} s for {pace.steps} steps"


class StepClock:
    """Moments of the steps of streams that are stepped together, in turns.

    A turn is one moment when the first stream's environments begin their step, and one when each stream's are done.
    Whoever steps calls `tick` at each of them, and nothing else: sums are made when somebody asks.

    >>> clock = StepClock()
    >>> tick = clock.begin([4, 7])
    >>> tick(10.0); tick(10.5); tick(12.5)
    >>> clock.paces()[7]
    Pace(seconds=2.0, longest=2.0, steps=1)
    """

    def __init__(self) -> None:
        self.begin([])

    def begin(self, streams: Sequence[int]) -> Callable[[float], None]:
        """A fragment of each of these streams begins; returns `tick`, which takes what `perf_counter` says."""
        moments: list[float] = []
        self._now = tuple(streams), moments  # replaced at once, for another thread
        return moments.append

    def paces(self) -> dict[int, Pace]:
        """Of the steps that are done, by stream."""
        return _paces(*self._now)

    def look(self) -> Look:
        """This moment, the step under way included; another thread may ask."""
        streams, moments = self._now
        moments = list(moments)
        paces = _paces(streams, moments)
        place = len(moments) % (len(streams) + 1) - 1
        if place < 0:
            return Look(paces)
        took = perf_counter() - moments[-1]
        stream = streams[place]
        paces[stream] = paces[stream].joined(Pace(took, took, 1))
        return Look(paces, stream, took)


def _paces(streams: Sequence[int], moments: list[float]) -> dict[int, Pace]:
    width = len(streams) + 1
    paces = {}
    for place, stream in enumerate(streams):
        seconds = list(map(sub, moments[place + 1 :: width], moments[place::width]))
        paces[stream] = Pace(sum(seconds), max(seconds, default=0.0), len(seconds))
    return paces
