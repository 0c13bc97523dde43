"""Advantages normalized over the whole batch, over prompts, or over several rewards.

All statistics are of the tensors given: a learner calls these once on the whole batch, before it is split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.advantages.group import centers, compared, grpo, scaled
from distrl.language.chain.groups import Groups, as_double, like, outcome_entropy
from distrl.language.chain.tokens import masked_standardize, scan_trainable, to_tokens


@register.advantage("batch_normalized", paper="Hu 2025; TTRV, 2025", entries=[119])
def batch_normalized(reward: Tensor, *, ddof: int = 0, eps: float = 1e-8) -> Tensor:
    """(reward - batch mean) / (batch std + eps), whatever the groups; 0 where nothing varies. (R,)."""
    return masked_standardize(reward, torch.ones_like(reward, dtype=torch.bool), eps, ddof)


@register.advantage("reinforce_plus_plus", paper="REINFORCE++, Hu 2025")
def reinforce_plus_plus(
    token_reward: Tensor, mask: Tensor, *, gamma: float = 1.0, ddof: int = 0, eps: float = 1e-8
) -> Tensor:
    """Reward to go, standardized over all trainable tokens of the batch. (N, L). One answer a prompt is enough.

    Args:
        token_reward: (N, L), with the KL penalty inside: credit `kl_penalized_outcome`.
        gamma: Discount from one trainable token to the next.
    """
    return masked_standardize(scan_trainable(token_reward, gamma, mask), mask, eps, ddof)


@register.advantage("reinforce_plus_plus_baseline", paper="REINFORCE++, Hu 2025")
def reinforce_plus_plus_baseline(
    reward: Tensor, group: Tensor, mask: Tensor, *, ddof: int = 0, eps: float = 1e-8, allow_singleton: bool = False
) -> Tensor:
    """reward - group mean, standardized over all trainable tokens of the batch. (N, L)."""
    groups, value = compared(group, allow_singleton), as_double(reward)
    centered = value - groups.spread(centers(value, groups))
    return like(masked_standardize(to_tokens(centered, mask), mask, eps, ddof), reward)


@register.advantage("bnpo", paper="Beta Normalization Policy Optimization, 2025", entries=[39])
def bnpo(
    reward: Tensor,
    group: Tensor,
    *,
    alpha: float | None = None,
    beta: float | None = None,
    largest: float = 1e6,
    allow_singleton: bool = False,
) -> Tensor:
    """(reward - group mean) / Beta density of the group mean, the density fitted to the batch's prompts. (R,).

    alpha = beta = 1 is the plain mean baseline, alpha = beta = 3/2 is GRPO up to the constant 8 / pi.

    Args:
        reward: (R,) in [0, 1].
        alpha: Parameters of the density; None: `beta_parameters` of the group means.
    """
    groups, value = compared(group, allow_singleton), as_double(reward)
    if bool(((value < 0) | (value > 1)).any()):
        raise ConfigError(
            f"bnpo normalizes success rates: rewards must lie in [0, 1], found {float(value.min()):g} to"
            f" {float(value.max()):g}.",
            "Use one component with weight 1, or the advantage bnpo_components.",
        )
    rate = groups.mean(value)
    fitted = beta_parameters(rate)
    weight = (1.0 / beta_density(rate, alpha or fitted[0], beta or fitted[1])).clamp(0.0, largest)
    deviation = value - groups.spread(centers(value, groups))
    return like(torch.where(deviation == 0, deviation, deviation * groups.spread(weight)), reward)


def beta_parameters(rate: Tensor) -> tuple[float, float]:
    """BNPO's normalizer for success rates (Q,): moments give Beta(a, b), then alpha = 1 + a / 3, beta = 1 + b / 3.

    Both at least 1; exactly 1 for fewer than two prompts, or where all prompts have one rate.
    """
    if len(rate) < 2:
        return 1.0, 1.0
    mean, variance = float(rate.double().mean()), float(rate.double().var())
    if variance < 1e-12:
        return 1.0, 1.0
    size = mean * (1.0 - mean) / variance - 1.0
    return max(1.0, 1.0 + size * mean / 3.0), max(1.0, 1.0 + size * (1.0 - mean) / 3.0)


def beta_density(p: Tensor, alpha: float, beta: float) -> Tensor:
    """Density of Beta(alpha, beta) at p, same shape, float64."""
    norm = math.exp(math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta))
    return p.double() ** (alpha - 1.0) * (1.0 - p.double()) ** (beta - 1.0) / norm


@register.advantage("bnpo_components", paper="Beta Normalization Policy Optimization, 2025", entries=[39])
def bnpo_components(
    components: Tensor, group: Tensor, *, weights: Sequence[float] | None = None, allow_singleton: bool = False
) -> Tensor:
    """BNPO for several rewards: weighted sum, or mean, over components. (R,).

    Args:
        components: (R, K), each in [0, 1].
        weights: K of them; None: the components' mean.
    """
    each = torch.stack([bnpo(one, group, allow_singleton=allow_singleton) for one in components.unbind(1)], dim=1)
    return each.mean(1) if weights is None else each @ torch.tensor(weights).to(each)


@register.advantage("gdpo", paper="GDPO, 2025", entries=[146])
def gdpo(
    components: Tensor,
    group: Tensor,
    *,
    weights: Sequence[float] | None = None,
    ddof: int = 1,
    eps: float = 1e-4,
    missing: str = "exclude",
    normalize_batch: bool = True,
    all_equal: str = "zero",
    allow_singleton: bool = False,
) -> Tensor:
    """Weighted sum of rewards normalized in their groups, then normalized over the batch. (R,).

    Args:
        components: (R, K); NaN where a reward does not apply to a row.
        missing: A row without a reward gets advantage 0 from it; its group's statistics leave it out (`exclude`) or
            take it as 0 (`zero`, the public code).
        normalize_batch: False stops before the batch normalization. With one reward there never is one: it is GRPO.
    """
    compared(group, allow_singleton)  # checked on the group as sampled, not on the rows that a reward applies to
    total = torch.zeros(len(components), dtype=torch.float64, device=components.device)
    for k, component in enumerate(as_double(components).unbind(1)):
        known = ~component.isnan()
        kept = known if missing == "exclude" else torch.ones_like(known)
        rows = torch.nonzero(kept).squeeze(1)
        advantage = grpo(
            component.nan_to_num()[rows], group[rows], ddof=ddof, eps=eps, all_equal=all_equal, allow_singleton=True
        )
        alone = Groups(group[rows])
        if missing == "exclude":  # the only row of its group that has this reward: nothing to compare it with
            lonely = alone.spread(alone.count) == 1
            advantage = advantage.masked_fill(lonely & ~_alone(group)[rows], 0.0)
        weight = 1.0 if weights is None else float(weights[k])
        total = total + weight * torch.zeros_like(total).index_add(0, rows, advantage.double())
    if components.shape[1] > 1 and normalize_batch:
        total = batch_normalized(total, ddof=ddof, eps=eps)
    return like(total, components)


def _alone(group: Tensor) -> Tensor:
    """(R,) bool: rows that are their whole group."""
    groups = Groups(group)
    return groups.spread(groups.count) == 1


@register.advantage("process_grpo", paper="GRPO with process rewards, Shao et al. 2024")
def process_grpo(
    token_reward: Tensor, step_end: Tensor, group: Tensor, mask: Tensor, *, ddof: int = 1, eps: float = 1e-6
) -> Tensor:
    """Step rewards normalized over a group, summed from each token to the end. (N, L).

    Args:
        token_reward: (N, L), read where `step_end` holds.
        step_end: (N, L) bool, the trainable token that ends a step.
    """
    ends = step_end & mask
    value = as_double(token_reward)[ends]
    groups = Groups(group[:, None].expand(ends.shape)[ends])
    normalized = scaled(value - groups.spread(centers(value, groups)), value, groups, ddof, eps, "zero")
    steps = torch.zeros_like(token_reward, dtype=torch.float64).masked_scatter(ends, normalized)
    return like(scan_trainable(steps, 1.0, mask), token_reward)


@register.advantage("copo_global", paper="COPO, 2025", entries=[108])
def copo_global(
    reward: Tensor,
    group: Tensor,
    answer: Tensor | None = None,
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    entropy_penalty: float = 0.0,
) -> Tensor:
    """The prompt's mean reward standardized over the prompts of the batch. (R,).

    Args:
        answer: (R,) int64 ids, needed for the penalty only.
        entropy_penalty: lam: mean rewards are multiplied by 1 - lam * entropy of the answers first.
    """
    groups = Groups(group)
    rate = groups.mean(as_double(reward))
    if entropy_penalty and answer is not None:
        rate = rate * (1.0 - entropy_penalty * outcome_entropy(answer, groups)[1])
    return like(groups.spread(batch_normalized(rate, ddof=ddof, eps=eps)), reward)
