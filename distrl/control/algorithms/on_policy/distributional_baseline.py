"""Return distributions as the baselines of policy gradients: any head for A2C, PPO, APPO and IMPALA.

The critic gives a law for each state. Advantages use its value (its mean, or its risk: entry 10), and it learns from
lambda-targets that are laws themselves (`functional.returns.lambda_targets`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.control.models.critic import LawCritic
from distrl.functional.returns.lambda_targets import lambda_atoms, replacement_size
from distrl.functional.returns.state_values import gae, vtrace


class LawConfig(AlgorithmConfig):
    """Keys of algorithms whose baseline may be a return distribution."""

    critic_head: ReturnHeadConfig = ReturnHeadConfig()
    """What the critic says about the return: `scalar` (its mean), or a distribution: `quantile`, `categorical`, `iqn`,
    `gaussian`, ... A word, or `{name: quantile, size: 64}`."""
    risk: RiskConfig = RiskConfig()
    """What a state is worth under the critic's law: `mean`, or for example `{name: cvar, level: 0.5}`. Advantages are
    made with it. Only with a `critic_head` other than scalar."""

    @model_validator(mode="after")
    def _laws_have_limits(self) -> LawConfig:
        if self.critic_head.name == "scalar":
            if self.risk.name != "mean":
                raise ConfigError(
                    f"risk {self.risk.name} with critic_head scalar: a mean has no risk.", "Use critic_head=quantile."
                )
            return self
        for key in ("rho_bar", "c_bar"):
            if getattr(self, key, 1.0) != 1.0:
                raise ConfigError(
                    f"{key} {getattr(self, key):g} with critic_head {self.critic_head.name}: laws are mixed with "
                    "weights clipped at 1.",
                    f"Use {key}=1, or critic_head=scalar.",
                )
        return self


def with_gae(algorithm: Any, rollout: Columns) -> Columns:
    """Add advantage, returns and value (T, B) by generalized advantage estimation, and the critic's law_targets.

    Args:
        algorithm: Its config has gamma and lam.
        rollout: (T, B).
    """
    critic, gamma, lam = algorithm.model.critic, algorithm.config.gamma, algorithm.config.lam
    now, following = algorithm.critic_forward(rollout)
    value, next_value = critic.value(now), critic.value(following)
    advantage, returns = gae(rollout.reward, value, next_value, rollout.terminated, rollout.truncated, gamma, lam)
    laws = law_targets(critic, rollout, now, following, algorithm.rng, gamma, lam)
    algorithm.support.observe(returns)
    return rollout.with_(advantage=advantage, returns=returns, value=value, **laws)


def with_vtrace(algorithm: Any, rollout: Columns, log_ratio: Tensor) -> Columns:
    """Add the same columns by V-trace, for data of another policy.

    Args:
        algorithm: Its config has gamma, lam, rho_bar and c_bar.
        rollout: (T, B).
        log_ratio: (T, B) log pi - log mu of the actions taken.
    """
    critic, config = algorithm.model.critic, algorithm.config
    now, following = algorithm.critic_forward(rollout)
    value = critic.value(now)
    trace = vtrace(
        rollout.reward,
        value,
        critic.value(following),
        rollout.terminated,
        rollout.truncated,
        log_ratio,
        gamma=config.gamma,
        lam=config.lam,
        rho_bar=config.rho_bar,
        c_bar=config.c_bar,
    )
    laws = law_targets(critic, rollout, now, following, algorithm.rng, config.gamma, config.lam, log_ratio)
    algorithm.support.observe(trace.vs)
    return rollout.with_(advantage=trace.advantage, returns=trace.vs, value=value, **laws)


def law_targets(
    critic: Any,
    rollout: Columns,
    now: Tensor,
    following: Tensor,
    rng: np.random.Generator,
    gamma: float,
    lam: float,
    log_ratio: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a critic's laws learn from, as columns; nothing for a scalar critic.

    Args:
        critic: The model's critic.
        rollout: (T, B).
        now: Parameters (T, B, P) of each step's law.
        following: Parameters (T, B, P) of the law that each step bootstraps from.
        rng: Draws which particles follow their successors.
        gamma, lam: Discount and trace decay.
        log_ratio: (T, B) log pi - log mu of the actions taken, to correct for data of another policy (V-trace).

    Returns:
        target_values and target_probs (T, B, M).
    """
    if not isinstance(critic, LawCritic):
        return {}
    size = replacement_size(critic.law)
    uniform = torch.from_numpy(rng.random((*rollout.reward.shape, size), dtype=np.float32)).to(now.device)
    targets = lambda_atoms(
        critic.law,
        now,
        following,
        rollout.reward,
        rollout.terminated,
        rollout.truncated,
        gamma,
        lam,
        uniform if size else None,
        log_ratio,
    )
    return {"target_values": targets.values, "target_probs": targets.probs}
