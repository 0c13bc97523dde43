"""Streams that are far slower than the others: found, named, and set apart, so that they hold up nobody.

Samplers step their streams together, so a slow one takes its siblings' time. It is found from times that samplers
measure, also in the middle of its first fragment. A step that takes long now and then is no slow stream: a reset, or
a hung environment, which `samplers.timeout` ends.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from distrl.experience.fragment import FragmentMeta, Pace
from distrl.runtime.protocol.events import Probed

SLOW_FACTOR = 8.0  # times as long a step as the median of all streams
SLOW_SECONDS = 3.0  # that it has taken beyond the others' time, in fragments that follow each other
QUICK_FRAGMENTS = 3  # in a row, until a slow stream counts as any other
LOOK_SECONDS = 1.0  # a call that takes longer is looked at about as often


class SlowStreams:
    """Watches the pace of every stream.

    Args:
        loop: The loop whose samplers these are.
    """

    def __init__(self, loop: Any):
        self.loop = loop
        self.slow: dict[int, tuple[float, float]] = {}  # stream -> seconds a step, its own and the median
        self._usual: dict[int, float] = {}  # stream -> seconds a step, of its newest fragment
        self._slowly: dict[int, Pace] = {}  # stream -> its newest fragments, as long as each was slow
        self._quick: dict[int, int] = {}  # slow stream -> quick fragments in a row
        self._probed_at = 0.0

    def turn(self) -> None:
        """Ask samplers what they do in calls that take long."""
        now = time.monotonic()
        if now - self._probed_at < LOOK_SECONDS:
            return
        self._probed_at = now
        for slot in self.loop.pool.slots:
            if slot.busy and now - slot.busy_since >= LOOK_SECONDS:
                self.loop.backend.probe(slot.index)

    def probed(self, event: Probed) -> None:
        """Fragments are under way."""
        for stream, pace in event.activity.paces.items():
            if pace.steps > 1:
                self._usual[stream] = pace.per_step
        median = self._median()
        slot = self.loop.pool.slots[event.sampler]
        making = {unit.stream for unit in slot.making}
        for stream, pace in event.activity.paces.items():
            if stream in making and _is_slow(pace, median):
                self._judge(stream, self._slowly.get(stream, Pace()).joined(pace), median)

    def finished(self, metas: Sequence[FragmentMeta]) -> None:
        """Fragments are whole."""
        for meta in metas:
            if meta.pace.steps:
                self._usual[meta.unit.stream] = meta.pace.per_step
        median = self._median()
        for meta in metas:
            if meta.pace.steps:
                self._finished(meta.unit.stream, meta.pace, median)

    def problem(self) -> str:
        """What to tell while there are slow streams."""
        apart = self.loop.pool.isolated()
        texts = []
        for stream, (own, median) in sorted(self.slow.items()):
            home = f"sampler {self.loop.pool.sampler_of(stream)}"
            place = f"{home} is its own" if stream in apart else f"it lives in {home}"
            texts.append(f"stream {stream} is slow: {own:.3g} s a step, the median is {median:.3g} s; {place}")
        return "; ".join(texts)

    def _finished(self, stream: int, pace: Pace, median: float) -> None:
        if _is_slow(pace, median):
            self._quick.pop(stream, None)
            self._slowly[stream] = self._slowly.get(stream, Pace()).joined(pace)
            self._judge(stream, self._slowly[stream], median)
            return
        self._slowly.pop(stream, None)
        if stream in self.slow:
            self._quick[stream] = self._quick.get(stream, 0) + 1
            if self._quick[stream] >= QUICK_FRAGMENTS:
                self._over(stream)

    def _median(self) -> float:
        """Seconds of a usual step; of two streams the quicker one's."""
        return statistics.median_low(self._usual.values()) if self._usual else 0.0

    def _judge(self, stream: int, pace: Pace, median: float) -> None:
        """A stream has been slow for a while: long enough?"""
        beyond = pace.seconds - pace.longest - (pace.steps - 1) * median
        if pace.per_step <= SLOW_FACTOR * median or beyond < SLOW_SECONDS:
            return
        new = stream not in self.slow
        self.slow[stream] = pace.per_step, median
        if new:
            sampler = self.loop.pool.sampler_of(stream)
            times = {"s_per_step": pace.per_step, "median_s_per_step": median, "measured_steps": pace.steps}
            self.loop.monitor.event("slow", stream=stream, sampler=sampler, **times)
        self.loop.elastic.isolate(stream)

    def _over(self, stream: int) -> None:
        own = self._usual[stream]
        del self.slow[stream], self._quick[stream]
        self.loop.monitor.event("slow_over", stream=stream, s_per_step=own)
        self.loop.elastic.release(stream)


def _is_slow(pace: Pace, median: float) -> bool:
    return pace.seconds > SLOW_FACTOR * median * pace.steps > 0.0
