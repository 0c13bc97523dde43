"""Advantage actor-critic: the synchronous form of A3C."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor, optim

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.distributional_baseline import BaselineConfig, with_gae
from distrl.functional.policy.objectives import policy_gradient
from distrl.models.parameters.flat import FlatParameters


class A2CConfig(BaselineConfig):
    """One optimizer step a batch, on data of the present policy."""

    learning_rate: Scheduled[float] = Field(7e-4, ge=0)
    """Step size of RMSprop. Too large diverges, too small crawls. Usual: 3e-4 to 2e-3, falling to 0."""
    rollout_steps: int = Field(5, ge=1)
    """Time steps of each environment in one batch. Longer: less bias, fewer updates. Usual: 5-20."""
    lam: Scheduled[float] = Field(1.0, ge=0, le=1)
    """GAE's lambda; 1 is the n-step return of the original. Lower: less variance, more bias. Usual: 0.9-1."""
    entropy_coef: Scheduled[float] = Field(0.0, ge=0)
    """Weight of the entropy bonus. More explores longer. Usual: 0 for control, 0.01 for images."""
    value_coef: Scheduled[float] = Field(1.0, ge=0)
    """Weight of the value loss, half the squared error: 1 here is 0.5 of the plain square. Usual: 0.5-1."""
    normalize_advantage: bool = False
    """Center and scale advantages in each batch. Noisy in small batches."""
    rmsprop_alpha: float = Field(0.99, ge=0, lt=1)
    """RMSprop's memory of squared gradients. Usual: 0.99."""
    rmsprop_eps: float = Field(1e-5, gt=0)
    """Added to RMSprop's root. Larger is closer to plain gradient descent. Usual: 1e-5 to 0.1."""


@register.algorithm(
    "a2c",
    paper="Asynchronous Methods for Deep Reinforcement Learning, Mnih et al. 2016; GAE, Schulman et al. 2016",
    entries=[45],
)
class A2C(OnPolicy):
    """Advantage actor-critic. Mnih et al. 2016, section 4; GAE: Schulman et al. 2016, eq. 16."""

    Config: ClassVar[type[AlgorithmConfig]] = A2CConfig
    objective_input = "logp"

    def make_optimizer(self, flat: FlatParameters) -> optim.Optimizer:
        """Build RMSprop without momentum over the flat parameter vector."""
        config = self.schedules
        return optim.RMSprop([flat.parameter()], lr=1.0, alpha=config.rmsprop_alpha, eps=config.rmsprop_eps)

    def prepare(self, rollout: Columns) -> Columns:
        return with_gae(self, rollout)

    def actor_objective(self, batch: Minibatch) -> partial[Tensor]:
        return partial(policy_gradient, advantage=batch.advantage)
