"""Simple policy optimization: PPO with a quadratic pull in place of the clip."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import Tensor

from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch
from distrl.control.algorithms.on_policy.ppo import PPO, PPOConfig
from distrl.functional.policy.objectives import spo_objective


class SPOConfig(PPOConfig):
    """PPO's keys; `clip` is where each row's objective peaks."""

    clip: Scheduled[float] = Field(0.2, gt=0)
    """The objective's epsilon: each ratio is drawn to 1 + clip or 1 - clip. Larger moves faster. Usual: 0.1-0.3."""
    epochs: int = Field(10, ge=1)
    """Passes over each batch. The pull keeps ratios near 1, so more passes are safe than with PPO. Usual: 4-20."""
    dual_clip: None = None
    """Not used: the pull already bounds the objective of bad actions."""


@register.algorithm("spo_simple", paper="Simple Policy Optimization, Xie et al. 2024", entries=[44])
class SPO(PPO):
    """PPO with the objective ratio A - |A| / (2 eps) (ratio - 1)^2. Xie et al. 2024."""

    Config = SPOConfig

    def actor_objective(self, batch: Minibatch) -> partial[Tensor]:
        return partial(spo_objective, advantage=batch.advantage, eps=self.config.clip)
