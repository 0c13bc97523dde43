"""IMPALA: actor-critic on data of older policies, corrected by V-trace."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, optim

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.a2c import A2C
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.distributional_baseline import BaselineConfig, with_vtrace
from distrl.functional.statistics import effective_sample_size
from distrl.models.parameters.flat import FlatParameters


class ImpalaConfig(BaselineConfig):
    """One optimizer step a batch, on data that may be some updates old (`store.max_staleness`)."""

    learning_rate: Scheduled[float] = Field(6e-4, ge=0)
    """Step size. Too large diverges, too small crawls. Usual: 2e-4 to 1e-3, falling to 0."""
    rollout_steps: int = Field(20, ge=1)
    """Time steps of each environment in one batch. Longer: less bias, fewer updates. Usual: 20-80."""
    max_grad_norm: float | None = Field(40.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 0.5-40."""
    rho_bar: float = Field(1.0, gt=0)
    """Bound of the importance weights of errors and policy gradients. Lower: less variance, and the critic values a
    policy nearer the behavior's. Usual: 1."""
    c_bar: float = Field(1.0, gt=0)
    """Bound of the weights that carry errors back in time. Lower: less variance, slower credit. Usual: 1."""
    lam: Scheduled[float] = Field(1.0, ge=0, le=1)
    """Extra decay of V-trace's traces. Lower: less variance, more bias. Usual: 0.9-1."""
    entropy_coef: Scheduled[float] = Field(0.01, ge=0)
    """Weight of the entropy bonus. More explores longer. Usual: 0.00025-0.01."""
    value_coef: Scheduled[float] = Field(0.5, ge=0)
    """Weight of the value loss, half the squared error. Usual: 0.25-1."""
    normalize_advantage: bool = False
    """Center and scale advantages in each batch. Helps where returns are large and `max_grad_norm` is small."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """`rmsprop`: as published, without momentum. `adam`: less sensitive to the scale of rewards."""
    rmsprop_alpha: float = Field(0.99, ge=0, lt=1)
    """RMSprop's memory of squared gradients. Only with `optimizer: rmsprop`. Usual: 0.99."""
    rmsprop_eps: float = Field(0.1, gt=0)
    """Added to RMSprop's root. Only with `optimizer: rmsprop`. Smaller takes longer steps. Usual: 1e-5 to 0.1."""


@register.algorithm(
    "impala",
    paper="IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures, "
    "Espeholt et al. 2018",
    entries=[60],
)
class Impala(A2C):
    """Actor-critic with V-trace advantages. Espeholt et al. 2018, section 4.2."""

    Config = ImpalaConfig
    off_policy_correction = True

    def make_optimizer(self, flat: FlatParameters) -> optim.Optimizer:
        owner = A2C if self.schedules.optimizer == "rmsprop" else OnPolicy
        return owner.make_optimizer(self, flat)

    def prepare(self, rollout: Columns) -> Columns:
        logp = self.policy.actions.logp(self.rollout_params(rollout), rollout.action, rollout.get("mask"))
        return with_vtrace(self, rollout, logp - rollout.logp)

    def policy_metrics(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        return super().policy_metrics(log_ratio, batch) | staleness(log_ratio, batch)


def staleness(log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
    """Measure the staleness of the data, given log pi - log mu (T, B) of the actions.

    `policy/ess` is the effective sample size of the weights pi/mu as a share of the rows: 1 is on-policy.
    """
    return {
        "policy/abs_log_ratio": float(batch.mean(log_ratio.abs())),
        "policy/ess": float(effective_sample_size(log_ratio, batch.get("valid"))) / batch.count,
    }
