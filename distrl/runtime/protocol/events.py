"""What back ends tell the loop."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from distrl.base.errors import ResourceError, UserError
from distrl.control.learner.learner import Report
from distrl.deploy.evaluate import EvalResult
from distrl.experience.activity import Activity
from distrl.experience.fragment import CollectRequest, FragmentMeta
from distrl.store.replay.sharded import ShardLost


class DataLost(ResourceError):
    """What a handle stands for is gone with a machine."""


@dataclass
class Failure:
    """An exception that crossed a process border.

    Attributes:
        error: What to raise here.
        traceback: Where it happened, for bugs.
    """

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        text = traceback.format_exc()
        if isinstance(error, UserError | ShardLost):
            return cls(error, text)
        # Not every exception can be pickled, or means anything in another process: its text can.
        return cls(RuntimeError(f"{type(error).__name__}: {error}"), text)

    @classmethod
    def here(cls, error: Exception) -> Failure:
        """In this process the exception itself can be raised again."""
        return cls(error, traceback.format_exc())


@dataclass
class SamplerReady:
    """A sampler can take requests."""

    sampler: int
    pid: int
    node: str = ""


@dataclass
class Collected:
    """A sampler finished its requests."""

    sampler: int
    requests: list[CollectRequest]
    metas: list[FragmentMeta]
    data: list[Any]


@dataclass
class Probed:
    """What a sampler is doing in the middle of a call."""

    sampler: int
    activity: Activity


@dataclass
class SamplerLost:
    """A sampler died or hung; its requests will not be finished."""

    sampler: int
    requests: list[CollectRequest]
    reason: str
    hopeless: bool = False  # another one would have no better luck


@dataclass
class SamplerFailed:
    """An environment or policy raised in a sampler; the sampler itself is alive."""

    sampler: int
    requests: list[CollectRequest]
    failure: Failure


@dataclass
class Updated:
    """The learner published new weights."""

    report: Report
    weights: Any


@dataclass
class LearnerFailed:
    """The update raised; the learner's weights are those before it."""

    failure: Failure


@dataclass
class BatchLost:
    """Data of an update's batch is gone with a machine; the update was not made, the learner is alive."""


@dataclass
class LearnerLost:
    """The learner died or hung, or a part of it (a replay shard); an update under way was not made."""

    reason: str
    process: str = "learner"


@dataclass
class LearnerReady:
    """A learner that was built again stands."""

    pid: int


@dataclass
class Evaluated:
    """An evaluation ended."""

    env_steps: int
    update: int
    weights: Any
    result: EvalResult


@dataclass
class EvaluatorLost:
    """The evaluator died or hung; the evaluation can be ordered again."""

    env_steps: int
    update: int
    weights: Any
    reason: str


@dataclass
class EvalFailed:
    """An evaluation raised."""

    failure: Failure


Event = (
    SamplerReady
    | Collected
    | Probed
    | SamplerLost
    | SamplerFailed
    | Updated
    | LearnerFailed
    | BatchLost
    | LearnerLost
    | LearnerReady
    | Evaluated
    | EvaluatorLost
    | EvalFailed
)
