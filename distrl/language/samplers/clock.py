"""What a text sampler is doing right now: another thread may ask at any time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from distrl.control.samplers.clock import Look


@dataclass(frozen=True)
class TextLook(Look):
    """A moment of a text sampler. No stream has a pace of its own where all are answered as one batch.

    Attributes:
        what: What is done, as words behind "it".
    """

    what: str = ""

    def __str__(self) -> str:
        """How long it takes so far.

        >>> str(TextLook(what="generates 64 answers", seconds=12.34))
        'it generates 64 answers for 12 s so far'
        """
        return f"it {self.what} for {self.seconds:.0f} s so far" if self.what else ""


class TextClock:
    """Notes what is begun.

    >>> clock = TextClock()
    >>> clock.begin("judges 8 answers")
    >>> clock.look().what
    'judges 8 answers'
    """

    def __init__(self) -> None:
        self._now = "", perf_counter()  # replaced at once, for another thread

    def begin(self, what: str) -> None:
        """From now on this is done; an empty string: nothing."""
        self._now = what, perf_counter()

    def look(self) -> TextLook:
        """This moment."""
        what, since = self._now
        return TextLook(seconds=perf_counter() - since, what=what)
