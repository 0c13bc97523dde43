"""A policy gradient with a KL penalty in place of PPO's clip: Schulman et al. 2017, eq. 8 with a fixed coefficient."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.distributional_baseline import with_gae
from distrl.control.algorithms.on_policy.ppo import PPOConfig


def kl_penalized(ratio: Tensor, advantage: Tensor, beta: float) -> Tensor:
    """ratio * advantage - beta * KL estimate, per row (N,), to be maximized.

    The estimate ratio - 1 - log ratio is never negative, and 0 only where the policy did not move.
    """
    return ratio * advantage - beta * (ratio - 1.0 - ratio.log())


class KLPenaltyConfig(PPOConfig):
    """Keys of the algorithm: those of PPO and one more. A docstring below a key is its description."""

    beta: Scheduled[float] = Field(1.0, ge=0)
    """Weight of the KL penalty. Larger moves less per update. Usual: 0.1-10."""


@register.algorithm("kl_penalty", paper="Schulman et al. 2017, arXiv:1707.06347")
class KLPenalty(OnPolicy):
    """Policy gradient with a fixed KL penalty. Schulman et al. 2017, eq. 8."""

    Config = KLPenaltyConfig

    def prepare(self, rollout: Columns) -> Columns:
        """Once per batch, with the weights before the update: advantages and the critic's targets."""
        return with_gae(self, rollout)

    def actor_objective(self, batch: Minibatch) -> partial[Tensor]:
        """Per minibatch: a function of the ratio pi/mu (N,). Critic loss and entropy bonus come from `OnPolicy`."""
        return partial(kl_penalized, advantage=batch.advantage, beta=self.config.beta)
