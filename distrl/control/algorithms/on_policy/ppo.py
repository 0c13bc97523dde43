"""Proximal policy optimization."""

from __future__ import annotations

from functools import partial

from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.distributional_baseline import BaselineConfig, with_gae
from distrl.functional.policy.objectives import clipped_surrogate, clipped_value_loss


class PPOConfig(BaselineConfig):
    """Every detail of PPO that matters, each with its own switch."""

    clip: Scheduled[float] = Field(0.2, ge=0)
    """Eq. 7's epsilon. Larger moves faster and breaks sooner. Usual: 0.1-0.3."""
    epochs: int = Field(4, ge=1)
    """Passes over each batch. More reuse, more drift from the behavior policy. Usual: 3-20."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps per epoch. Usual: 1-32."""
    lam: Scheduled[float] = Field(0.95, ge=0, le=1)
    """GAE's lambda. Lower: less variance, more bias. Usual: 0.8-0.98."""
    entropy_coef: Scheduled[float] = Field(0.0, ge=0)
    """Weight of the entropy bonus. More explores longer. Usual: 0-0.02."""
    value_coef: Scheduled[float] = Field(0.5, ge=0)
    """Weight of the value loss. Usual: 0.25-1."""
    normalize_advantage: bool = True
    """Center and scale advantages in each minibatch."""
    clip_value: float | None = Field(None, gt=0)
    """Clip the value's change to this. Off by default: no proven gain."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound the objective of bad actions at dual_clip * advantage, for stale data. Usual: 3."""
    target_kl: float | None = Field(None, gt=0)
    """End the epochs of a batch once the policy has moved 1.5 times this far. Usual: 0.01-0.03."""

    @model_validator(mode="after")
    def _clip_values_only(self) -> PPOConfig:
        if self.clip_value is not None and self.critic_head.name != "scalar":
            raise ConfigError(
                f"clip_value {self.clip_value:g} with critic_head {self.critic_head.name}: only values can be clipped.",
                "Use clip_value=null, or critic_head=scalar.",
            )
        return self


@register.algorithm("ppo", paper="Proximal Policy Optimization Algorithms, Schulman et al. 2017", entries=[17])
class PPO(OnPolicy):
    """Clipped surrogate (eq. 7) on advantages from GAE. Schulman et al. 2017."""

    Config = PPOConfig

    def prepare(self, rollout: Columns) -> Columns:
        return with_gae(self, rollout)

    def actor_objective(self, batch: Minibatch) -> partial[Tensor]:
        """Return the clipped surrogate, eq. 7."""
        clip, dual_clip = self.config.clip, self.config.dual_clip
        return partial(clipped_surrogate, advantage=batch.advantage, clip=clip, dual_clip=dual_clip)

    def critic_loss(self, batch: Minibatch) -> partial[Tensor]:
        if self.config.clip_value is None:
            return super().critic_loss(batch)
        return partial(clipped_value_loss, old_value=batch.value, returns=batch.returns, clip=self.config.clip_value)

    def policy_metrics(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        outside = (log_ratio.exp() - 1.0).abs() > self.config.clip
        return {"policy/clip_fraction": float(batch.mean(outside.float()))}
