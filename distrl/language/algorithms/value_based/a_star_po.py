"""A*-PO: optimal values near the reference, estimated once before learning begins.

Stage 1: the reference, the first weights, answers every training prompt N times, and
V*(x) = beta1 log mean exp(r / beta1). Samplers make these answers as they make all others; the weights stand still.
Stage 2: the policy answers each prompt once, and beta2 log(pi / pi_ref) is regressed onto r - V*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns, Tree
from distrl.base.registry import register
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.chain.groups import Groups
from distrl.language.tasks.base import Task
from distrl.language.tasks.subset import TaskSubset
from distrl.learning.algorithm import Update


class AStarPOConfig(LanguageAlgorithmConfig):
    """A*-PO: regression to the optimal advantage, without groups, critic, ratio or clip."""

    group_size: int = Field(1, ge=1)
    """Answers to each prompt in a batch. One is enough."""
    prompts: int | None = Field(None, ge=1)
    """Training prompts, of a task that has no end of them: the first so many. Default: 1024, or all of the task's."""
    reference_answers: int = Field(8, ge=1)
    """Answers of the reference to every prompt in stage 1. Usual: 8."""
    optimism: float = Field(0.5, ge=0)
    """beta1 of V*: towards 0 the best reward that the reference got, large values its mean; 0 is the mean too."""
    drop_unsolved: bool = False
    """Leave out prompts that the reference never got a reward for."""
    objective: ComponentConfig = {"name": "a_star_po", "beta": 1e-3}
    """(beta2 log(pi / pi_ref) + V* - reward)^2; beta2 far below `optimism`. Usual: 0.001; short answers: 0.1."""
    advantage: ComponentConfig = "reinforce"
    """Not read by the loss: shown in the curves."""


@register.algorithm(
    "a_star_po", paper="A*-PO: Accelerating RL for LLM Reasoning with Optimal Advantage Regression, 2025", entries=[114]
)
class AStarPO(LanguageAlgorithm):
    """Optimal advantage regression in two stages."""

    Config = AStarPOConfig
    DEFAULT_PROMPTS = 1024

    def begin_task(self, task: Task) -> None:
        """Make room for every prompt's estimate."""
        assert task.size is not None
        self.count = np.zeros(task.size, np.int64)  # answers of the reference
        self.log_sum = np.full(task.size, -np.inf)  # log sum exp(r / beta1), or with beta1 = 0 the sum itself
        if not self.config.optimism:
            self.log_sum[:] = 0.0
        self.best = np.full(task.size, -np.inf)  # reward

    @classmethod
    def training_task(cls, task: Task, config: Any) -> Task:
        """The task, with a finite number of prompts: each needs an estimate."""
        if config.prompts is None and task.size is not None:
            return task
        return TaskSubset(task, config.prompts or cls.DEFAULT_PROMPTS)

    @property
    def estimating(self) -> bool:
        """True in stage 1: some prompt lacks answers of the reference."""
        return bool(self.count.min() < self.config.reference_answers)

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        if not self.estimating:
            return super().update(batch, rng)
        batch = self.compute_rewards(batch)
        self._estimate(batch.item, batch.reward)
        batch = batch.with_(advantage=torch.zeros_like(batch.reward))
        return Update({**self.batch_metrics(batch), "policy/reference_share": self.reference_share})

    @property
    def reference_share(self) -> float:
        """Progress of stage 1, 0 to 1."""
        wanted = self.config.reference_answers
        return float(np.minimum(self.count, wanted).mean() / wanted)

    def _estimate(self, item: Tensor, reward: Tensor) -> None:
        """Add answers of the reference to its prompts' estimates, in double precision."""
        groups, value = Groups(item.cpu()), reward.double().cpu()
        at = groups.ids.numpy()
        self.count[at] += groups.count.numpy()
        self.best[at] = np.maximum(self.best[at], groups.extremes(value)[1].numpy())
        beta = self.config.optimism
        if beta:
            total = groups.log_mean_exp(value / beta) + groups.count.double().log()
            self.log_sum[at] = np.logaddexp(self.log_sum[at], total.numpy())
        else:
            self.log_sum[at] += groups.sum(value).numpy()

    def optimal_value(self, item: Tensor) -> Tensor:
        """V* (N,) of prompts, float32."""
        at = item.cpu().numpy()
        beta, count = self.config.optimism, self.count[at]
        found = beta * (self.log_sum[at] - np.log(count)) if beta else self.log_sum[at] / count
        return torch.from_numpy(found.astype(np.float32)).to(self.device)

    def add_columns(self, batch: Columns) -> Columns:
        return batch.with_(optimal_value=self.optimal_value(batch.item))

    def add_loss_weights(self, minibatch: Columns) -> Columns:
        if self.config.drop_unsolved:
            solved = torch.from_numpy(self.best[minibatch.item.cpu().numpy()] > 0.0).to(self.device)
            minibatch = minibatch.with_(mask=minibatch.mask & solved[:, None])
        return super().add_loss_weights(minibatch)

    def batch_metrics(self, batch: Columns) -> dict[str, float]:
        found = super().batch_metrics(batch)
        if "optimal_value" in batch:
            found["policy/optimal_value"] = float(batch.optimal_value.mean())
        return found

    def state(self) -> dict[str, Tree]:
        estimates = {"count": self.count.copy(), "log_sum": self.log_sum.copy(), "best": self.best.copy()}
        return {**super().state(), "estimates": estimates}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        super().load_state(state)
        for name in ("count", "log_sum", "best"):
            setattr(self, name, np.array(state["estimates"][name]))
