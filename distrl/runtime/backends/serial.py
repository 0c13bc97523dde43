"""Serial backend: one process, one order at a time, without Ray; breakpoints work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from traceback import format_exc
from typing import Any

import torch

from distrl.base.pack import State
from distrl.base.phases import Phases
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.models.parameters.published import load_weights
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol import events as ev
from distrl.runtime.protocol.events import Event, Failure
from distrl.runtime.protocol.orders import LEARNER_CALLS, Handle, RecoveryPoint, UpdateOrder, Wait


class SerialBackend:
    """One sampler (`samplers.count` is ignored), one learner and one evaluator, in turn."""

    concurrent = False
    prefetches = False
    recovers = False

    def __init__(self, plan: Plan, phases: Phases):
        self.plan = plan
        self._threads = 0
        self._use_threads(plan.config.learner.threads)
        self.phases = phases
        self.on_wait: Callable[[], None] = lambda: None
        self.learner = plan.build_learner(phases=phases)
        self.check = plan.schema_check()
        # Without staleness a fragment is consumed before the next one is collected.
        reuse = plan.config.store.max_staleness == 0
        self.sampler = plan.build_sampler(0, reuse_buffers=reuse, phases=phases)
        self.evaluator = plan.build_evaluator()
        self.eval_model: torch.nn.Module | None = None
        self._tasks: deque[Callable[[], Event]] = deque()

    def start(self, samplers: int) -> None:
        self._tasks.append(lambda: ev.SamplerReady(0, 0))

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Weights) -> None:
        def task() -> Event:
            self._use_threads(self.plan.config.samplers.threads)
            try:
                fragments = self.sampler.collect(requests, weights)
            except Exception as error:
                return ev.SamplerFailed(sampler, requests, Failure(error, format_exc()))
            return ev.Collected(sampler, requests, [meta for meta, _ in fragments], [data for _, data in fragments])

        self._tasks.append(task)

    def probe(self, sampler: int) -> None:
        """Do nothing: this process is busy during a call."""

    def update(self, data: Sequence[FragmentData], progress: Progress) -> None:
        def task() -> Event:
            self._use_threads(self.plan.config.learner.threads)
            try:
                self.check(data)
                return ev.Updated(*self.learner.update(data, progress))
            except Exception as error:
                return ev.LearnerFailed(Failure(error, format_exc()))

        self._tasks.appendleft(task)  # before sampling, so that the next fragments are fresher

    def stage(self, units: Sequence[Unit], data: Sequence[FragmentData]) -> None:
        self.learner.stage(units, data)

    def evaluate(self, weights: Weights, env_steps: int, update: int) -> None:
        def task() -> Event:
            settings = self.plan.config.eval
            with self.phases("eval"):
                try:
                    if self.eval_model is None:
                        self.eval_model = self.plan.build_acting_model().eval()
                    load_weights(self.eval_model, weights)
                    result = self.evaluator.evaluate(self.eval_model, settings.episodes, settings.deterministic)
                except Exception as error:
                    return ev.EvalFailed(Failure(error, format_exc()))
            return ev.Evaluated(env_steps, update, weights, result)

        self._tasks.appendleft(task)

    def _use_threads(self, threads: int) -> None:
        """Set the thread count of the component that runs next, as in a separate process."""
        if threads != self._threads:
            set_threads(threads)
            self._threads = threads

    def wait(self, timeout: float) -> list[Event]:
        return [self._tasks.popleft()()] if self._tasks else []

    def busy(self) -> bool:
        return bool(self._tasks)

    def replace_sampler(self, sampler: int) -> None:
        self._tasks.append(lambda: ev.SamplerReady(0, 0))

    def end_sampler(self, sampler: int) -> None:
        """Do nothing: the one sampler stays."""

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        self.sampler.drop(streams)

    def ask_learner(self, method: str, *args: object) -> Any:
        assert method in LEARNER_CALLS
        return getattr(self.learner, method)(*args)

    def publish(self, version: int) -> Weights:
        return self.learner.weights(version)

    def keep_state(self) -> Handle:
        return None

    def kept_state(self, handle: Handle) -> tuple[float, State] | None:
        return None

    def rebuild_learner(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> dict[int, Handle]:
        raise RuntimeError("a learner in this process does not die alone")

    def put(self, value: Weights | FragmentData) -> Handle:
        return value

    def fetch(self, handle: Handle) -> Any:
        return handle

    def intact(self, handle: Handle) -> bool:
        return True

    def gone(self, data: Sequence[Handle]) -> list[bool]:
        return [False] * len(data)

    def waits(self) -> list[Wait]:
        return []

    def nodes(self) -> dict[str, str]:
        return {}

    def head(self) -> str | None:
        return None

    def store_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        self.sampler.close()
