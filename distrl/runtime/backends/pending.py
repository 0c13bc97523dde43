"""Pending calls of Ray actors: `Order` with its deadline, and calls that block the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from distrl.base.errors import ResourceError
from distrl.experience.fragment import CollectRequest
from distrl.runtime.protocol.events import DataLost
from distrl.runtime.protocol.orders import Handle, Wait

SHOW_SECONDS = 1.0  # between two calls of `on_wait` during a blocking call
SCARCE_SECONDS = 12.0  # after which the resources for an actor that has not started are checked


@dataclass
class Order:
    """A pending call of an actor, with the facts for its event; times are monotonic."""

    kind: str  # `ready`, `collect`, `probe`, `update`, `peer`, `learner` or `eval`
    deadline: float
    sampler: int = -1
    requests: list[CollectRequest] = field(default_factory=list)
    refs: Handle = None
    env_steps: int = 0
    update: int = 0
    cause: str = ""  # known reason for a long wait
    began: float = field(default_factory=time.monotonic)

    @property
    def process(self) -> str:
        if self.kind in ("ready", "collect"):
            return f"sampler {self.sampler}"
        return {"eval": "evaluator", "peer": "learner's group"}.get(self.kind, "learner")

    @property
    def what(self) -> tuple[str, str]:
        """The kind of wait, and the order in words."""
        match self.kind:
            case "ready" | "learner":
                return "start", "its process starts"
            case "collect":
                units = [f"{request.unit.seq} of stream {request.unit.stream}" for request in self.requests]
                return "fragments", f"it makes fragments {', '.join(units)}"
            case "eval":
                return "evaluation", f"it evaluates version {self.update}"
        return "update", f"it makes update {self.update + 1}"


def data_lost(error: BaseException) -> bool:
    """Return True if a call was skipped because an argument was lost."""
    return isinstance(error.cause if isinstance(error, RayTaskError) else error, ObjectLostError)


class BlockingCalls:
    """Calls that the loop itself waits for; `on_wait` is called about once a second meanwhile."""

    def __init__(self, on_wait: Callable[[], None]):
        self.on_wait = on_wait
        self.wait: Wait | None = None  # the present call, for the status

    def get(self, refs: Handle, purpose: str, seconds: float, cause: Callable[[], str] = str) -> Any:
        """Return the objects of references; raise `DataLost` if they were lost with a node."""
        try:
            return self._get(refs, purpose, seconds, cause)
        except GetTimeoutError:
            cluster, free = ray.cluster_resources(), ray.available_resources()
            raise ResourceError(
                f"could not {purpose} within {seconds:.0f} s; the cluster has {cluster.get('CPU', 0):g} CPUs "
                f"({free.get('CPU', 0):g} free) and {cluster.get('GPU', 0):g} GPUs ({free.get('GPU', 0):g} free).",
                "Free resources, or ask for fewer (samplers.cpus, learner.processes).",
            ) from None
        except RayActorError as error:
            raise ResourceError(f"could not {purpose}: {str(error)[-1500:]}") from None
        except ObjectLostError as error:
            raise DataLost(f"could not {purpose}: lost with its node.", "Start again with --resume.") from error
        finally:
            self.wait = None

    def _get(self, refs: Handle, purpose: str, seconds: float, cause: Callable[[], str]) -> Any:
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            try:
                return ray.get(refs, timeout=min(SHOW_SECONDS, seconds))
            except GetTimeoutError:
                if waited >= seconds:
                    raise
            why = cause() if waited > SCARCE_SECONDS / 2 else ""
            self.wait = Wait("the run", "start", f"it waits to {purpose}", waited, seconds, why)
            self.on_wait()
