"""Plan of a text run whose learner processes share one model (`learner.sharding: fsdp`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from distrl.base.phases import Phases
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.sharded import sharded_class
from distrl.language.learner.sharded import ShardedLearner
from distrl.learning.shards import Shards
from distrl.runtime.plan.language import TextPlan
from distrl.store.replay.sharded import ShardHandle


class ShardedPlan(TextPlan):
    """A `TextPlan` whose learner is built by all processes of the default group together."""

    @property
    def algorithm_class(self) -> type[LanguageAlgorithm]:
        return sharded_class(super().algorithm_class)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[ShardHandle] = ()
    ) -> Any:
        return ShardedLearner(super().build_learner(shards, phases, replay_shards), self.build_model)


def sharded_plan(plan: TextPlan) -> ShardedPlan:
    """Return the same run with a sharded learner."""
    found = ShardedPlan(**{field.name: getattr(plan, field.name) for field in fields(plan)})
    assert found.algorithm_class
    return found
