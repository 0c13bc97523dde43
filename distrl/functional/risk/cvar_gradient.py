"""CeSoR: CVaR policy gradients, soft risk, cross-entropy sampling. Greenberg et al. 2022.

Plain CVaR gradients use the worst episodes only and so never learn from early successes. CeSoR lowers the level slowly
from the mean (soft risk), and oversamples hard conditions (cross entropy), with importance weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distrl.functional.atoms import LEVEL_TOLERANCE
from distrl.functional.risk.measures import in_unit


def soft_risk_level(iteration: int, iterations: int, level: float, share: float = 0.8) -> float:
    """Anneal the level from 1 to `level`, linearly over the first `share` of all iterations.

    >>> [round(soft_risk_level(m, 100, 0.1), 4) for m in (0, 40, 80, 100)]
    [1.0, 0.55, 0.1, 0.1]
    """
    level = in_unit("cesor", "level", level)
    progress = min(iteration / (share * iterations), 1.0)
    return 1.0 - progress * (1.0 - level)


def clipped_weight(log_ratio: Tensor, from_source: Tensor, bound: float = 5.0) -> Tensor:
    """Compute importance weights: 1 for the source, else the ratio clipped to [1/bound, bound].

    Args:
        log_ratio: log source density - log sampling density of each episode's condition, (N,).
        from_source: (N,) bool.
    """
    ratio = log_ratio.exp().clamp(1.0 / bound, bound)
    return torch.where(from_source, torch.ones_like(ratio), ratio)


class CVaRGradient(NamedTuple):
    """Coefficients of a CVaR policy gradient.

    Attributes:
        coefficient: (N,); the loss is -(coefficient * log P(episode)).sum().
        threshold: q, the level-quantile of returns that the coefficients are relative to.
    """

    coefficient: Tensor
    threshold: Tensor


def cvar_gradient(returns: Tensor, weight: Tensor, level: float, from_source: Tensor | None = None) -> CVaRGradient:
    """Compute the policy gradient of CVaR: 1{R < q} w (R - q) / sum(1{R < q} w).

    Tamar et al. 2015. At level 1 it is REINFORCE with the batch mean as baseline, over all episodes.

    Args:
        returns: R of each episode, (N,).
        weight: Importance weights, (N,).
        level: In (0, 1].
        from_source: Episodes whose quantile is q, (N,) bool; None, or none of them true, takes all.
    """
    level = in_unit("cesor", "level", level)
    reference = returns if from_source is None or not bool(from_source.any()) else returns[from_source]
    if level >= 1.0 - LEVEL_TOLERANCE:
        threshold, used = returns.mean(), torch.ones_like(weight)
    else:
        threshold = reference.quantile(level)
        used = (returns < threshold).to(weight.dtype)
    share = used * weight
    total = share.sum()
    safe = torch.where(total > 0, total, torch.ones_like(total))  # all returns equal: nothing lies below q
    return CVaRGradient(share * (returns - threshold) / safe, threshold)


def worst_conditions_mean(
    conditions: Tensor,
    returns: Tensor,
    weight: Tensor,
    from_source: Tensor,
    level: float,
    tail: float = 0.2,
    source_share: float = 0.2,
) -> Tensor:
    """Compute the cross-entropy step: the weighted mean condition of the worst episodes.

    Worst means below max(q_tail, q_level): the tail (1 - source_share) quantile of the batch, and the level-quantile of
    source episodes. Weights keep the sampler from collapsing onto the single worst condition. For a Beta(2 m, 2 - 2 m)
    sampler the result is m. It is clipped to [0.001, 0.999].

    Args:
        conditions: In [0, 1], (N,) or (N, C).
        level: The final level of the objective, not the soft one.
    """
    reference = returns[from_source] if bool(from_source.any()) else returns
    bound = torch.maximum(returns.quantile(tail * (1.0 - source_share)), reference.quantile(level))
    share = weight * (returns < bound)
    if not bool(share.sum() > 0):
        share = weight * (returns <= bound)
    share = (share / share.sum()).reshape(-1, *[1] * (conditions.ndim - 1))
    return (share * conditions).sum(0).clamp(0.001, 0.999)
