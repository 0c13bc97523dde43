"""Soft actor-critic."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.control.algorithms.actor_critic.base import ContinuousConfig, ContinuousLearner
from distrl.functional.atoms import bellman
from distrl.learning.algorithm import Update
from distrl.models.parameters.trained import TrainedModule


class SACConfig(ContinuousConfig):
    """Soft actor-critic; the temperature is learned unless it is given."""

    temperature: float | None = Field(None, gt=0)
    """Weight of the entropy, fixed; null learns it. In units of reward. Usual: null, or 0.05-0.2."""
    first_temperature: float = Field(1.0, gt=0)
    """Initial value of a learned temperature. Usual: 0.1-1."""
    target_entropy: float | None = None
    """Entropy that a learned temperature aims at, in nats, of actions scaled to (-1, 1). Default: minus the number of
    actions. Lower acts more decidedly."""
    temperature_learning_rate: float | None = Field(None, ge=0)
    """Step size of the temperature; null is `learning_rate`."""
    state_dependent: bool = False
    """Explore with a matrix over the policy's features, redrawn at each update, instead of independent noise:
    smooth motion, for robots (gSDE)."""
    log_std_init: float = Field(-3.0, ge=-20, le=2)
    """state_dependent: first log standard deviation of that matrix. Usual: -3."""


@register.algorithm("sac", paper="Soft Actor-Critic Algorithms and Applications, Haarnoja et al. 2018")
class SAC(ContinuousLearner):
    """Soft actor-critic. Haarnoja et al. 2018, eq. 5, 9, 18; two critics: Fujimoto et al. 2018."""

    Config = SACConfig

    @classmethod
    def policy_options(cls, config: SACConfig) -> dict[str, object]:  # type: ignore[override]
        return {"state_dependent": config.state_dependent, "log_std_init": config.log_std_init}

    @classmethod
    def first_number(cls, config: SACConfig) -> float:  # type: ignore[override]
        return math.log(config.temperature or config.first_temperature)

    def make_modules(self) -> dict[str, TrainedModule]:
        modules = super().make_modules()
        self.log_temperature = self.model.number.value
        wanted = self.config.target_entropy
        self.target_entropy = float(-self.policy.actions.size if wanted is None else wanted)
        if self.config.temperature is None:
            modules["number"] = TrainedModule(self.model.number, eps=self.config.adam_eps)
        return modules

    def set_exploration(self, rng: np.random.Generator) -> None:
        self.policy.explore(warmup=self.warming_up)
        if self.policy.state_dependent:
            shape = tuple(self.policy.exploration.shape)
            self.policy.new_exploration(self.draw(rng.standard_normal(shape, dtype=np.float32)))

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        shape = (2, len(batch.reward), self.policy.actions.size)  # for next actions and for the actor's loss
        noise = self.draw(rng.standard_normal(shape, dtype=np.float32))
        temperature = self.log_temperature.detach().exp()
        with torch.no_grad():
            next_action, next_logp = self.policy.sample(batch.next_obs, noise[0])
            next_return = self.next_return(batch.next_obs, next_action, rng)
            soft = next_return.values - (temperature * next_logp).unsqueeze(-1)
            values = bellman(batch.reward, batch.discount, soft)  # eq. 5 with a sampled action
        metrics, priorities = self.learn_critics(batch, values, next_return.probs, rng)
        if self.policy_due:
            action, logp = self.policy.sample(batch.obs, noise[1])
            actor = (temperature * logp - self.action_value(batch.obs, action)).mean()  # eq. 9
            self.improve_policy(actor)
            entropy = -logp.detach().mean()
            if self.config.temperature is None:  # eq. 18 with log alpha in place of alpha
                self.step_number(entropy - self.target_entropy, self.config.temperature_learning_rate)
            metrics |= {"loss/actor": actor.detach(), "policy/entropy": entropy, "policy/temperature": temperature}
        self.finish_step(rng)
        return Update(metrics, priorities)
