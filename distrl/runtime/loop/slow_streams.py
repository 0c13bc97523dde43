"""Detects streams that are far slower than the others, and isolates them.

A sampler steps its streams together, so a slow one takes its siblings' time. Single long steps do not count: a reset,
or a hung environment, which `samplers.timeout` ends.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from distrl.experience.fragment import FragmentMeta, Pace
from distrl.runtime.loop.elastic import Elastic
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.events import Probed

SLOW_FACTOR = 8.0  # a slow stream's step time over the median of all streams
SLOW_SECONDS = 3.0  # time beyond the others' in successive fragments before a stream counts as slow
QUICK_FRAGMENTS = 3  # in a row, until a slow stream counts as normal again
PROBE_SECONDS = 1.0  # longer calls are probed about this often


class SlowStreams:
    """Watches the pace of every stream."""

    def __init__(self, state: RunState, services: Services, elastic: Elastic):
        self.pool, self.backend, self.monitor = state.pool, services.backend, services.monitor
        self.elastic = elastic
        self.slow: dict[int, tuple[float, float]] = {}  # stream -> its own and the median seconds per step
        self._usual: dict[int, float] = {}  # stream -> seconds per step in its newest fragment
        self._slowly: dict[int, Pace] = {}  # stream -> pace over its newest fragments while all of them are slow
        self._quick: dict[int, int] = {}  # slow stream -> quick fragments in a row
        self._probed_at = 0.0

    def poll(self) -> None:
        """Probe samplers whose calls take long."""
        now = time.monotonic()
        if now - self._probed_at < PROBE_SECONDS:
            return
        self._probed_at = now
        for slot in self.pool.slots:
            if slot.busy and now - slot.busy_since >= PROBE_SECONDS:
                self.backend.probe(slot.index)

    def probed(self, event: Probed) -> None:
        for stream, pace in event.activity.paces.items():
            if pace.steps > 1:
                self._usual[stream] = pace.per_step
        median = self._median()
        making = {unit.stream for unit in self.pool.slots[event.sampler].making}
        for stream, pace in event.activity.paces.items():
            if stream in making and _is_slow(pace, median):
                self._check_pace(stream, self._slowly.get(stream, Pace()).joined(pace), median)

    def finished(self, metas: Sequence[FragmentMeta]) -> None:
        for meta in metas:
            if meta.pace.steps:
                self._usual[meta.unit.stream] = meta.pace.per_step
        median = self._median()
        for meta in metas:
            stream, pace = meta.unit.stream, meta.pace
            if _is_slow(pace, median):
                self._quick.pop(stream, None)
                self._slowly[stream] = self._slowly.get(stream, Pace()).joined(pace)
                self._check_pace(stream, self._slowly[stream], median)
            elif pace.steps:
                self._slowly.pop(stream, None)
                if stream in self.slow:
                    self._count_quick(stream)

    def problem(self) -> str:
        """Describe the slow streams, or return an empty string."""
        isolated = self.pool.isolated()
        texts = []
        for stream, (own, median) in sorted(self.slow.items()):
            sampler = f"sampler {self.pool.sampler_of(stream)}"
            place = f"alone in {sampler}" if stream in isolated else f"in {sampler} with others"
            texts.append(f"stream {stream} is slow: {own:.3g} s a step, the median is {median:.3g} s; {place}")
        return "; ".join(texts)

    def _count_quick(self, stream: int) -> None:
        """End the isolation of a slow stream after several quick fragments in a row."""
        self._quick[stream] = self._quick.get(stream, 0) + 1
        if self._quick[stream] >= QUICK_FRAGMENTS:
            del self.slow[stream], self._quick[stream]
            self.monitor.event("slow_over", stream=stream, s_per_step=self._usual[stream])
            self.elastic.release(stream)

    def _median(self) -> float:
        """Return the median seconds per step; of two streams the quicker one's."""
        return statistics.median_low(self._usual.values()) if self._usual else 0.0

    def _check_pace(self, stream: int, pace: Pace, median: float) -> None:
        """Report and isolate a stream once it has been slow for long enough."""
        beyond = pace.seconds - pace.longest - (pace.steps - 1) * median
        if pace.per_step <= SLOW_FACTOR * median or beyond < SLOW_SECONDS:
            return
        new = stream not in self.slow
        self.slow[stream] = pace.per_step, median
        if new:
            sampler = self.pool.sampler_of(stream)
            times = {"s_per_step": pace.per_step, "median_s_per_step": median, "measured_steps": pace.steps}
            self.monitor.event("slow", stream=stream, sampler=sampler, **times)
        self.elastic.isolate(stream)


def _is_slow(pace: Pace, median: float) -> bool:
    return pace.seconds > SLOW_FACTOR * median * pace.steps > 0.0
