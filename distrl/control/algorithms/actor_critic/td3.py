"""Twin delayed deterministic policy gradient."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns, Tree
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.actor_critic.base import ContinuousConfig, ContinuousLearner
from distrl.functional.atoms import Atoms, bellman
from distrl.learning.algorithm import Update
from distrl.models.parameters.trained import TrainedModule


class TD3Config(ContinuousConfig):
    """Additions to DDPG, a key each: `critics`, `policy_interval`, `target_noise`."""

    policy_interval: int = Field(2, ge=1)
    """Gradient steps of the critics between two of the policy. Usual: 1-2."""
    target_interval: int = Field(2, ge=1)
    """Gradient steps between two updates of the target networks. Usual: as `policy_interval`."""
    noise: Scheduled[float] = Field(0.1, ge=0)
    """Standard deviation of the exploration noise, for actions scaled to (-1, 1). Usual: 0.1-0.3."""
    target_noise: float = Field(0.2, ge=0)
    """Standard deviation of the noise on next actions in targets, which smooths them. Usual: 0.2, or 0."""
    target_noise_clip: float = Field(0.5, ge=0)
    """Bound of that noise. Usual: 0.5."""


@register.algorithm(
    "td3", paper="Addressing Function Approximation Error in Actor-Critic Methods, Fujimoto et al. 2018"
)
class TD3(ContinuousLearner):
    """Twin delayed DDPG. Fujimoto et al. 2018, algorithm 1."""

    Config = TD3Config
    stochastic: ClassVar[bool] = False

    def make_modules(self) -> dict[str, TrainedModule]:
        modules = super().make_modules()
        self.target_policy = modules["policy"].target
        return modules

    def set_exploration(self, rng: np.random.Generator) -> None:
        self.policy.explore(warmup=self.warming_up, sigma=float(self.config.noise))

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        with torch.no_grad():
            target = self.td_target(batch, rng)
        metrics, priorities = self.learn_critics(batch, target.values, target.probs, rng)
        if self.policy_due:
            # The gradient of the first critic alone (section 5.2).
            actor = -self.action_value(batch.obs, self.policy.action(batch.obs), members=slice(1)).mean()
            self.improve_policy(actor)
            metrics["loss/actor"] = actor.detach()
        self.finish_step(rng)
        return Update(metrics, priorities)

    def td_target(self, batch: Columns, rng: np.random.Generator) -> Atoms:
        """Return r + discount * Z'(s', smoothed pi'(s')): (N, M)."""
        next_return = self.next_return(batch.next_obs, self.next_action(batch.next_obs, rng), rng)
        return Atoms(bellman(batch.reward, batch.discount, next_return.values), next_return.probs)

    def next_action(self, obs: Tree, rng: np.random.Generator) -> Tensor:
        """Return clip(pi'(s') + clip(noise, -c, c)) in unit actions (N, size): eq. 14."""
        action: Tensor = self.target_policy.action(obs)
        if not self.config.target_noise:
            return action
        bound = self.config.target_noise_clip
        noise = self.config.target_noise * rng.standard_normal(tuple(action.shape), dtype=np.float32)
        return (action + self.draw(noise.clip(-bound, bound))).clamp_(-1.0, 1.0)
