"""Back end `serial`: everything in this process, one thing at a time. Breakpoints work; no ray is imported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distrl.base.phases import Phases
from distrl.control.learner.learner import Progress
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.models.parameters.published import load_weights
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.events import (
    Collected,
    EvalFailed,
    Evaluated,
    Event,
    Failure,
    LearnerFailed,
    SamplerFailed,
    SamplerReady,
    Updated,
)
from distrl.runtime.protocol.orders import Wait


class SerialBackend:
    """One sampler that hosts every stream, one learner, one evaluator, in turn.

    Whatever `samplers.count` says, one sampler does the work: where streams live changes no result.
    """

    concurrent = False
    prefetches = False
    recovers = False  # with the learner everything dies

    def __init__(self, plan: Plan, phases: Phases):
        self.plan = plan
        self._threads = 0
        self._use_threads(plan.config.learner.threads)
        self.phases = phases
        self.on_wait: Callable[[], None] = lambda: None
        self.learner = plan.build_learner(phases=phases)
        # A fragment is learned from before the next is made, unless fragments may wait.
        reuse = plan.config.store.max_staleness == 0
        self.sampler = plan.build_sampler(0, reuse_buffers=reuse, phases=phases)
        self.evaluator = plan.build_evaluator()
        self.eval_model: Any = None
        self._tasks: deque[Callable[[], Event]] = deque()

    def start(self, samplers: int) -> None:
        self._tasks.append(lambda: SamplerReady(0, 0))

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Weights) -> None:
        def task() -> Event:
            self._use_threads(self.plan.config.samplers.threads)
            try:
                fragments = self.sampler.collect(requests, weights)
            except Exception as error:
                return SamplerFailed(sampler, requests, Failure.here(error))
            return Collected(sampler, requests, [meta for meta, _ in fragments], [data for _, data in fragments])

        self._tasks.append(task)

    def probe(self, sampler: int) -> None:
        """Nobody can look while this process is at work."""

    def update(self, data: Sequence[FragmentData], progress: Progress) -> None:
        def task() -> Event:
            self._use_threads(self.plan.config.learner.threads)
            try:
                return Updated(*self.learner.update(data, progress))
            except Exception as error:
                return LearnerFailed(Failure.here(error))

        self._tasks.appendleft(task)  # learning comes first: what is sampled next is then as fresh as can be

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
                    return EvalFailed(Failure.here(error))
            return Evaluated(env_steps, update, weights, result)

        self._tasks.appendleft(task)

    def _use_threads(self, threads: int) -> None:
        """Each part computes with its own number of threads, as it would in a process of its own."""
        if threads != self._threads:
            set_threads(threads)
            self._threads = threads

    def wait(self, timeout: float) -> list[Event]:
        return [self._tasks.popleft()()] if self._tasks else []

    def busy(self) -> bool:
        return bool(self._tasks)

    def replace_sampler(self, sampler: int) -> None:
        self._tasks.append(lambda: SamplerReady(0, 0))

    def end_sampler(self, sampler: int) -> None:
        """There is one sampler, and it stays."""

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        self.sampler.drop(streams)

    def learner_state(self) -> dict[str, Any]:
        return self.learner.state()

    def keep_state(self) -> Any:
        return None

    def kept_state(self, handle: Any) -> tuple[float, Any] | None:
        return None

    def unpacked(self, state: Any) -> dict[str, Any]:
        return state

    def rebuild_learner(self, base: Any, updates: Sequence[Any]) -> dict[int, Any]:
        raise RuntimeError("a learner in this process does not die alone")

    def intact(self, handle: Any) -> bool:
        return True

    def gone(self, data: Sequence[Any]) -> list[bool]:
        return [False] * len(data)

    def load_learner(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state)

    def save_replay(self, folder: Path) -> None:
        self.learner.save_files(folder)

    def replay_saved(self, folder: Path) -> None:
        self.learner.files_saved(folder)

    def load_replay(self, folder: Path) -> None:
        self.learner.load_files(folder)

    def warm_start(self, weights: Weights) -> None:
        self.learner.warm_start(weights)

    def publish(self, version: int) -> Weights:
        return self.learner.weights(version)

    def put_weights(self, weights: Weights) -> Weights:
        return weights

    def put_data(self, data: FragmentData) -> FragmentData:
        return data

    def fetch(self, handle: Any) -> Any:
        return handle

    def waits(self) -> list[Wait]:
        return []  # one thing at a time: whoever could look is at work

    def nodes(self) -> dict[str, str]:
        return {}

    def head(self) -> str | None:
        return None

    def store_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        self.sampler.close()
