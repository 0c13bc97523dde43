"""Plan of a text run whose learner processes share one model (`learner.sharding: fsdp`)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.sharded import sharded_class
from distrl.language.learner.sharded import ShardedLearner
from distrl.runtime.plan.language import TextPlan


class ShardedPlan(TextPlan):
    """A `TextPlan` whose learner is built by all processes of the default group together."""

    @property
    def algorithm_class(self) -> type[LanguageAlgorithm]:
        return sharded_class(super().algorithm_class)

    def build_learner(self, *parts: Any, **named: Any) -> Any:
        return ShardedLearner(super().build_learner(*parts, **named), self.build_model)


def sharded_plan(plan: TextPlan) -> ShardedPlan:
    found = ShardedPlan(**{field.name: getattr(plan, field.name) for field in fields(plan)})
    assert found.algorithm_class
    return found
