"""The Ray actors: thin shells around the same classes that run in-process.

Exceptions come back as values (`Failure`), so that the loop tells an environment that raised from an actor that died.
Results are direct returns of calls that the loop made: what an actor `ray.put`s would die with it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from distrl.control.learner.learner import Progress
from distrl.experience.activity import Activity
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.process_group import GroupShards, join_group, leave_group
from distrl.learning.shards import Shards
from distrl.models.parameters.published import load_weights
from distrl.runtime.backends.learner_host import LearnerHost
from distrl.runtime.backends.replay_actors import RemoteShard
from distrl.runtime.backends.stacks import SUSPICIOUS_SECONDS, Stacks
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan, pick_device
from distrl.runtime.protocol.events import Failure


class SamplerActor:
    """Hosts an `EnvSampler`."""

    def __init__(self, plan: Plan, index: int):
        plan.enter_process()
        set_threads(plan.config.samplers.threads)
        # A returned fragment has been copied to shared memory before the next call begins, so buffers can be reused.
        self.sampler = plan.build_sampler(index, reuse_buffers=True)
        seconds = min(SUSPICIOUS_SECONDS, plan.config.samplers.timeout / 2)
        self.stacks = Stacks(plan.folder, f"sampler {index}", seconds)
        self.sampler.phases.switch("wait")
        self.sampler.phases.reset()  # what came before was the start, which is the loop's phase

    def ready(self) -> tuple[int, str]:
        """Process id and node, once the sampler stands."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def collect(self, requests: list[CollectRequest], weights: Weights) -> tuple[Any, ...]:
        """Metas first, then one return value per fragment, so that data and metas travel apart."""
        try:
            with self.stacks.watch():
                fragments = self.sampler.collect(requests, weights)
        except Exception as error:
            return (Failure.of(error), *([None] * len(requests)))
        return ([meta for meta, _ in fragments], *(data for _, data in fragments))

    def probe(self) -> Activity:
        """What `collect` is doing right now. Runs beside it, in a thread of its own."""
        return self.sampler.clock.activity()

    def drop(self, streams: list[int]) -> None:
        """Streams that live elsewhere now."""
        self.sampler.drop(streams)


class LearnerActor:
    """Hosts a `Learner`, alone or as one process of a data-parallel group."""

    def __init__(self, plan: Plan, rank: int, rendezvous: str, replay_shards: Sequence[Any] = ()):
        import torch

        plan.enter_process()
        config = plan.config.learner
        set_threads(config.threads)
        shards: Shards | None = None
        if config.processes > 1:
            join_group(rendezvous, rank, config.processes, torch.device(pick_device(config.device)))
            shards = GroupShards(config.shards, rank, config.processes)
        handles = [RemoteShard(actor) for actor in replay_shards]
        self.learner = plan.build_learner(shards=shards, replay_shards=handles)
        self.host = LearnerHost(self.learner)
        self.stacks = Stacks(plan.folder, f"learner {rank}")
        self.learner.phases.switch("wait")
        self.learner.phases.reset()

    def ready(self) -> int:
        return os.getpid()

    def update(self, progress: Progress, *fragments: FragmentData) -> tuple[Any, Any]:
        """Report and weights."""
        with self.stacks.watch():
            return self.host.update(progress, *fragments)

    def keep(self) -> tuple[float, Any]:
        return self.host.keep()

    def recover(self, version: int, packed: Any, folder: str | None) -> None:
        self.host.recover(version, packed, folder)

    def make_again(self, progress: Progress, *fragments: FragmentData) -> Any:
        return self.host.make_again(progress, *fragments)

    def stage(self, units: list[Unit], *fragments: FragmentData) -> None:
        self.learner.stage(units, fragments)

    def publish(self, version: int) -> Weights:
        return self.learner.weights(version)

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state)

    def save_replay(self, folder: str) -> Any:
        """Write the replay's files from this process; returns the machine's name."""
        try:
            self.learner.save_files(Path(folder))
        except Exception as error:
            return Failure.of(error)
        return platform.node()

    def replay_saved(self, folder: str) -> None:
        self.learner.files_saved(Path(folder))

    def load_replay(self, folder: str) -> Any:
        return self.host.load_replay(folder)

    def warm_start(self, weights: Weights) -> None:
        self.learner.warm_start(weights)

    def leave(self) -> None:
        leave_group()


class EvaluatorActor:
    """Hosts an `Evaluator`."""

    def __init__(self, plan: Plan):
        plan.enter_process()
        set_threads(1)
        self.settings = plan.config.eval
        self.evaluator = plan.build_evaluator()
        self.model = plan.build_acting_model().eval()

    def evaluate(self, weights: Weights) -> Any:
        try:
            load_weights(self.model, weights)
            return self.evaluator.evaluate(self.model, self.settings.episodes, self.settings.deterministic)
        except Exception as error:
            return Failure.of(error)
