"""Values that the loop and its backends exchange with orders: updates, recovery points, pending orders.

Imports no torch: the command line reads these names too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distrl.control.learner.learner import Progress

#: Reasons for the end of a run that a command ended.
STOP = "stop command"
STOP_NOW = "stop --now command"


@dataclass
class UpdateOrder:
    """An update and everything needed to repeat it."""

    data: Sequence[Any]
    progress: Progress
    nbytes: int = 0


@dataclass(frozen=True)
class RecoveryPoint:
    """A learner state that a rebuilt learner starts from.

    Attributes:
        version: Number of updates in it.
        state: The packed state; None if it is in `folder`.
        folder: A checkpoint with state and replay; None without a replay, or if it is empty.
    """

    version: int
    state: Any = None
    folder: Path | None = None


@dataclass(frozen=True)
class Wait:
    """An unanswered order.

    Attributes:
        process: `sampler 3`, `learner`, `evaluator` ...
        kind: `start`, `fragments`, `update` or `evaluation`.
        what: The order in words.
        seconds, limit: Time since the order, and its deadline.
        cause: The known reason for a long wait, or an empty string.
    """

    process: str
    kind: str
    what: str
    seconds: float
    limit: float
    cause: str = ""

    def __str__(self) -> str:
        why = f" ({self.cause})" if self.cause else ""
        return f"{self.process}: {self.what} for {self.seconds:.0f} s of {self.limit:.0f} s{why}"
