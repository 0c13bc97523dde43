"""Samplers of tiny runs, with the weights to act with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distrl.config.load import load_config
from distrl.control.samplers.sampler import EnvSampler
from distrl.experience.fragment import CollectRequest, FragmentData, FragmentMeta, Unit
from distrl.experience.weights import Weights
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.make import make_plan
from tests.helpers import config

Fragments = list[tuple[FragmentMeta, FragmentData]]


class Bench:
    """A plan, its first weights, and samplers as a test wants them."""

    def __init__(self, changes: dict[str, Any]):
        self.plan: Plan = make_plan(load_config(config(**changes)))
        self.weights: Weights = self.plan.build_learner().weights(0)

    def sampler(self, *, fuse: bool = False, reuse_buffers: bool = False) -> EnvSampler:
        sampler = self.plan.build_sampler(0, reuse_buffers=reuse_buffers)
        sampler.fuse = fuse
        return sampler

    def collect(self, sampler: EnvSampler, seq: int, streams: list[int], snapshots: Any = None) -> Fragments:
        """Fragment `seq` of each stream; streams that the sampler does not host begin from their snapshots."""
        requests = [
            CollectRequest(Unit(seq, stream), 0, (snapshots or {}).get(stream), stream not in sampler.streams)
            for stream in streams
        ]
        return sampler.collect(requests, self.weights)


@pytest.fixture
def bench() -> Callable[..., Bench]:
    return lambda **changes: Bench(changes)
