"""Events: answers of a backend to the loop's orders."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from distrl.base.errors import ResourceError, UserError
from distrl.deploy.evaluate import EvalResult
from distrl.experience.activity import Activity
from distrl.experience.fragment import CollectRequest, FragmentMeta
from distrl.learning.learner_base import Report
from distrl.runtime.protocol.orders import Handle
from distrl.store.replay.sharded import ShardLost


class DataLost(ResourceError):
    """The object of a handle was lost with a node."""


@dataclass
class Failure:
    """An exception from another process, with its traceback there."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        text = traceback.format_exc()
        if isinstance(error, UserError | ShardLost):
            return cls(error, text)
        # Other exceptions may not be picklable, or have no meaning in another process.
        return cls(RuntimeError(f"{type(error).__name__}: {error}"), text)


class Event:
    """An answer of a backend."""


@dataclass
class SamplerReady(Event):
    sampler: int
    pid: int
    node: str = ""


@dataclass
class Collected(Event):
    sampler: int
    requests: list[CollectRequest]
    metas: list[FragmentMeta]
    data: list[Handle]


@dataclass
class Probed(Event):
    """Progress of a sampler's running call."""

    sampler: int
    activity: Activity


@dataclass
class SamplerLost(Event):
    """A sampler that died or hung; `hopeless`: a new one would fail as well."""

    sampler: int
    requests: list[CollectRequest]
    reason: str
    hopeless: bool = False


@dataclass
class SamplerFailed(Event):
    """An exception of an environment or policy in a sampler, which is still alive."""

    sampler: int
    requests: list[CollectRequest]
    failure: Failure


@dataclass
class Updated(Event):
    report: Report
    weights: Handle


@dataclass
class LearnerFailed(Event):
    """An exception of an update; the learner's weights are those before it."""

    failure: Failure


@dataclass
class BatchLost(Event):
    """An update that was not made because data of its batch was lost with a node."""


@dataclass
class LearnerLost(Event):
    """A learner, or one of its processes, that died or hung; a running update was not made."""

    reason: str
    process: str = "learner"


@dataclass
class LearnerReady(Event):
    pid: int


@dataclass
class Evaluated(Event):
    env_steps: int
    update: int
    weights: Handle
    result: EvalResult


@dataclass
class EvaluatorLost(Event):
    """An evaluator that died or hung; the evaluation can be ordered again."""

    env_steps: int
    update: int
    weights: Handle
    reason: str


@dataclass
class EvalFailed(Event):
    failure: Failure
