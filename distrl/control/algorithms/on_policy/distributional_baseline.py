"""Distributional baselines of policy gradients: any critic head for A2C, PPO, IMPALA, ...

Advantages use the value (mean or risk measure) of each state's return distribution, which learns from lambda-targets.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.control.algorithms.on_policy.base import OnPolicy
from distrl.control.models.critic import DistributionalCritic
from distrl.functional.returns.lambda_targets import lambda_atoms, replacement_size
from distrl.functional.returns.state_values import Steps, gae, vtrace


class BaselineConfig(AlgorithmConfig):
    """Keys of algorithms whose baseline may be a return distribution."""

    critic_head: ReturnHeadConfig = ReturnHeadConfig()
    """Return distribution of the critic: `scalar` (the mean), `quantile`, `categorical`, `iqn`, `gaussian`, ... A word,
    or `{name: quantile, size: 64}`."""
    risk: RiskConfig = RiskConfig()
    """Value of a state under the critic's distribution, for advantages: `mean`, or for example
    `{name: cvar, level: 0.5}`. Only with a `critic_head` other than scalar."""

    @model_validator(mode="after")
    def _distributions_have_limits(self) -> BaselineConfig:
        if self.critic_head.name == "scalar":
            if self.risk.name != "mean":
                raise ConfigError(
                    f"risk {self.risk.name} with critic_head scalar: a mean has no risk.", "Use critic_head=quantile."
                )
            return self
        for key in ("rho_bar", "c_bar"):
            if getattr(self, key, 1.0) != 1.0:
                raise ConfigError(
                    f"{key} {getattr(self, key):g} with critic_head {self.critic_head.name}: distributions are "
                    "mixed with weights clipped at 1.",
                    f"Use {key}=1, or critic_head=scalar.",
                )
        return self


def with_gae(algorithm: OnPolicy, rollout: Columns) -> Columns:
    """Add advantage, returns and value (T, B) by GAE, and the critic's distribution targets."""
    outputs, values = critic_steps(algorithm, rollout)
    advantage, returns = gae(values, algorithm.config.gamma, algorithm.config.lam)
    targets = distribution_targets(algorithm, outputs)
    algorithm.support.observe(returns)
    return rollout.with_(advantage=advantage, returns=returns, value=values.value, **targets)


def with_vtrace(algorithm: OnPolicy, rollout: Columns, log_ratio: Tensor) -> Columns:
    """Add the same columns by V-trace, given log pi - log mu (T, B) of the actions."""
    config = algorithm.config
    outputs, values = critic_steps(algorithm, rollout)
    trace = vtrace(values, log_ratio, config.gamma, config.lam, config.rho_bar, config.c_bar)
    targets = distribution_targets(algorithm, outputs, log_ratio)
    algorithm.support.observe(trace.vs)
    return rollout.with_(advantage=trace.advantage, returns=trace.vs, value=values.value, **targets)


def critic_steps(algorithm: OnPolicy, rollout: Columns) -> tuple[Steps, Steps]:
    """Return the steps of a rollout with the critic's outputs, and with its values."""
    outputs = Steps(rollout.reward, *algorithm.critic_forward(rollout), rollout.terminated, rollout.truncated)
    value = algorithm.model.critic.value
    return outputs, outputs._replace(value=value(outputs.value), next_value=value(outputs.next_value))


def distribution_targets(algorithm: OnPolicy, outputs: Steps, log_ratio: Tensor | None = None) -> dict[str, Tensor]:
    """Return the columns target_values and target_probs (T, B, M); none for a scalar critic.

    Args:
        outputs: Values are parameters (T, B, P) of return distributions.
        log_ratio: (T, B) log pi - log mu of the actions of another policy, to correct for it.
    """
    critic, config = algorithm.model.critic, algorithm.config
    if not isinstance(critic, DistributionalCritic):
        return {}
    size = replacement_size(critic.distribution)
    draws = algorithm.rng.random((*outputs.reward.shape, size), dtype=np.float32)  # of particles after their successors
    uniform = torch.from_numpy(draws).to(outputs.value.device) if size else None
    targets = lambda_atoms(critic.distribution, outputs, config.gamma, config.lam, uniform, log_ratio)
    return {"target_values": targets.values, "target_probs": targets.probs}
