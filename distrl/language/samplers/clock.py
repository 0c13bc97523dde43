"""Current activity of a text sampler, readable from another thread."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from distrl.experience.activity import Activity


@dataclass(frozen=True)
class TextActivity(Activity):
    """Activity of a text sampler at one moment; streams that share a batch have no pace of their own."""

    what: str = ""  # words behind "it"

    def __str__(self) -> str:
        """Return the time spent so far.

        >>> str(TextActivity(what="generates 64 answers", seconds=12.34))
        'it generates 64 answers for 12 s so far'
        """
        return f"it {self.what} for {self.seconds:.0f} s so far" if self.what else ""


class TextClock:
    """Record of the current activity.

    >>> clock = TextClock()
    >>> clock.begin("verifies 8 answers")
    >>> clock.activity().what
    'verifies 8 answers'
    """

    def __init__(self) -> None:
        self._now = "", perf_counter()  # replaced at once, for another thread

    def begin(self, what: str) -> None:
        """Record the start of an activity; an empty string for none."""
        self._now = what, perf_counter()

    def activity(self) -> TextActivity:
        """Return the current activity."""
        what, since = self._now
        return TextActivity(seconds=perf_counter() - since, what=what)
