"""Current activity of a text sampler, readable from another thread."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from distrl.experience.activity import Activity


@dataclass(frozen=True)
class TextActivity(Activity):
    """A moment of a text sampler. No stream has a pace of its own where all are answered as one batch.

    Attributes:
        what: Activity, as words behind "it".
    """

    what: str = ""

    def __str__(self) -> str:
        """Return the time spent so far.

        >>> str(TextActivity(what="generates 64 answers", seconds=12.34))
        'it generates 64 answers for 12 s so far'
        """
        return f"it {self.what} for {self.seconds:.0f} s so far" if self.what else ""


class TextClock:
    """Notes what is begun.

    >>> clock = TextClock()
    >>> clock.begin("judges 8 answers")
    >>> clock.activity().what
    'judges 8 answers'
    """

    def __init__(self) -> None:
        self._now = "", perf_counter()  # replaced at once, for another thread

    def begin(self, what: str) -> None:
        """From now on this is done; an empty string: nothing."""
        self._now = what, perf_counter()

    def activity(self) -> TextActivity:
        """This moment."""
        what, since = self._now
        return TextActivity(seconds=perf_counter() - since, what=what)
