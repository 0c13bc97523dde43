"""Activity of a sampler, as a probe reads it while the sampler runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from distrl.experience.fragment import Pace

LONG_STEP = 5.0  # seconds after which a single step is reported


@dataclass(frozen=True)
class Activity:
    """Activity of a sampler at one moment."""

    paces: dict[int, Pace] = field(default_factory=dict)  # of each stream that is stepped, the current step included
    stream: int = -1  # the stream whose environments are making a step; -1: none
    seconds: float = 0.0  # duration of that step so far

    def __str__(self) -> str:
        """Describe the stream that takes the time.

        >>> str(Activity({3: Pace(9.0, 1.5, 7), 4: Pace(0.1, 0.1, 6)}, 3, 0.5))
        'stream 3 has taken 9.0 s for 7 steps'
        """
        if not self.paces:
            return ""
        if self.seconds >= LONG_STEP:
            return f"a step of stream {self.stream} takes {self.seconds:.0f} s so far"
        slowest = max(self.paces, key=lambda stream: self.paces[stream].seconds)
        pace = self.paces[slowest]
        return f"stream {slowest} has taken {pace.seconds:.1f} s for {pace.steps} steps"
