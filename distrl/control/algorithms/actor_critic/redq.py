"""Many gradient steps per environment step: randomized ensembles, with resets where they are wanted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distrl.base.registry import register
from distrl.control.algorithms.actor_critic.sac import SAC, SACConfig


class REDQConfig(SACConfig):
    """SAC at a high replay ratio: an ensemble, targets from a random pair of it, the policy moved once a round."""

    replay_ratio: float = Field(20.0, gt=0, le=1000)
    """Gradient steps per environment step, exactly, over the run. Usual: 2-20."""
    critics: int = Field(10, ge=1, le=100)
    """Networks in the ensemble. Usual: 10, or 2 with `layer_norm` or `reset_every`."""
    ensemble: Literal["min", "mean", "truncate", "quantile_min", "subset"] = "subset"
    """How the critics' laws make one target. REDQ: the minimum over `subset` of them, drawn at each step."""
    policy_interval: int = Field(20, ge=1)
    """Gradient steps of the critics between two of the policy. REDQ: as `replay_ratio`."""


@register.algorithm(
    "redq",
    paper="Randomized Ensembled Double Q-Learning, Chen et al. 2021; resets: Nikishin et al. 2022",
)
class REDQ(SAC):
    """Randomized ensembled double Q-learning. Chen et al. 2021, algorithm 1: the actor sees the mean of all critics."""

    Config = REDQConfig
