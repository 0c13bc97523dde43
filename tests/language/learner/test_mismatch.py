"""The mismatch gate names what was done to a batch, and is silent where nothing was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from distrl.base.columns import Columns
from distrl.base.errors import ResourceError
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.runtime.test_text_runs import text_config


class World:
    """A learner with a warm start, and a sampler."""

    def __init__(self, **language: Any):
        settings = {"warm_start": {"steps": 40, "batch_size": 16, "learning_rate": 3e-3}, **language}
        plan = make_plan(load_config(text_config(language=settings, algorithm={"group_size": 8})))
        self.learner, self.sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
        self.weights = self.learner.weights(0)

    def fragments(self, seq: int = 0) -> list[Any]:
        requests = [CollectRequest(Unit(seq, stream), self.weights.version) for stream in range(2)]
        return [data for _, data in self.sampler.collect(requests, self.weights)]

    def batch(self) -> Columns:
        return self.learner._batch(self.fragments(), ())

    def update(self) -> Any:
        version = self.learner.version
        return self.learner.update(self.fragments(version), Progress(version, 0))


def test_silence_where_all_is_well() -> None:
    for language in ({}, {"top_p": 0.9}, {"top_k": 4, "temperature": 0.8}):
        world = World(**language)
        found = world.learner.gate.compare(world.batch())
        assert found.cause == ""
        assert found.mean < 1e-4
        assert found.largest < 1e-3


def test_top_p_with_its_support_has_ratio_one() -> None:
    world = World(top_p=0.9)
    batch = world.batch()
    ratio = (world.learner.algorithm.scored(batch) - batch.logp)[batch.mask].exp()
    assert float((ratio - 1).abs().max()) < 1e-3


def test_another_temperature() -> None:
    world = World()
    world.sampler.options = replace(world.sampler.options, temperature=0.7)
    found = world.learner.gate.compare(world.batch())
    assert found.cause == "temperature"
    assert "0.7 fits" in found.detail


def test_truncation_without_its_support() -> None:
    world = World()
    world.sampler.options = replace(world.sampler.options, top_p=0.9)
    found = world.learner.gate.compare(world.batch().without("support"))
    assert found.cause == "truncated support"


def test_log_probabilities_of_the_whole_vocabulary() -> None:
    world = World(top_p=0.8)
    batch = world.batch()
    whole = world.learner.gate._scores(batch, 1.0, support=False)
    assert world.learner.gate.compare(batch.with_(logp=whole)).cause == "truncated support"


def test_other_tokens_than_those_that_were_drawn() -> None:
    world = World()
    batch = world.batch()
    tokens = batch.tokens.clone()
    hit = (torch.arange(len(tokens)) % 4 == 0)[:, None] & batch.mask
    tokens[hit] = (tokens[hit] + 3) % 10 + 2
    found = world.learner.gate.compare(batch.with_(tokens=tokens))
    assert found.cause == "tokens"
    assert "25%" in found.detail


def test_weights_that_are_older_than_they_say() -> None:
    world = World(gate={"every": 2})
    for _ in range(2):
        world.learner.algorithm.resolve(0, None)
        report, _ = world.update()
        assert not report.warnings
        world.sampler.version = -1  # the sampler keeps answering with version 0, under a newer name
        world.weights = replace_version(world.weights, world.learner.version)
    report, _ = world.update()
    assert "stale weights" in report.warnings[0]
    assert "2 updates older" in report.warnings[0]
    assert report.metrics["text/mismatch_mean"] > 1e-3


def replace_version(weights: Any, version: int) -> Any:
    return replace(weights, version=version)


def test_arithmetic_is_what_remains_and_the_run_may_be_told_to_stop() -> None:
    world = World(gate={"action": "stop"})
    batch = world.batch()
    noise = torch.randn(batch.logp.shape, generator=torch.Generator().manual_seed(0))
    noisy = batch.with_(logp=batch.logp + 0.05 * noise)
    assert world.learner.gate.compare(noisy).cause == "kernel or dtype"
    with pytest.raises(ResourceError, match="kernel or dtype"):
        world.learner.gate.check(noisy, 0)
    assert world.learner.gate.check(noisy, 1) is None  # nothing of it was made with these weights
