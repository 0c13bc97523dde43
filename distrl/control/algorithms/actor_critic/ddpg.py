"""Deep deterministic policy gradient."""

from __future__ import annotations

from pydantic import Field

from distrl.base.registry import register
from distrl.control.algorithms.actor_critic.td3 import TD3, TD3Config


class DDPGConfig(TD3Config):
    """TD3 without its additions: one critic, no delay, no smoothing."""

    critics: int = Field(1, ge=1, le=100)
    """Networks in the ensemble. DDPG has one."""
    policy_interval: int = Field(1, ge=1)
    """Gradient steps of the critics between two of the policy. DDPG: 1."""
    target_interval: int = Field(1, ge=1)
    """Gradient steps between two updates of the target networks. DDPG: 1."""
    target_noise: float = Field(0.0, ge=0)
    """Standard deviation of the noise on next actions in targets. DDPG: 0."""


@register.algorithm(
    "ddpg",
    paper="Continuous control with deep reinforcement learning, Lillicrap et al. 2016",
)
class DDPG(TD3):
    """Deep deterministic policy gradient. Lillicrap et al. 2016, with independent Gaussian noise for exploration."""

    Config = DDPGConfig
