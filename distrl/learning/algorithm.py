"""The interface of algorithms that learners call: networks, update and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from distrl.base.columns import Columns, tree_leaves
from distrl.base.pack import State
from distrl.config.algorithm import AlgorithmConfig
from distrl.learning.shards import Shards


@dataclass
class Update:
    """Metrics of an update by tag, and new priorities (N,) of replayed units (off-policy)."""

    metrics: dict[str, Any] = field(default_factory=dict)
    priorities: Tensor | np.ndarray | None = None


class Algorithm:
    """Base of all algorithms.

    Args:
        config: The algorithm's own config, schedules unresolved.
        model: All networks that it learns; moved to `device`.
        bf16: Compute the loss in bfloat16.
        compile: Pass the loss through `torch.compile`.

    Attributes:
        schedules, config: The config, and the one with resolved schedules.
        warnings: Messages for the user; the learner empties the list.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    #: True where the algorithm corrects for stale data, so that `max_staleness` > 0 needs no warning
    off_policy_correction: ClassVar[bool] = False

    def __init__(
        self,
        config: Any,
        model: Any,
        *,
        device: str | torch.device = "cpu",
        shards: Shards | None = None,
        bf16: bool = False,
        compile: bool = False,
    ):
        self.schedules = config
        self.config: Any = config
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.policy = model.policy
        self.shards = shards or Shards()
        self.bf16, self.compile = bf16, compile
        self.warnings: list[str] = []

    @classmethod
    def build_model(cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any) -> Any:
        """Build a module with a `policy`; its first weights depend on the seed alone.

        Args:
            model: The run's `model` section.
            config: The algorithm's own config, schedules unresolved.
            options: normalize_obs, clip_obs, seed.
        """
        raise NotImplementedError(f"{cls.__name__} must define build_model()")

    @classmethod
    def acting_model(cls, model: Any) -> Any:
        """Return the part of `model` that is published, for samplers, evaluation and policy files."""
        return model

    def resolve(self, env_steps: int, total: int | None) -> None:
        """Set every schedule to its value at `env_steps`."""
        self.config = self.schedules.at(env_steps, total)

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        """Learn from a batch on this device, with all random numbers from `rng`.

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the weights are those before the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update()")

    def diagnose(self, batch: Columns) -> dict[str, float]:
        """Measure the updated policy on the batch: for the curves, not for learning."""
        return {}

    def state(self) -> State:
        """Return everything that the next update depends on besides config and batch."""
        raise NotImplementedError(f"{type(self).__name__} must define state()")

    def load_state(self, state: State) -> None:
        """Load what `state` returned."""
        raise NotImplementedError(f"{type(self).__name__} must define load_state()")


def non_finite_cause(*batches: Columns, source: str = "batch") -> str:
    """Name the first column that is not finite."""
    for batch in batches:
        for name, column in batch.items():
            for leaf in map(torch.as_tensor, tree_leaves(column)):
                if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                    bad = int((~torch.isfinite(leaf)).sum())
                    return f"the {source}'s {name!r} holds {bad} non-finite values of {leaf.numel()}."
    return f"a loss or gradient became non-finite although the {source} is finite (diverged)."
