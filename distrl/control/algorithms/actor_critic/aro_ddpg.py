"""Average reward instead of discounting: an off-policy deterministic actor-critic."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.actor_critic.td3 import TD3, TD3Config
from distrl.functional.atoms import Atoms
from distrl.models.parameters.trained import TrainedModule


class ARODDPGConfig(TD3Config):
    """TD3's keys; there is no discount, and rewards are not summed over steps."""

    gamma: Scheduled[float] = Field(1.0, ge=1, le=1)
    """Always 1: the average reward takes the place of a discount."""
    n_step: int = Field(1, ge=1, le=1)
    """Always 1."""
    target_noise: float = Field(0.0, ge=0)
    """Standard deviation of the noise on next actions in targets. ARO-DDPG: 0."""
    average_learning_rate: float | None = Field(None, ge=0)
    """Step size of the average reward; null is `learning_rate`. Usual: 3e-4 to 1e-3."""
    reset_reward: float = 0.0
    """Added to the reward of a step that truly ends an episode: the cost of a reset. Usual: 0, or below."""


@register.algorithm(
    "aro_ddpg",
    paper="Off-Policy Average Reward Actor-Critic with Deterministic Policy Search, Saxena et al. 2023",
    entries=[53],
)
class ARODDPG(TD3):
    """Average-reward off-policy DDPG. Saxena et al. 2023, algorithm 1.

    Differential values Q(s, a) = r - rho + Q(s', pi(s')) of a continuing task: the reset after a true end is a step.
    """

    Config = ARODDPGConfig
    goes_on_after_ends = True

    def make_modules(self) -> dict[str, TrainedModule]:
        modules = super().make_modules()
        modules["number"] = TrainedModule(self.model.number, target=True, eps=self.config.adam_eps)
        self.average, self.target_average = self.model.number.value, modules["number"].target.value
        return modules

    def td_target(self, batch: Columns, rng: np.random.Generator) -> Atoms:
        """Return r - rho' + Z'(s', pi'(s')): (N, M); s' of a true end follows the reset."""
        next_return = self.next_return(batch.next_obs, self.next_action(batch.next_obs, rng), rng)
        reward = batch.reward
        if self.config.reset_reward:
            reward = reward + self.config.reset_reward * (batch.discount == 0)
        values = reward.unsqueeze(-1) + next_return.values
        self.learn_average(batch, (values * next_return.probs).sum(-1))
        return Atoms(values - self.target_average, next_return.probs)

    def learn_average(self, batch: Columns, next_values: Tensor) -> None:
        """Take one step on (r + min Q'(s', pi'(s')) - min Q'(s, a) - rho)^2 / 2."""
        values = self.distribution.mean(self.target_critics(batch.obs, self.scale.to_unit(batch.action))).amin(0)
        gradient = (self.average - (next_values - values).mean()).detach()
        self.step_number(gradient, self.config.average_learning_rate)

    def diagnose(self, rollout: Columns) -> dict[str, float]:
        return super().diagnose(rollout) | {"policy/average_reward": float(self.average.detach())}
