"""Values that the loop and its backends exchange with orders: updates, recovery points, pending orders.

Imports no torch: the command line reads these names too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from distrl.learning.learner_base import Progress

#: Weights or data of a fragment: the object itself on the serial backend, an object reference on Ray.
Handle: TypeAlias = Any

#: Reasons for the end of a run that a command ended.
STOP = "stop command"
STOP_NOW = "stop --now command"


@dataclass
class UpdateOrder:
    """An update and everything needed to repeat it."""

    data: Sequence[Handle]
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
    state: object = None
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


@dataclass(frozen=True)
class LearnerCall:
    """A call of a learner's method between updates.

    Attributes:
        purpose: For messages: `could not PURPOSE`.
        seconds: Deadline; 0 where the answer is not awaited.
        everywhere: Called in all processes of the learner instead of the first one.
    """

    purpose: str
    seconds: float
    everywhere: bool = False


START_SECONDS = 180.0  # importing torch takes seconds, not minutes: an actor that is not up by then has failed
REPLAY_SECONDS = 3600.0  # the disk may take minutes for a large replay
#: Method of a learner -> its call; see `Backend.ask_learner`.
LEARNER_CALLS = {
    "state": LearnerCall("read the learner's state", START_SECONDS),
    "load_state": LearnerCall("restore the learner", START_SECONDS, everywhere=True),
    "warm_start": LearnerCall("load the first weights", START_SECONDS, everywhere=True),
    "save_files": LearnerCall("write the replay", REPLAY_SECONDS),
    "load_files": LearnerCall("restore the replay", REPLAY_SECONDS),
    "files_saved": LearnerCall("keep the replay's files", 0.0),
}
