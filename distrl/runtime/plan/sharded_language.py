"""The plan of a language-model run whose learner's processes share one model (`learner.sharding: fsdp`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distrl.base.phases import Phases
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.sharded import sharded_class
from distrl.language.learner.sharded import ShardedLearner
from distrl.learning.lookup import algorithm_class
from distrl.learning.shards import Shards
from distrl.runtime.plan.language import TextPlan


@dataclass
class ShardedPlan(TextPlan):
    """As `TextPlan`; learners are made by all processes of the default process group at once."""

    @property
    def algorithm_class(self) -> type[LanguageAlgorithm]:
        found = algorithm_class(self.config)
        assert issubclass(found, LanguageAlgorithm)
        return sharded_class(found)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[Any] = ()
    ) -> Any:
        """This process's part of the learner, fresh."""
        return ShardedLearner(super().build_learner(shards, phases, replay_shards), self.build_model)


def sharded_plan(plan: TextPlan) -> ShardedPlan:
    """The same run with a sharded learner.

    Raises:
        ConfigError: Its algorithm looks at whole gradients itself.
    """
    found = ShardedPlan(**vars(plan))
    assert found.algorithm_class
    return found
