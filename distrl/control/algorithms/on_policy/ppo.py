"""Proximal policy optimization."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.distributional_baseline import LawConfig, with_gae
from distrl.control.numpy_gradients.objectives import (
    Slope,
    clipped_surrogate_slope,
    clipped_value_loss_slope,
    value_loss_slope,
)
from distrl.control.numpy_gradients.update import RowLosses
from distrl.functional.policy.objectives import clipped_surrogate, clipped_value_loss, value_loss
from distrl.functional.statistics import approx_kl, masked_normalize


class PPOConfig(LawConfig):
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


@register.algorithm(
    "ppo",
    paper="Proximal Policy Optimization Algorithms, Schulman et al. 2017",
    entries=[17],
)
class PPO(OnPolicy):
    """Proximal policy optimization. Schulman et al. 2017, eq. 7; advantages from GAE, Schulman et al. 2016, eq. 16."""

    Config = PPOConfig

    def prepare(self, rollout: Columns) -> Columns:
        return with_gae(self, rollout)

    def prepare_minibatch(self, batch: Columns) -> Columns:
        batch = self.draw_levels(batch)
        if not self.config.normalize_advantage:
            return batch
        return batch.with_(advantage=masked_normalize(batch.advantage, batch.get("valid")))

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        params, critic_output = self.evaluate(batch)
        actions, mask = self.policy.actions, batch.get("mask")
        log_ratio = actions.logp(params, batch.action, mask) - batch.logp
        actor = -batch.mean(self.surrogate(log_ratio.exp(), batch.advantage))
        critic = batch.mean(self.critic_loss(critic_output, batch))
        total = actor + self.config.value_coef * critic
        parts = {"actor": actor, "critic": critic}
        for name, (weight, term) in self.penalties(params, batch).items():
            parts[name] = term
            total = total + weight * term
        if self.config.target_kl is not None:
            parts["kl"] = batch.mean(approx_kl(log_ratio.detach()))
        return total, parts

    def penalties(self, params: Tensor, batch: Minibatch) -> dict[str, tuple[float, Tensor]]:
        """Further terms of the loss by name, each with its weight: the entropy bonus (section 5)."""
        if not self.config.entropy_coef:
            return {}
        return {
            "entropy": (-self.config.entropy_coef, batch.mean(self.policy.actions.entropy(params, batch.get("mask"))))
        }

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """eq. 7, to be maximized."""
        return clipped_surrogate(ratio, advantage, self.config.clip, self.config.dual_clip)

    def critic_loss(self, critic_output: Tensor, batch: Minibatch) -> Tensor:
        if "law_values" in batch:
            return self.model.critic.law.loss(critic_output, batch.law_values, batch.law_probs)
        if self.config.clip_value is None:
            return value_loss(critic_output, batch.returns)
        return clipped_value_loss(critic_output, batch.value, batch.returns, self.config.clip_value)

    def row_losses(self, batch: Minibatch, logp: np.ndarray, value: np.ndarray) -> RowLosses:
        ratio = np.exp(logp - batch.logp)
        objective, by_ratio = self.surrogate_slope(ratio, batch.advantage)
        if self.config.clip_value is None:
            critic, d_value = value_loss_slope(value, batch.returns)
        else:
            critic, d_value = clipped_value_loss_slope(value, batch.value, batch.returns, self.config.clip_value)
        others = {} if self.config.target_kl is None else {"kl": ratio - 1.0 - (logp - batch.logp)}
        return RowLosses(-objective, -by_ratio * ratio, critic, d_value, others)  # d ratio / d logp = ratio

    def surrogate_slope(self, ratio: np.ndarray, advantage: np.ndarray) -> Slope:
        """`surrogate` and its derivative by the ratio."""
        return clipped_surrogate_slope(ratio, advantage, self.config.clip, self.config.dual_clip)

    def stop_epochs(self, metrics: Mapping[str, float]) -> bool:
        return self.config.target_kl is not None and float(metrics["kl"]) > 1.5 * self.config.target_kl

    def policy_metrics(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        outside = (log_ratio.exp() - 1.0).abs() > self.config.clip
        return {"policy/clip_fraction": float(batch.mean(outside.float()))}
