"""Policy objectives and value losses, one number per element, without averages or masks.

Objectives are MAXIMIZED, losses and penalties MINIMIZED: a learner's loss is
`-batch.mean(objective) + batch.mean(loss)`. Gradients also flow into `advantage`, `returns` and weights that require
them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def policy_gradient(logp: Tensor, advantage: Tensor) -> Tensor:
    """Objective, maximized: advantage * log pi(a|s). Williams 1992."""
    return advantage * logp


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float, dual_clip: float | None = None) -> Tensor:
    """Objective, maximized: PPO's clipped surrogate. Schulman et al. 2017, eq. 7.

    min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) with ratio = pi(a|s) / pi_old(a|s): no gradient beyond `clip` in the
    direction of the advantage.

    Args:
        clip: eq. 7's epsilon.
        dual_clip: Bound c > 1 of Ye et al. 2020: where A < 0 the objective is at least c A, which bounds the effect of
            one stale sample with a huge ratio.

    >>> clipped_surrogate(torch.tensor([1.3, 1.3, 0.7, 0.7]), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    tensor([ 1.2000, -1.3000,  0.7000, -0.8000])
    """
    # The same as with the clipped ratio: where A > 0 only 1 + clip can bind, where A < 0 only 1 - clip, so the bound is
    # A + clip |A|. It is a constant, which halves the work of the gradient.
    objective = torch.minimum(ratio * advantage, advantage + clip * advantage.abs())
    if dual_clip is None:
        return objective
    return torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)


def spo_objective(ratio: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """Objective, maximized: Simple Policy Optimization. Xie et al. 2024.

    ratio A - |A| / (2 eps) (ratio - 1)^2: each sample's optimum is ratio = 1 + sign(A) eps, and beyond it the gradient
    pulls back, where PPO's is zero.
    """
    return ratio * advantage - advantage.abs() / (2.0 * eps) * (ratio - 1.0).square()


def adapt_kl_coefficient(coefficient: float, kl: float, target: float) -> float:
    """Halve the coefficient for kl < target / 1.5, double it above 1.5 target.

    Schulman et al. 2017, section 4.
    """
    if kl < target / 1.5:
        return coefficient / 2.0
    return coefficient * 2.0 if kl > target * 1.5 else coefficient


@torch.no_grad()
def truncated_importance_weight(log_ratio: Tensor, bar: float) -> Tensor:
    """Compute min(bar, exp(log_ratio)) without gradient, as in V-trace.

    `log_ratio` is log pi - log mu of the actions taken; `bar` inf truncates nothing.
    """
    return log_ratio.exp().clamp(max=bar)


def value_loss(value: Tensor, returns: Tensor) -> Tensor:
    """Loss, minimized: (value - returns)^2 / 2."""
    return 0.5 * F.mse_loss(value, returns, reduction="none")


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Loss, minimized: half the larger squared error of the value and of the clipped value.

    max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2, in units of the return. None does not clip.
    """
    if clip is None:
        return value_loss(value, returns)
    near = old_value + torch.clamp(value - old_value, -clip, clip)
    return torch.maximum(value_loss(value, returns), value_loss(near, returns))
