"""Ray actors around the classes that also run in-process.

Exceptions are returned as values (`Failure`), which distinguishes an environment that raised from an actor that died.
Results are direct returns of the loop's calls: objects that an actor `ray.put`s die with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
import torch

from distrl.experience.activity import Activity
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress, Report
from distrl.learning.process_group import GroupShards, join_group
from distrl.learning.shards import Shards
from distrl.models.parameters.published import load_weights
from distrl.runtime.backends.cluster import Actor
from distrl.runtime.backends.learner_host import LearnerHost
from distrl.runtime.backends.replay_actors import RemoteShard
from distrl.runtime.backends.stacks import SUSPICIOUS_SECONDS, Stacks
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan, pick_device
from distrl.runtime.protocol.events import Failure


class SamplerActor:
    """A sampler in its own process."""

    def __init__(self, plan: Plan, index: int):
        plan.enter_process()
        set_threads(plan.config.samplers.threads)
        # Returned fragments are copied to shared memory before the next call, so buffers can be reused.
        self.sampler = plan.build_sampler(index, reuse_buffers=True)
        seconds = min(SUSPICIOUS_SECONDS, plan.config.samplers.timeout / 2)
        self.stacks = Stacks(plan.folder, f"sampler {index}", seconds)
        self.sampler.phases.switch("wait")
        self.sampler.phases.reset()  # the loop has timed the start

    def ready(self) -> tuple[int, str]:
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def collect(self, requests: list[CollectRequest], weights: Weights) -> tuple[object, ...]:
        """Collect fragments; return the metas, then one value per fragment for its reference."""
        try:
            with self.stacks.watch():
                fragments = self.sampler.collect(requests, weights)
        except Exception as error:
            return (Failure.of(error), *([None] * len(requests)))
        return ([meta for meta, _ in fragments], *(data for _, data in fragments))

    def probe(self) -> Activity:
        """Return the progress of a running `collect`, from a separate thread."""
        return self.sampler.clock.activity()

    def drop(self, streams: list[int]) -> None:
        self.sampler.drop(streams)


class LearnerActor(LearnerHost):
    """A learner, alone or as one process of a data-parallel group."""

    def __init__(self, plan: Plan, rank: int, rendezvous: str, replay_shards: Sequence[Actor] = ()):
        plan.enter_process()
        config = plan.config.learner
        set_threads(config.threads)
        shards: Shards | None = None
        if config.processes > 1:
            join_group(rendezvous, rank, config.processes, torch.device(pick_device(config.device)))
            shards = GroupShards(config.shards, rank, config.processes)
        handles = [RemoteShard(actor) for actor in replay_shards]
        super().__init__(plan.build_learner(shards=shards, replay_shards=handles), plan.schema_check())
        self.stacks = Stacks(plan.folder, f"learner {rank}")
        self.learner.phases.switch("wait")
        self.learner.phases.reset()

    def ready(self) -> int:
        return os.getpid()

    def update(self, progress: Progress, *fragments: FragmentData) -> tuple[Report | Failure, Weights | None]:
        with self.stacks.watch():
            return super().update(progress, *fragments)

    def stage(self, units: list[Unit], *fragments: FragmentData) -> None:
        self.learner.stage(units, fragments)

    def publish(self, version: int) -> Weights:
        return self.learner.weights(version)


class EvaluatorActor:
    """An evaluator in its own process."""

    def __init__(self, plan: Plan):
        plan.enter_process()
        set_threads(1)
        self.settings = plan.config.eval
        self.evaluator = plan.build_evaluator()
        self.model = plan.build_acting_model().eval()

    def evaluate(self, weights: Weights) -> object:
        try:
            load_weights(self.model, weights)
            return self.evaluator.evaluate(self.model, self.settings.episodes, self.settings.deterministic)
        except Exception as error:
            return Failure.of(error)
