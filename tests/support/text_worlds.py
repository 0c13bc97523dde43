"""Learner and sampler of a tiny language-model run whose answers differ in reward."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from distrl.base.columns import Columns
from distrl.base.pack import pack, unpack
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.helpers import merged
from tests.runtime.test_text_runs import text_config

#: Curves of the algorithm; others tell of the clock and of the process.
OWN = ("loss/", "policy/", "reward/")
#: A fresh model's first supervised steps, after which some answers are right.
START = {"steps": 60, "batch_size": 32, "learning_rate": 3e-3}


@cache
def started_weights(task: str) -> Weights:
    """Weights after the supervised start, made once for all tests of a process."""
    return make_plan(load_config(world_config(task, {"name": "grpo"}))).build_learner().weights(0)


def world_config(task: str, algorithm: dict[str, Any]) -> dict[str, Any]:
    """8 prompts in 2 streams, 8 answers each."""
    kwargs = {"count": 2} if task == "sort_digits" else {}
    run = text_config(language={"max_new_tokens": 3, "warm_start": START})
    run["task"] = {"name": f"{task}", "kwargs": kwargs, "prompts": 8, "streams": 2}
    run["algorithm"] = {"group_size": 8, "learning_rate": 1e-3, **algorithm}
    return run


class TextWorld:
    """One learner and one sampler of a run.

    Args:
        name: The algorithm.
        task: `sort_digits` or `pairs`.
        algorithm: Its keys.
    """

    def __init__(self, name: str, task: str = "sort_digits", language: dict[str, Any] | None = None, **algorithm: Any):
        run = merged(world_config(task, {"name": name, **algorithm}), {"language": language or {}})
        self.plan = make_plan(load_config(run))
        self.learner, self.sampler = self.plan.build_learner(), self.plan.build_sampler(0, reuse_buffers=False)
        if not language:
            self.learner.warm_start(started_weights(task))
        self.weights = self.learner.weights(0)
        self.algorithm.resolve(0, None)
        self.metrics: dict[str, float] = {}

    @property
    def algorithm(self) -> Any:
        return self.learner.algorithm

    def fragments(self, seq: int) -> list[Any]:
        requests = [CollectRequest(Unit(seq, stream), self.weights.version) for stream in range(2)]
        return [data for _, data in self.sampler.collect(requests, self.weights)]

    def batch(self, seq: int) -> Columns:
        """Rows as an update gets them."""
        return self.learner._batch(self.fragments(seq), ())

    def turn(self, seq: int) -> Weights:
        """One update on fragment `seq` of both streams; the new weights."""
        report, self.weights = self.learner.update(self.fragments(seq), Progress(seq, 0))
        self.metrics = report.metrics
        return self.weights

    def twin(self) -> TextWorld:
        """Another world of the same run that goes on from this one's state, through bytes as a checkpoint does."""
        other = TextWorld.__new__(TextWorld)
        other.plan = self.plan
        other.learner, other.sampler = self.plan.build_learner(), self.plan.build_sampler(0, reuse_buffers=False)
        other.learner.load_state(unpack(*pack(self.learner.state())))
        other.weights = other.learner.weights(self.weights.version)
        other.metrics = {}
        return other

    def gradient(self, batch: Columns) -> torch.Tensor:
        """Of the loss of a prepared batch."""
        self.algorithm.text_gradient(self.algorithm.add_loss_weights(batch))
        return self.algorithm.flat.grad.clone()


def same_next_update(world: TextWorld, updates: int = 2) -> None:
    """After some updates the state alone decides the next two, to the bit."""
    for seq in range(updates):
        world.turn(seq)
    other = world.twin()
    assert other.weights.checksum() == world.weights.checksum()
    for seq in range(updates, updates + 2):
        assert other.turn(seq).checksum() == world.turn(seq).checksum()
    one, two = ({name: x for name, x in w.metrics.items() if name.startswith(OWN)} for w in (world, other))
    assert one == two
