"""Values of orders: updates, recovery points, pending orders, calls of the learner.

Imports no torch: the command line reads these names too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distrl.base.pack import State

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
    """A learner state after `version` updates, from which a rebuilt learner starts."""

    version: int
    state: State = None  # packed; None if it is in `folder`
    folder: Path | None = None  # a checkpoint with state and replay


@dataclass(frozen=True)
class Wait:
    """An unanswered order."""

    process: str  # `sampler 3`, `learner`, `evaluator` ...
    kind: str  # `start`, `fragments`, `update` or `evaluation`
    what: str  # the order in words
    seconds: float  # since the order
    limit: float
    cause: str = ""  # the known reason for a long wait

    def __str__(self) -> str:
        why = f" ({self.cause})" if self.cause else ""
        return f"{self.process}: {self.what} for {self.seconds:.0f} s of {self.limit:.0f} s{why}"


@dataclass(frozen=True)
class LearnerCall:
    """A call of a learner's method between updates."""

    purpose: str  # for messages: `could not PURPOSE`
    seconds: float  # deadline; 0 if the answer is not awaited
    everywhere: bool = False  # in all processes of the learner instead of the first one


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
