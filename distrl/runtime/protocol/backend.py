"""Interface of a backend: where samplers, learner and evaluator run.

The loop sends orders and waits for events; it never touches data, only handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distrl.base.pack import State
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.runtime.protocol.events import Event
from distrl.runtime.protocol.orders import Handle, RecoveryPoint, UpdateOrder, Wait


class Backend(Protocol):
    """Executes the loop's orders; each order says which events answer it."""

    concurrent: bool  # samplers, learner and evaluator run at the same time
    prefetches: bool  # moving the next batch to the learner's device during an update pays off
    recovers: bool  # the learner can die alone and be rebuilt
    on_wait: Callable[[], None]  # called about once a second while a call of the backend blocks

    def start(self, samplers: int) -> None:
        """Start the learner and the samplers; each sampler reports `SamplerReady`."""

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Handle) -> None:
        """Order fragments; answered by `Collected`, `SamplerFailed` or `SamplerLost`."""

    def probe(self, sampler: int) -> None:
        """Request the progress of a running call; answered by `Probed` or not at all."""

    def update(self, data: Sequence[Handle], progress: Progress) -> None:
        """Order an update; answered by `Updated`, `LearnerFailed`, `BatchLost` or `LearnerLost`."""

    def stage(self, units: Sequence[Unit], data: Sequence[Handle]) -> None:
        """Prefetch the batch that will probably come next, if `prefetches`; not answered."""

    def evaluate(self, weights: Handle, env_steps: int, update: int) -> None:
        """Order an evaluation; answered by `Evaluated`, `EvalFailed` or `EvaluatorLost`."""

    def replace_sampler(self, sampler: int) -> None:
        """Start a sampler's process, replacing a lost one; answered by `SamplerReady`."""

    def end_sampler(self, sampler: int) -> None:
        """End a sampler's process and forget its orders."""

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        """Let a sampler drop reassigned streams after its present orders; not answered."""

    def wait(self, timeout: float) -> list[Event]:
        """Return the events since the last call; wait up to `timeout` seconds for the first one."""

    def keep_state(self) -> Handle:
        """Request the learner's state after the updates ordered so far; return a handle at once."""

    def kept_state(self, handle: Handle) -> tuple[float, State] | None:
        """Return the learner's seconds for it and the packed state; None until it has arrived."""

    def rebuild_learner(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> dict[int, Handle]:
        """Start a learner that repeats `updates`, answered by `LearnerReady`; return its weights."""

    def ask_learner(self, method: str, *args: object) -> Any: ...  # a method of `LEARNER_CALLS`
    def publish(self, version: int) -> Handle: ...  # of the learner's present weights

    def put(self, value: Weights | FragmentData) -> Handle: ...
    def fetch(self, handle: Handle) -> Any: ...  # raises `DataLost`
    def intact(self, handle: Handle) -> bool: ...
    def gone(self, data: Sequence[Handle]) -> list[bool]: ...  # True for data lost with a node
    def busy(self) -> bool: ...  # an order is unanswered
    def waits(self) -> list[Wait]: ...  # unanswered orders
    def nodes(self) -> dict[str, str]: ...  # living ones: id -> address
    def head(self) -> str | None: ...  # address of a remote cluster's head
    def store_bytes(self) -> int | None: ...  # size of the object store
    def close(self) -> None: ...  # end every process that this backend started
