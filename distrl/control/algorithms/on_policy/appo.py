"""APPO: PPO on data of older policies, with V-trace and a slowly moving target policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.pack import State
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch
from distrl.control.algorithms.on_policy.distributional_baseline import with_vtrace
from distrl.control.algorithms.on_policy.impala import staleness
from distrl.control.algorithms.on_policy.ppo import PPO, PPOConfig
from distrl.control.models.actor_critic import ActorCritic
from distrl.functional.policy.objectives import adapt_kl_coefficient
from distrl.learning.algorithm import Update

#: Bounds of the adaptive coefficient: halved a thousand times it would be 0 and never come back.
SMALLEST_COEFFICIENT, LARGEST_COEFFICIENT = 1e-4, 1e4


class APPOConfig(PPOConfig):
    """PPO's keys, V-trace's, and the target policy's."""

    learning_rate: Scheduled[float] = Field(5e-4, ge=0)
    """Step size of Adam. Too large diverges, too small crawls. Usual: 1e-4 to 1e-3, falling to 0."""
    rollout_steps: int = Field(50, ge=1)
    """Time steps of each environment in one batch. Longer: less bias, fewer updates. Usual: 20-128."""
    clip: Scheduled[float] = Field(0.3, ge=0)
    """Largest move of the ratio to the behavior policy. Larger than PPO's, for stale data. Usual: 0.2-0.4."""
    epochs: int = Field(1, ge=1)
    """Passes over each batch. More reuse, more drift from the behavior policy. Usual: 1-4."""
    lam: Scheduled[float] = Field(1.0, ge=0, le=1)
    """Extra decay of V-trace's traces. Lower: less variance, more bias. Usual: 0.9-1."""
    rho_bar: float = Field(1.0, gt=0)
    """Bound of the importance weights of V-trace's errors and advantages. Lower: less variance. Usual: 1."""
    c_bar: float = Field(1.0, gt=0)
    """Bound of the weights that carry errors back in time. Lower: less variance, slower credit. Usual: 1."""
    target_every: int = Field(1, ge=1)
    """Updates after which the target policy becomes the present one. More: steadier targets, older ones. Usual: 1-8."""
    kl_coefficient: float = Field(0.0, ge=0)
    """First weight of the penalty KL(target || policy), which then adapts to `kl_target`; 0 leaves the penalty out.
    Usual: 0-1."""
    kl_target: float = Field(0.01, gt=0)
    """Divergence from the target policy that the penalty aims at. Only with `kl_coefficient`. Usual: 0.003-0.03."""


@register.algorithm(
    "appo",
    paper="IMPACT: Importance Weighted Asynchronous Architectures with Clipped Target Networks, Luo et al. 2020",
    entries=[17, 60],
)
class APPO(PPO):
    """Asynchronous PPO with a target policy. Luo et al. 2020.

    Clipped surrogate (Schulman et al. 2017, eq. 7) with the ratio pi/mu to the behavior policy, on V-trace advantages
    (Espeholt et al. 2018) of the target policy; optional penalty of eq. 8.
    """

    Config = APPOConfig
    off_policy_correction = True

    def __init__(self, config: APPOConfig, model: ActorCritic, **options: Any):
        super().__init__(config, model, **options)
        self.target = self.flat.data.clone()  # laid out as `flat.data`
        self.updates = 0
        self.kl_coefficient = float(self.schedules.kl_coefficient)

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        if self.updates == 0:  # the weights may have come from elsewhere after construction
            self.target.copy_(self.flat.data)
        update = super().update(rollout, rng)
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            if self.kl_coefficient:
                kl = self.distance_to_target(rollout)
                adapted = adapt_kl_coefficient(self.kl_coefficient, kl, self.config.kl_target)
                self.kl_coefficient = min(max(adapted, SMALLEST_COEFFICIENT), LARGEST_COEFFICIENT)
                update.metrics |= {"policy/kl_target": kl, "policy/kl_coef": self.kl_coefficient}
            self.target.copy_(self.flat.data)
        return update

    def prepare(self, rollout: Columns) -> Columns:
        with self.target_weights():
            target_params = self.rollout_params(rollout)
        log_ratio = self.policy.actions.logp(target_params, rollout.action, rollout.get("mask")) - rollout.logp
        return with_vtrace(self, rollout, log_ratio).with_(target_params=target_params)

    @property
    def penalized(self) -> bool:
        return bool(self.schedules.kl_coefficient)

    def penalties(self, params: Tensor, batch: Minibatch) -> dict[str, tuple[float, Tensor]]:
        """Return the divergence from the target policy, eq. 8."""
        kl = self.policy.actions.kl(batch.target_params, params, batch.get("mask"))
        return {"kl_target": (self.kl_coefficient, batch.mean(kl))}

    def policy_metrics(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        return super().policy_metrics(log_ratio, batch) | staleness(log_ratio, batch)

    @contextmanager
    def target_weights(self) -> Iterator[None]:
        """Give the model the target policy's weights, without gradients."""
        present = self.flat.data.clone()
        with torch.no_grad():
            self.flat.data.copy_(self.target)
            try:
                yield
            finally:
                self.flat.data.copy_(present)

    @torch.no_grad()
    def distance_to_target(self, rollout: Columns) -> float:
        """Return the mean KL(target || policy) over the valid rows of a rollout."""
        with self.target_weights():
            target_params = self.rollout_params(rollout)
        kl = self.policy.actions.kl(target_params, self.rollout_params(rollout), rollout.get("mask"))
        return float(Minibatch.whole(rollout).mean(kl))

    def state(self) -> State:
        return {
            **super().state(),
            "target": self.target.clone(),
            "updates": self.updates,
            "kl_coefficient": self.kl_coefficient,
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.target.copy_(torch.as_tensor(state["target"]))
        self.updates = int(state["updates"])
        self.kl_coefficient = float(state["kl_coefficient"])
